//! What other programs are given to watch relayd with.

mod alerts;
mod grafana;

pub use self::alerts::alerts;
pub use self::grafana::dashboard;

/// Rules by name, as PromQL matches them: `web|tokyo\\.1`. Of what a name may have in it only dots mean something there.
fn any_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let escaped: Vec<String> = names.map(|name| name.replace('.', "\\\\.")).collect();
    escaped.join("|")
}

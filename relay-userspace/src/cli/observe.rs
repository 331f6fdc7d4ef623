//! `relayctl observe`: the question, and how what happens is printed, line by line.

use std::path::Path;

use super::args::{Format, Observe, Output};
use super::commands::write_on;
use super::{Exit, print};
use crate::accounting::calendar::time_of_day;
use crate::api::client::Client;
use crate::api::observe::ObservedView;
use crate::observe::Kind;

/// Prints until it has printed so many, nobody reads any more, or relayd ends.
pub async fn run(socket: &Path, output: Output, asked: &Observe) -> anyhow::Result<Exit> {
    let mut client = Client::connect(socket).await?;
    let mut events = client.follow(&path(asked)).await?;
    let printer = Printer { output };
    if !write_on(&printer.head())? {
        return Ok(Exit::Done);
    }
    let mut left = asked.count;
    while left != Some(0) {
        let Some(view) = events.next::<ObservedView>().await? else {
            anyhow::bail!("relayd has ended the stream; it has stopped, or was started anew");
        };
        if !write_on(&printer.line(&view))? {
            break;
        }
        if view.event != ObservedView::LOST {
            left = left.map(|left| left - 1);
        }
    }
    Ok(Exit::Done)
}

/// What relayd is asked. Everything in it has been read by its grammar and needs no escaping.
fn path(asked: &Observe) -> String {
    let kinds = kinds(asked);
    let named = [
        ("rule", asked.name.as_ref().map(ToString::to_string)),
        ("client", asked.client.clone()),
        ("protocol", asked.protocol.clone()),
        ("plane", asked.plane.clone()),
        ("kind", (!kinds.is_empty()).then(|| kinds.join(","))),
    ];
    let pairs = named.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    let pairs: Vec<String> = pairs.collect();
    if pairs.is_empty() { "/v1/observe".into() } else { format!("/v1/observe?{}", pairs.join("&")) }
}

/// Empty: all of them.
fn kinds(asked: &Observe) -> Vec<&str> {
    let chosen =
        |is_drop| Kind::ALL.into_iter().filter(move |kind| kind.is_drop() == is_drop).map(Kind::as_str);
    match (asked.drops, asked.flows) {
        (true, false) => chosen(true).collect(),
        (false, true) => chosen(false).collect(),
        (true, true) => Vec::new(),
        (false, false) => asked.kind.iter().map(String::as_str).collect(),
    }
}

struct Printer {
    output: Output,
}

impl Printer {
    /// What comes before all lines.
    fn head(&self) -> String {
        match self.output.format() {
            Format::Json => String::new(),
            Format::Tsv => self.separated(TSV),
            Format::Table | Format::Wide => {
                columns(["TIME (UTC)", "EVENT", "RULE", "PLANE", "PROTO"], "WHO AND WHY")
            }
        }
    }

    fn line(&self, view: &ObservedView) -> String {
        match self.output.format() {
            Format::Json => serde_json::to_string(view).unwrap_or_default() + "\n",
            Format::Tsv => self.separated(&tsv(view)),
            format => {
                let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
                let (rule, plane, protocol) = (word(&view.rule), word(&view.plane), word(&view.protocol));
                let time = time_of_day(view.time_ms);
                columns([&time, &view.event, &rule, &plane, &protocol], &story(view, format == Format::Wide))
            }
        }
    }

    fn separated(&self, line: &str) -> String {
        if self.output == Output::Csv { print::csv(line) } else { line.to_owned() }
    }
}

/// A line whose columns have their places, as far as the words before them leave room.
fn columns([time, event, rule, plane, protocol]: [&str; 5], rest: &str) -> String {
    format!("{time:<12}  {event:<7}  {rule:<16}  {plane:<6}  {protocol:<5}  {rest}\n")
}

/// What a line says in words.
fn story(view: &ObservedView, is_wide: bool) -> String {
    if view.event == ObservedView::LOST {
        return missing(view);
    }
    let mut text = view.client.clone().unwrap_or_else(|| "-".into());
    if is_wide && let (Some(listen), None) = (&view.listen, view.packets) {
        text += &format!(" by {listen}");
    }
    // a packet is shown with where it was going
    let to = if view.packets.is_some() { &view.listen } else { &view.backend };
    if let Some(to) = to {
        text += &format!(" to {to}");
    }
    let Some(reason) = &view.reason else { return text };
    text += &format!(": {reason}");
    if let (Some(seconds), Some(ingress), Some(egress)) =
        (view.seconds, view.ingress_bytes, view.egress_bytes)
    {
        text += &format!(" after {seconds} s, {} in, {} out", print::size(ingress), print::size(egress));
    }
    if let Some(packets) = view.packets.filter(|&packets| packets > 1) {
        text += &format!(", {packets} packets");
    }
    text
}

fn missing(view: &ObservedView) -> String {
    let (flows, drops) = (view.lost_flows.unwrap_or(0), view.lost_drops.unwrap_or(0));
    let of = |count, noun| (count > 0).then(|| format!("{} of {noun}", grouped(count)));
    let parts: Vec<String> = [of(flows, "flows"), of(drops, "drops")].into_iter().flatten().collect();
    format!("{} events lost: {}", grouped(flows + drops), parts.join(", "))
}

/// `12,345`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const TSV: &str = "time_ms\tevent\trule\tplane\tprotocol\tclient\tlisten\tbackend\treason\tseconds\tingress_bytes\tegress_bytes\tunit\tpackets\tlost_flows\tlost_drops\n";

fn tsv(view: &ObservedView) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let cells = [
        view.time_ms.to_string(),
        view.event.clone(),
        word(&view.rule),
        word(&view.plane),
        word(&view.protocol),
        word(&view.client),
        word(&view.listen),
        word(&view.backend),
        word(&view.reason),
        view.seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
        number(view.ingress_bytes),
        number(view.egress_bytes),
        word(&view.unit),
        number(view.packets),
        number(view.lost_flows),
        number(view.lost_drops),
    ];
    cells.join("\t") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(event: &str) -> ObservedView {
        ObservedView {
            time_ms: 1_793_491_200_118 + 14 * 3_600_000,
            event: event.into(),
            rule: Some("web".into()),
            plane: Some("kernel".into()),
            protocol: Some("tcp".into()),
            client: Some("198.51.100.7:4000".into()),
            listen: Some("198.51.100.1:80".into()),
            ..ObservedView::default()
        }
    }

    fn printed(output: Output, view: &ObservedView) -> String {
        Printer { output }.line(view)
    }

    #[test]
    fn lines_say_who_and_why() {
        let opened = ObservedView { backend: Some("203.0.113.10:8080".into()), ..view("opened") };
        let closed = ObservedView {
            event: "closed".into(),
            reason: Some("idle".into()),
            seconds: Some(1.25),
            ingress_bytes: Some(1536),
            egress_bytes: Some(7),
            ..opened.clone()
        };
        let refused = ObservedView { reason: Some("limit_connections".into()), ..view("refused") };
        let dropped = ObservedView { reason: Some("rate".into()), packets: Some(3), ..view("dropped") };
        let lost = ObservedView { lost_flows: Some(0), lost_drops: Some(12_345), ..ObservedView::default() };
        let lost = ObservedView { event: "lost".into(), ..lost };
        for (view, text) in [
            (&opened, "198.51.100.7:4000 to 203.0.113.10:8080"),
            (&closed, "198.51.100.7:4000 to 203.0.113.10:8080: idle after 1.25 s, 1.5 KiB in, 7 B out"),
            (&refused, "198.51.100.7:4000: limit_connections"),
            (&dropped, "198.51.100.7:4000 to 198.51.100.1:80: rate, 3 packets"),
            (&lost, "12,345 events lost: 12,345 of drops"),
        ] {
            assert_eq!(story(view, false), text);
        }
        assert_eq!(story(&opened, true), "198.51.100.7:4000 by 198.51.100.1:80 to 203.0.113.10:8080");
        assert_eq!(
            printed(Output::Table, &refused),
            "14:00:00.118  refused  web               kernel  tcp    198.51.100.7:4000: limit_connections\n"
        );
    }

    #[test]
    fn every_line_has_the_cells_of_the_head() {
        let cells = |line: &str, by| line.split(by).count();
        assert_eq!(cells(&printed(Output::Tsv, &view("opened")), '\t'), cells(TSV, '\t'));
        assert_eq!(cells(&printed(Output::Csv, &view("opened")), ','), cells(TSV, '\t'));
        assert_eq!(printed(Output::Json, &view("opened")).lines().count(), 1);
    }

    #[test]
    fn what_is_asked_for_goes_into_the_path() {
        let ask = |words: &[&str]| {
            use clap::Parser as _;
            let words = ["relayctl", "observe"].iter().chain(words);
            let cli = crate::cli::args::Cli::parse_from(words);
            let crate::cli::args::Command::Observe(asked) = cli.command else { panic!("{cli:?}") };
            path(&asked)
        };
        assert_eq!(ask(&[]), "/v1/observe");
        assert_eq!(ask(&["web", "--drops"]), "/v1/observe?rule=web&kind=refused,dropped");
        assert_eq!(ask(&["--flows"]), "/v1/observe?kind=opened,proven,closed");
        assert_eq!(ask(&["--flows", "--drops"]), "/v1/observe");
        let ends = ["--kind", "closed,refused", "--client", "198.51.100.0/24", "--plane", "user"];
        assert_eq!(ask(&ends), "/v1/observe?client=198.51.100.0/24&plane=user&kind=closed,refused");
    }

    #[test]
    fn long_numbers_are_grouped() {
        let all = [0, 999, 1000, 12_345, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}

//! `relayctl test`: what a walk has met, for people and for `cut`.

use super::args::Format;
use super::print::json;
use crate::api::view::{StepView, WalkView};

/// All steps, under the backend that they are about.
pub fn walk(view: &WalkView, format: Format) -> String {
    match format {
        Format::Json => json(view),
        Format::Tsv => view.steps.iter().map(row).collect(),
        Format::Table | Format::Wide => {
            let mut whose = None;
            let mut text = format!("rule {}\n", view.rule);
            for step in &view.steps {
                if whose != step.backend {
                    whose.clone_from(&step.backend);
                    text += &format!("{}\n", step.backend.as_deref().unwrap_or_default());
                }
                text += &line(step);
            }
            text + if view.ok { "all is well\n" } else { "something failed\n" }
        }
    }
}

fn line(step: &StepView) -> String {
    let took = step.ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default();
    let result = if step.result == StepView::FAILED { "FAILED" } else { &step.result };
    // a backend by its address is tried at that one alone
    let elsewhere = step.address.as_ref().filter(|address| step.backend.as_ref() != Some(*address));
    let at = elsewhere.map(|address| format!("{address}: ")).unwrap_or_default();
    let see = if step.options.is_empty() { String::new() } else { format!(" [{}]", step.options.join(", ")) };
    format!("  {result:<8}{:<12}{took:>10}  {at}{}{see}\n", step.step, step.text)
}

/// Backend, address, step, result, code, milliseconds, options, text.
fn row(step: &StepView) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let ms = step.ms.map(|ms| ms.to_string()).unwrap_or_default();
    [
        word(&step.backend),
        word(&step.address),
        step.step.clone(),
        step.result.clone(),
        word(&step.code),
        ms,
        step.options.join(","),
        step.text.clone(),
    ]
    .join("\t")
        + "\n"
}

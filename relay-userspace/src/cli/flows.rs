//! `relayctl flows`: the question, and how the answer is printed.

use comfy_table::CellAlignment;

use super::args::{Flows, Format};
use super::print::{json, lines, plain_table, size};
use crate::api::flows::{FlowView, FlowsView};
use crate::api::view::age;

/// What relayd is asked. Everything in it has been read by its grammar and needs no escaping.
pub fn path(flows: &Flows) -> String {
    let named = [
        ("rule", flows.name.as_ref().map(ToString::to_string)),
        ("client", flows.client.clone()),
        ("backend", flows.backend.clone()),
        ("protocol", flows.protocol.clone()),
        ("plane", flows.plane.clone()),
        ("sort", Some(flows.sort.clone())),
        ("limit", Some(flows.limit.to_string())),
    ];
    let pairs = named.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
    format!("/v1/flows?{}", pairs.collect::<Vec<_>>().join("&"))
}

pub fn print(view: &FlowsView, format: Format) -> String {
    match format {
        Format::Json => json(view),
        Format::Tsv => tsv(view),
        Format::Table | Format::Wide if view.flows.is_empty() => "no flows\n".into(),
        Format::Table | Format::Wide => table(view, format == Format::Wide),
    }
}

fn table(view: &FlowsView, is_wide: bool) -> String {
    let mut heads = vec!["RULE", "PROTO", "CLIENT", "BACKEND", "PLANE", "STATE", "AGE", "IDLE", "IN", "OUT"];
    if is_wide {
        heads.extend(["LISTEN", "UNIT"]);
    }
    let mut table = plain_table();
    table.set_header(heads);
    let bytes = |bytes: Option<u64>| bytes.map_or("-".into(), size);
    for flow in &view.flows {
        let mut row = vec![
            flow.rule.clone(),
            flow.protocol.clone(),
            flow.client.clone(),
            flow.backend.clone().unwrap_or_else(|| "-".into()),
            flow.plane.clone(),
            flow.state.clone(),
            age(flow.age_seconds),
            age(flow.idle_seconds),
            bytes(flow.ingress_bytes),
            bytes(flow.egress_bytes),
        ];
        if is_wide {
            row.extend([flow.listen.clone().unwrap_or_else(|| "-".into()), flow.unit.clone()]);
        }
        table.add_row(row);
    }
    for number in 6..10 {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = lines(&table);
    if view.truncated {
        let (shown, all) = (view.flows.len(), view.matched);
        text += &format!("\n{shown} of {all} flows; --limit shows more\n");
    }
    text
}

fn tsv(view: &FlowsView) -> String {
    let head = "rule\tprotocol\tclient\tlisten\tbackend\tplane\tstate\tage_seconds\tidle_seconds\tunit\tingress_bytes\tegress_bytes\n";
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let row = |flow: &FlowView| {
        let cells = [
            flow.rule.clone(),
            flow.protocol.clone(),
            flow.client.clone(),
            flow.listen.clone().unwrap_or_default(),
            flow.backend.clone().unwrap_or_default(),
            flow.plane.clone(),
            flow.state.clone(),
            flow.age_seconds.to_string(),
            flow.idle_seconds.to_string(),
            flow.unit.clone(),
            number(flow.ingress_bytes),
            number(flow.egress_bytes),
        ];
        cells.join("\t") + "\n"
    };
    head.to_owned() + &view.flows.iter().map(row).collect::<String>()
}

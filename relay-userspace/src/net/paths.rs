//! Asking the kernel for the way to each backend. Its own answer takes account of everything: policy rules, metrics,
//! preferred sources.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures_util::StreamExt as _;
use futures_util::stream;
use netlink_packet_route::route::RouteType;
use rtnetlink::{Handle, RouteMessageBuilder};

use super::view::RouteFacts;
use crate::host::{HostView, NextHop, Path, WayTo};

/// Questions under way at once.
const AT_ONCE: usize = 64;

/// The ways that there are; those that lead nowhere are left out.
pub async fn find(handle: &Handle, host: &HostView, ways: &BTreeSet<WayTo>) -> BTreeMap<WayTo, Path> {
    stream::iter(ways)
        .map(|&way| async move { Some((way, path(handle, host, way).await?)) })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn path(handle: &Handle, host: &HostView, way: WayTo) -> Option<Path> {
    let source = match way.source {
        Some(source) => source,
        None => ask(handle, host, way).await?.source,
    };
    // asked again as that source: a policy rule may send its packets another way
    ask(handle, host, WayTo { source: Some(source), ..way }).await
}

async fn ask(handle: &Handle, host: &HostView, way: WayTo) -> Option<Path> {
    let mut question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(way.backend, 32);
    if let Some(source) = way.source {
        question = question.source_prefix(source, 32);
    }
    if let Some(interface) = way.interface {
        question = question.output_interface(interface);
    }
    let mut answers = Box::pin(handle.route().get(question.build()).execute());
    let answer = answers.next().await?.ok()?;
    if answer.header.kind != RouteType::Unicast {
        return None;
    }
    let facts = RouteFacts::of(&answer);
    let interface = facts.interface?;
    let link_mtu = host.links.get(&interface)?.mtu;
    let hop = NextHop { interface, gateway: facts.gateway, mtu: facts.mtu.unwrap_or(link_mtu).min(link_mtu) };
    Some(Path { source: way.source.or(facts.source)?, hop })
}

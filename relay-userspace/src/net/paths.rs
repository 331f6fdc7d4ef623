//! Asking the kernel for the way to each backend. Its own answer takes account of everything: policy rules, metrics,
//! preferred sources.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::StreamExt as _;
use futures_util::stream;
use netlink_packet_route::route::{RouteMessage, RouteType};
use relay_common::net::{ipv6_to_wire, is_global_unicast};
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
    let path = ask(handle, host, WayTo { source: Some(source), ..way }).await?;
    let strays = way.interface.is_some_and(|interface| interface != path.hop.interface);
    if !strays || way.backend.is_ipv4() {
        return Some(path);
    }
    // of IPv6 the kernel holds on to the interface only where no source is named; a socket bound to it always does
    let path = ask(handle, host, WayTo { source: None, ..way }).await?;
    Some(Path { source, ..path })
}

async fn ask(handle: &Handle, host: &HostView, way: WayTo) -> Option<Path> {
    let question = question(way)?;
    let mut answers = Box::pin(handle.route().get(question).execute());
    let answer = answers.next().await?.ok()?;
    if answer.header.kind != RouteType::Unicast {
        return None;
    }
    let facts = RouteFacts::of(&answer);
    let interface = facts.interface?;
    let link_mtu = host.links.get(&interface)?.mtu_towards(way.backend);
    let hop = NextHop { interface, gateway: facts.gateway, mtu: facts.mtu.unwrap_or(link_mtu).min(link_mtu) };
    Some(Path { source: way.source.or(facts.source.filter(is_far_reaching))?, hop })
}

/// A host without an address of its own may offer a link-local one, which no router lets through.
fn is_far_reaching(source: &IpAddr) -> bool {
    match source {
        IpAddr::V4(_) => true,
        IpAddr::V6(source) => is_global_unicast(&ipv6_to_wire(*source)),
    }
}

/// `None`: source and backend are of different families, so there is no way.
fn question(way: WayTo) -> Option<RouteMessage> {
    let bits = if way.backend.is_ipv4() { 32 } else { 128 };
    let mut question = RouteMessageBuilder::<IpAddr>::new().destination_prefix(way.backend, bits).ok()?;
    if let Some(source) = way.source {
        question = question.source_prefix(source, bits).ok()?;
    }
    if let Some(interface) = way.interface {
        question = question.output_interface(interface);
    }
    Some(question.build())
}

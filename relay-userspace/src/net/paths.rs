//! Asking the kernel for the way to each backend. Its own answer takes account of everything: policy rules, metrics,
//! preferred sources.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures_util::StreamExt as _;
use futures_util::stream;
use netlink_packet_route::route::RouteType;
use rtnetlink::{Handle, RouteMessageBuilder};

use super::view::RouteFacts;
use crate::host::{HostView, NextHop, Path};

/// Questions under way at once.
const AT_ONCE: usize = 64;

/// The way to every backend; those without one are left out.
pub async fn find(
    handle: &Handle,
    host: &HostView,
    backends: &BTreeSet<Ipv4Addr>,
) -> BTreeMap<Ipv4Addr, Path> {
    stream::iter(backends)
        .map(|&backend| async move { Some((backend, path(handle, host, backend).await?)) })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn path(handle: &Handle, host: &HostView, backend: Ipv4Addr) -> Option<Path> {
    let source = ask(handle, host, backend, None).await?.source;
    // asked again as that source: a policy rule may send its packets another way
    ask(handle, host, backend, Some(source)).await
}

async fn ask(handle: &Handle, host: &HostView, backend: Ipv4Addr, source: Option<Ipv4Addr>) -> Option<Path> {
    let mut question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(backend, 32);
    if let Some(source) = source {
        question = question.source_prefix(source, 32);
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
    Some(Path { source: source.or(facts.source)?, hop })
}

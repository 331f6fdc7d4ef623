//! Following the host: interfaces that come and go, addresses and routes that change, hooks that somebody removes.

use std::collections::BTreeSet;
use std::sync::Arc;

use relay_common::net::Protocol;

use super::desire;
use super::state::State;
use crate::api::view::DownView;
use crate::config::settings::Hook;
use crate::host::{Link, LinkKind};
use crate::kernel::maps::DEVICE_SLOTS;
use crate::kernel::{attach, detach};
use crate::net::{sysctl, xdp_features};
use crate::plan::{Fault, PlannedRule, UserRule};
use crate::rule::{Rule, RuleName};

/// Drivers whose devices take redirected frames once an XDP program is attached to them, for kernels that do not say.
const XMIT_DRIVERS: &[&str] = &[
    "virtio_net",
    "ena",
    "gve",
    "hv_netvsc",
    "vmxnet3",
    "mlx4_en",
    "mlx5_core",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "ice",
    "igb",
    "igc",
    "bnxt_en",
    "qede",
    "sfc",
    "nfp",
];

impl State {
    /// The host's network may have changed.
    pub async fn network_changed(&mut self) {
        let rules: Vec<Arc<Rule>> = self.rules.iter().map(|(rule, _)| rule.clone()).collect();
        match self.facts.refresh(&rules).await {
            Ok(true) => self.follow_host(),
            Ok(false) => {}
            Err(error) => tracing::warn!("cannot read the host's network: {error}"),
        }
    }

    /// Looks at the IPv6 MTU of interfaces, which netlink does not always tell: a router or root may change it in silence.
    pub async fn follow_mtus(&mut self) {
        let Ok(kernel) = &self.kernel else { return };
        let links = &self.facts.host.links;
        let mut followed = kernel.attachments().keys().filter_map(|index| links.get(index));
        if followed.any(|link| sysctl::mtu_v6(&link.name).is_some_and(|mtu| mtu != link.mtu_v6)) {
            self.network_changed().await;
        }
    }

    /// Attaches to what is there now and plans anew.
    fn follow_host(&mut self) {
        let bound: Vec<Arc<Rule>> = self.facts.bound_to_host(&self.rules).cloned().collect();
        self.facts.hold(&bound);
        self.facts.settle(&bound, &[]);
        self.attach();
        self.replan("the network has changed");
    }

    /// Plans all rules again and applies what is different.
    pub fn replan(&mut self, why: &str) {
        let planned = self.plan(&self.rules, &self.draining, true);
        for (before, after) in self.planned.iter().zip(&planned) {
            if before.state() != after.state() {
                let name: &RuleName = &after.rule.name;
                let text = format!("rule {name} is {} now: {why}", after.state().as_str());
                tracing::info!(RULE = name.as_str(), "{text}");
                self.shared.tell("rule.state", Some(name), text);
            }
        }
        match self.apply(&planned) {
            Ok(desired) => {
                self.planned = planned;
                self.desired = desired;
            }
            Err(error) => tracing::error!("cannot bring the kernel plane up to date: {error}"),
        }
        self.publish();
    }

    /// The same after backends may have come that nobody has asked the way to.
    pub async fn replan_with_ways(&mut self, why: &str) {
        let rules: Vec<Arc<Rule>> = self.rules.iter().map(|(rule, _)| rule.clone()).collect();
        self.facts.find_paths(&rules).await;
        self.replan(why);
    }

    /// Attaches to every interface that should have the programs, and tells what changed.
    pub fn attach(&mut self) {
        if self.down {
            return;
        }
        let Ok(kernel) = &mut self.kernel else { return };
        let targets = desire::targets(&self.facts.host, &self.settings, kernel.attachments());
        let before = kernel.attachments().clone();
        let after = kernel.attach(&targets).clone();
        for (index, attachment) in &after {
            if before.get(index) == Some(attachment) {
                continue;
            }
            let text = match (&attachment.tc, &attachment.xdp) {
                (Err(error), _) => format!("{} cannot be attached to: {error}", attachment.name),
                (Ok(kind), None) => format!("{} attached ({})", attachment.name, kind.as_str()),
                (Ok(kind), Some(Ok(()))) => {
                    format!("{} attached ({} and XDP)", attachment.name, kind.as_str())
                }
                (Ok(kind), Some(Err(error))) => {
                    format!("{} attached ({}); no XDP: {error}", attachment.name, kind.as_str())
                }
            };
            tracing::info!("{text}");
            self.shared.tell("interface", None, text);
            if let Err(error) = &attachment.egress {
                let name = &attachment.name;
                let text = format!("what the user plane sends on {name} is not counted: {error}");
                tracing::warn!("{text}");
                self.shared.tell("interface", None, text);
            }
        }
        if self.settings.hook == Hook::Xdp {
            self.prepare_xdp(&after);
        }
    }

    /// Lets go of interfaces that an earlier relayd was attached to and this one is not meant for.
    pub fn detach_strays(&self) {
        let Ok(kernel) = &self.kernel else { return };
        for name in kernel.detach_strays(&self.interface_names()) {
            tracing::info!("{name} detached: an earlier relayd has left its filter there");
        }
    }

    /// XDP asks the kernel's routing table, which only answers where forwarding is on, and may only redirect to
    /// devices that are known to take frames.
    fn prepare_xdp(&mut self, attachments: &attach::Attachments) {
        let ready: Vec<(u32, Box<str>)> = attachments
            .iter()
            .filter(|(_, attachment)| attachment.xdp == Some(Ok(())))
            .map(|(&index, attachment)| (index, attachment.name.clone()))
            .collect();
        for (_, name) in &ready {
            let setting = format!("net/ipv4/conf/{name}/forwarding");
            if let Err(error) = self.ledger.set(&setting, "1") {
                tracing::warn!("{setting} cannot be set, so XDP leaves {name} to tc: {error}");
            }
        }
        let links = &self.facts.host.links;
        let takes = |index: u32, name: &str| {
            let ethernet = links.get(&index).is_some_and(|link: &Link| link.kind == LinkKind::Ethernet);
            ethernet && xdp_features::takes_redirects(index).unwrap_or_else(|| has_known_driver(name))
        };
        let usable: BTreeSet<u32> =
            ready.iter().filter(|(index, name)| takes(*index, name)).map(|(index, _)| *index).collect();
        // next hops in use refer to slots, so a device keeps its own
        self.devices.retain(|index, _| usable.contains(index));
        for index in usable {
            let taken: BTreeSet<u16> = self.devices.values().copied().collect();
            let free = (0..DEVICE_SLOTS).find(|slot| !taken.contains(slot));
            if let (false, Some(slot)) = (self.devices.contains_key(&index), free) {
                self.devices.insert(index, slot);
            }
        }
    }

    /// Looks whether everything is still in place, and mends what is not.
    pub fn mend(&mut self) {
        self.backends.save_later();
        self.tell_lost();
        if self.down {
            return;
        }
        self.retake();
        self.follow_certificates();
        if let Some(serving) = &mut self.serving {
            serving.tend(&mut self.facts.holder);
        }
        self.share();
        self.watch_others();
        self.choose_again();
        let Ok(kernel) = &mut self.kernel else { return };
        let lost = kernel.lost();
        if !lost.is_empty() {
            let text = format!("somebody has taken the programs off {}; they are put back", lost.join(", "));
            tracing::warn!("{text}");
            self.shared.tell("interface", None, text);
            self.attach();
            self.publish();
        } else if kernel.is_ailing() {
            self.attach();
        }
    }

    /// Files of certificates may have changed: sessions that begin from now on get what they say.
    fn follow_certificates(&mut self) {
        let waits = |fault: &Fault| matches!(fault, Fault::Tunnel(_));
        let waiting = self.planned.iter().any(|planned| planned.faults.iter().any(waits));
        let news = self.facts.tunnels.refresh(waiting);
        for fault in news.faults {
            tracing::error!("{fault}; what was there before stays in use");
        }
        if news.is_news {
            self.replan("its certificates have changed");
        }
    }

    /// A table of backends that had no room may have some by now.
    fn choose_again(&mut self) {
        let Ok(kernel) = &mut self.kernel else { return };
        match kernel.choose_again() {
            Ok(false) => {}
            Ok(true) => {
                self.tell_shortage();
                self.publish();
            }
            Err(error) => tracing::error!("cannot give new flows to their backends: {error}"),
        }
    }

    /// A port that could not be had may be free by now.
    fn retake(&mut self) {
        let rules: Vec<Arc<Rule>> = self.facts.retriable(&self.rules).cloned().collect();
        if rules.is_empty() {
            return;
        }
        let before = (self.facts.taken.clone(), self.facts.holder.lacks().clone());
        self.facts.hold(&rules);
        if (&self.facts.taken, self.facts.holder.lacks()) != (&before.0, &before.1) {
            self.replan("a port has become free");
        }
    }

    /// What `relayctl down` would take off.
    pub fn would_take_down(&self) -> DownView {
        let there = detach::count(&self.settings.bpf_dir, &self.interface_names());
        let sysctls = self.ledger.names().map(ToOwned::to_owned).collect();
        DownView { dry_run: true, hooks: there.hooks(), pins: there.maps, sysctls, failed: Vec::new() }
    }

    fn interface_names(&self) -> Vec<String> {
        self.facts.host.links.values().map(|link| link.name.to_string()).collect()
    }

    /// `relayctl down`: everything off, until the next reload.
    pub fn take_down(&mut self) -> DownView {
        let interfaces = self.interface_names();
        self.down = true;
        self.backends.rest();
        self.shared.census.stop();
        self.shared.take_readings();
        self.shared.set_meter(None);
        self.shared.flow_seeker.set(None);
        // slots and sweeps are counted anew with the next maps
        self.resting.clear();
        self.sweeps = 0;
        let sysctls = self.ledger.names().map(ToOwned::to_owned).collect();
        self.kernel = Err(crate::kernel::Unavailable("detached by `relayctl down`".into()));
        let removed = detach::detach_all(&self.settings.bpf_dir, &interfaces);
        let hooks = removed.hooks();
        let mut failed = removed.failed;
        failed.extend(self.ledger.restore());
        self.reuses_ports = false;
        self.planned = self.plan(&self.rules, &self.draining, true);
        if let Some(serving) = &mut self.serving {
            serving.apply(&[], &mut self.facts.holder, |_| None);
        }
        self.facts.holder.forget_shared();
        tracing::info!("detached: {} hooks, {} pins", hooks, removed.maps);
        self.shared.tell("down", None, "everything is detached");
        self.publish();
        DownView { dry_run: false, hooks, pins: removed.maps, sysctls, failed }
    }

    /// Once the user plane carries TCP: ports of connections that are over should not be missed for long.
    pub fn reuse_ports(&mut self, planned: &[Arc<PlannedRule>]) {
        let has_tcp =
            |user: &Arc<UserRule>| user.protocols.has(Protocol::Tcp) || user.connect.sends_datagrams();
        if self.reuses_ports || !planned.iter().any(|planned| planned.user.as_ref().is_some_and(has_tcp)) {
            return;
        }
        self.reuses_ports = true;
        if let Err(error) = sysctl::reuse_resting_ports(&mut self.ledger) {
            tracing::info!(
                "net.ipv4.tcp_tw_reuse cannot be set to 1 ({error}); where source ports run out relayd chooses them itself"
            );
        }
    }

    /// Settings that the host needs before flows can be carried.
    pub fn prepare_host(&mut self) {
        match sysctl::claim_range(&mut self.ledger) {
            Ok(claims) => self.claims = claims,
            Err(error) => tracing::warn!("cannot reserve source ports: {error}; using 1024-32767"),
        }
    }
}

fn has_known_driver(interface: &str) -> bool {
    let link = std::fs::read_link(format!("/sys/class/net/{interface}/device/driver"));
    link.ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .is_some_and(|name| XMIT_DRIVERS.contains(&&*name))
}

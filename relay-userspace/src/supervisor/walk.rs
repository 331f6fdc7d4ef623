//! `relayctl test`: a rule's way from its listeners to each of its backends, walked step by step beside its sessions.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::{StreamExt as _, stream};

use super::shared::Shared;
use crate::api::problem::ApiProblem;
use crate::api::view::{PlaneView, RuleView, StepView, WalkView};
use crate::net::resolve::Book;
use crate::plan::{Carriage, Fault, PlannedRule};
use crate::proxy::tunnel::tls::{Certificate, ServerTls};
use crate::proxy::walk::{self, Outcome, Question, Stage, Step, Way};
use crate::rule::tunnel::UdpOver;
use crate::rule::{AcceptTls, Backend, CheckKind, ConnectTunnel, Host, Identity, Rule, RuleName};
use relay_common::net::Protocol;

/// Backends that are tried at once.
const AT_ONCE: usize = 8;

/// What a walk needs besides the rule.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// Where certificates of our own are.
    pub state_dir: PathBuf,
    /// Who is asked for names.
    pub book: Option<Arc<Book>>,
}

/// Walks a rule as it stands, also one that is disabled.
pub async fn test(shared: &Shared, name: &RuleName) -> Result<WalkView, ApiProblem> {
    let (planned, view) = shared.rule(name).await?;
    let means = shared.snapshot().means.clone();
    let mut steps: Vec<StepView> =
        listen(&planned, &view).into_iter().map(|step| shown(None, step)).collect();
    if let Some(tls) = planned.rule.accept.tunnel.as_ref().and_then(|tunnel| tunnel.tls.as_ref()) {
        steps.push(shown(None, certificate(&planned, tls, &means)));
    }
    let walker = Arc::new(Walker::new(planned, means.book));
    let backends = 0..walker.planned.rule.to.len();
    let walks = stream::iter(backends.map(|index| {
        let walker = walker.clone();
        async move { walker.backend(index).await }
    }));
    let walked: Vec<Vec<StepView>> = walks.buffered(AT_ONCE).collect().await;
    steps.extend(walked.into_iter().flatten());
    let ok = steps.iter().all(|step| step.result != StepView::FAILED);
    Ok(WalkView { rule: name.to_string(), ok, steps })
}

/// Whether clients are taken in, and by whom.
fn listen(planned: &PlannedRule, view: &RuleView) -> Vec<Step> {
    let listeners = view.listen.join(", ");
    if !planned.rule.enabled {
        let text = format!("nobody listens on {listeners}: the rule is disabled");
        return vec![Step::skipped(Stage::Listen, "rule_disabled", text)];
    }
    if planned.rule.is_watch {
        let text =
            format!("{listeners}: the host's own programs; Relay counts their packets and carries none");
        return vec![Step::skipped(Stage::Listen, "watched", text)];
    }
    let faults: Vec<Step> = planned.faults.iter().filter_map(of_listener).collect();
    if !faults.is_empty() {
        return faults;
    }
    if let (Carriage::None(_), Carriage::None(reason)) = (&planned.ipv4, &planned.ipv6) {
        let reason = view.plane.ipv4.reason.as_deref().unwrap_or(reason);
        let text = format!("nobody takes clients in on {listeners}: {reason}");
        return vec![Step::failed(Stage::Listen, "not_carried", &[], text)];
    }
    let family = |name: &str, plane: &PlaneView| format!("{name} by {}", plane.short());
    let mut text =
        format!("{listeners}: {}, {}", family("IPv4", &view.plane.ipv4), family("IPv6", &view.plane.ipv6));
    if !view.accept.is_plain() {
        text += &format!("; {}", view.accept.sentence());
    }
    vec![Step::passed(Stage::Listen, text)]
}

/// What keeps clients from being taken in. Other faults are met where they lie on the way.
fn of_listener(fault: &Fault) -> Option<Step> {
    let code = match fault {
        Fault::AddressNotHere(_) => "address_not_here",
        Fault::NoInterface(_) => "no_interface",
        Fault::PortInUse(_) => "port_in_use",
        Fault::SelfLoop(..) => "self_loop",
        Fault::KernelImpossible(_) => "not_carried",
        Fault::RateUnkept(..)
        | Fault::Uncounted(_)
        | Fault::Unresolved(..)
        | Fault::Resolving(_)
        | Fault::NoRoute(..)
        | Fault::SourceNotHere(_)
        | Fault::SourceFamily(..)
        | Fault::NoWayOut(_)
        | Fault::Tunnel(_) => return None,
    };
    Some(Step::failed(Stage::Listen, code, &["listen"], fault.to_string()))
}

/// Whether what clients are shown is worth showing.
fn certificate(planned: &PlannedRule, tls: &AcceptTls, means: &Means) -> Step {
    let options: &[&str] = &["accept.cert", "accept.key", "accept.client_ca"];
    let failed = |code, text: String| Step::failed(Stage::Certificate, code, options, text);
    let tunnel = planned.rule.accept.tunnel.as_deref().cloned();
    let tls = tunnel.and_then(|tunnel| tunnel.in_folder(planned.origin.folder()).tls).unwrap_or(tls.clone());
    let served = match ServerTls::open(&tls, &means.state_dir) {
        Ok(served) => served.certificate(),
        Err(fault) => return failed("tls_configuration", fault.to_string()),
    };
    let Some(certificate) = Certificate::read(&served) else {
        return failed("tls_bad_certificate", "the first certificate is malformed".into());
    };
    let now = SystemTime::now();
    let whose = match tls.identity {
        Identity::Files { .. } => "",
        Identity::SelfSigned { .. } => "self-signed ",
    };
    match () {
        () if certificate.ends < now => failed(
            "tls_certificate_expired",
            format!("clients are shown one that has expired: {certificate}"),
        ),
        () if certificate.begins > now => failed(
            "tls_certificate_not_yet_valid",
            format!(
                "clients are shown one that is not valid yet (is this host's clock wrong?): {certificate}"
            ),
        ),
        () => Step::passed(Stage::Certificate, format!("{whose}{certificate}")),
    }
}

/// Goes to a rule's backends.
struct Walker {
    planned: Arc<PlannedRule>,
    book: Option<Arc<Book>>,
    tunnel: Option<Arc<ConnectTunnel>>,
}

impl Walker {
    fn new(planned: Arc<PlannedRule>, book: Option<Arc<Book>>) -> Self {
        let tunnel = planned.rule.connect.tunnel.as_deref();
        let tunnel = tunnel.map(|tunnel| Arc::new(tunnel.clone().in_folder(planned.origin.folder())));
        Self { planned, book, tunnel }
    }

    /// The first port of a listener stands for all of them.
    async fn backend(&self, index: usize) -> Vec<StepView> {
        let rule = &*self.planned.rule;
        let backend = &rule.to[index];
        let mut steps = Vec::new();
        let addresses = match &backend.host {
            Host::Address(address) => vec![address.to_canonical()],
            Host::Name(name) => {
                let (step, addresses) = self.look_up(index, name).await;
                steps.push(shown(Some((backend, None)), step));
                addresses
            }
        };
        let suiting: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| rule.connect.suits(*address)).collect();
        if let (true, false, Some(source)) = (suiting.is_empty(), addresses.is_empty(), rule.connect.source) {
            let text = format!("it has no address of the family of {source}");
            let step = Step::failed(Stage::Connect, "source_family", &["connect.source"], text);
            steps.push(shown(Some((backend, None)), step));
        }
        let port = backend.first_port().unwrap_or_else(|| rule.listen[0].ports.first());
        for address in suiting {
            let address = SocketAddr::new(address, port);
            let walked = self.address(backend, address).await;
            steps.extend(walked.into_iter().map(|step| shown(Some((backend, Some(address))), step)));
        }
        steps
    }

    /// Asks for a name anew. What was known of it is tried all the same.
    async fn look_up(&self, index: usize, name: &str) -> (Step, Vec<IpAddr>) {
        let known = self.planned.addresses.get(index).map(|known| known.to_vec()).unwrap_or_default();
        let begun = Instant::now();
        let answer = match &self.book {
            Some(book) => book.look_up(name).await.map(|answer| answer.addresses),
            None => Err("relayd has no name server".into()),
        };
        let (step, addresses) = match answer {
            Ok(addresses) => {
                let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                (Step::passed(Stage::Dns, listed.join(", ")), addresses)
            }
            Err(error) => {
                let kept = if known.is_empty() { "" } else { "; its former addresses stay in use" };
                let text = format!("{name} does not resolve: {error}{kept}");
                (Step::failed(Stage::Dns, "dns_failed", &["to"], text), known)
            }
        };
        (step.since(begun), addresses)
    }

    async fn address(&self, backend: &Backend, address: SocketAddr) -> Vec<Step> {
        let rule = &*self.planned.rule;
        let way = Way {
            address,
            host: &backend.host.to_string(),
            connect: &rule.connect,
            timeouts: &rule.timeouts,
            tunnel: self.tunnel.as_ref(),
        };
        let mut steps = Vec::new();
        if rule.protocols.has(Protocol::Tcp) {
            steps = walk::walk(way).await;
        }
        if !rule.protocols.has(Protocol::Udp) {
            return steps;
        }
        match self.tunnel.as_ref().and_then(|tunnel| tunnel.udp_over) {
            Some(UdpOver::Tunnel) if steps.is_empty() => steps = walk::walk_for_datagrams(way).await,
            // what keeps sessions out of the tunnel keeps datagrams out as well, and has been said
            Some(UdpOver::Tunnel)
                if steps.iter().any(|step| step.is_failed() && step.stage != Stage::Payload) => {}
            Some(UdpOver::Tunnel) => steps.extend(walk::walk_for_datagrams(way).await.pop()),
            Some(UdpOver::Plain) | None => steps.push(datagram(rule, address).await),
        }
        steps
    }
}

async fn datagram(rule: &Rule, mut address: SocketAddr) -> Step {
    let check = rule.check();
    let CheckKind::Udp { send, expect } = &check.kind else {
        let text = "UDP has no question that suits every server: it is tried with what check.send says, where \
                    check.kind = \"udp\"";
        return Step::skipped(Stage::Udp, "udp_needs_check", text);
    };
    address.set_port(check.port.unwrap_or(address.port()));
    let question = Question { send, expect: expect.as_deref(), limit: check.timeout };
    walk::ask(address, &rule.connect, question).await
}

/// A step as readers get it, of one of the backends and its addresses or of the rule itself.
fn shown(of: Option<(&Backend, Option<SocketAddr>)>, step: Step) -> StepView {
    let (result, code, options): (_, _, &[&str]) = match step.outcome {
        Outcome::Passed => (StepView::OK, None, &[]),
        Outcome::Skipped(code) => (StepView::SKIPPED, Some(code), &[]),
        Outcome::Failed { code, options } => (StepView::FAILED, Some(code), options),
    };
    StepView {
        backend: of.map(|(backend, _)| backend.to_string()),
        address: of.and_then(|(_, address)| address).map(|address| address.to_string()),
        step: step.stage.as_str().into(),
        result: result.into(),
        code: code.map(Into::into),
        options: options.iter().map(|&option| option.into()).collect(),
        ms: step.took.map(|took| took.as_secs_f64() * 1000.0),
        text: step.text,
    }
}

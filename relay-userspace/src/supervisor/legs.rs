//! What views say of a rule's legs. No secrets: tokens and headers are left out.

use crate::api::view::LegView;
use crate::plan::PlannedRule;
use crate::rule::{Connect, Identity};

pub(super) fn accept(planned: &PlannedRule) -> LegView {
    let accept = &planned.rule.accept;
    let tunnel = accept.tunnel.as_deref();
    let (tls, ws) =
        (tunnel.and_then(|tunnel| tunnel.tls.as_ref()), tunnel.and_then(|tunnel| tunnel.ws.as_ref()));
    let cert = tls.and_then(|tls| match &tls.identity {
        Identity::Files { cert, .. } => Some(cert.display().to_string()),
        Identity::SelfSigned { .. } => None,
    });
    let acceptor = planned.user.as_ref().and_then(|user| user.acceptor.as_ref());
    let fingerprint = acceptor.and_then(|acceptor| acceptor.fingerprint);
    LegView {
        transport: accept.transport().as_str().into(),
        host: ws.and_then(|ws| ws.host.as_deref()).map(Into::into),
        path: ws.map(|ws| ws.path.as_ref().into()),
        cert,
        fingerprint: fingerprint.map(|fingerprint| fingerprint.to_string()),
        ..LegView::default()
    }
}

pub(super) fn connect(connect: &Connect) -> LegView {
    let tunnel = connect.tunnel.as_deref();
    let (tls, ws) =
        (tunnel.and_then(|tunnel| tunnel.tls.as_ref()), tunnel.and_then(|tunnel| tunnel.ws.as_ref()));
    LegView {
        transport: connect.transport().as_str().into(),
        host: ws.and_then(|ws| ws.host.as_deref()).map(Into::into),
        path: ws.map(|ws| ws.path.as_ref().into()),
        cert: tls.and_then(|tls| tls.identity.as_ref()).map(|(cert, _)| cert.display().to_string()),
        fingerprint: None,
        sni: tls.and_then(|tls| tls.sni.as_deref()).map(Into::into),
        verify: tls.map(|tls| tls.verify.to_string()),
    }
}

//! UDP sessions: one socket towards the backend for each client.

use std::sync::Arc;

use tokio::sync::watch;

use super::service::{Phase, Service};

pub async fn serve(_socket: std::net::UdpSocket, _service: Arc<Service>, mut phase: watch::Receiver<Phase>) {
    let _gone = phase.wait_for(|phase| *phase != Phase::Serve).await;
}

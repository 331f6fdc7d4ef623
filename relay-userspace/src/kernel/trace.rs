//! `--trace-packets`: what the programs log about one rule's packets, brought to relayd's own log.

use std::time::Duration;

use aya_log::EbpfLogger;

use super::Unavailable;
use super::load::Dataplane;

/// How often the ring of log records is emptied; it holds some thousand.
const OFTEN: Duration = Duration::from_millis(100);

impl Dataplane {
    /// Starts passing the programs' log on. Ends when the task is dropped.
    pub fn start_trace(&mut self) -> Result<impl Future<Output = ()> + use<>, Unavailable> {
        let failed = |error: &dyn std::fmt::Display| Unavailable(format!("cannot trace packets: {error}"));
        let logger =
            EbpfLogger::init_with_logger(&mut self.ebpf, TracingLog).map_err(|error| failed(&error))?;
        Ok(async move {
            let mut logger = logger;
            let mut often = tokio::time::interval(OFTEN);
            loop {
                often.tick().await;
                logger.flush();
            }
        })
    }
}

/// aya-log speaks the `log` crate; relayd speaks `tracing`.
struct TracingLog;

impl log::Log for TracingLog {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "relay::packets", "{}", record.args());
    }

    fn flush(&self) {}
}

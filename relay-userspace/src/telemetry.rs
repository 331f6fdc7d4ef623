//! relayd's log: journal fields under systemd, text or JSON elsewhere.

use std::env;
use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

use crate::config::settings::{Level, LogFormat};

/// Starts logging. Everything goes to standard error or the journal, never to standard output.
pub fn start(level: Level, format: LogFormat) -> anyhow::Result<()> {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let layer = match format {
        LogFormat::Auto if env::var_os("JOURNAL_STREAM").is_some() => {
            // no prefix: `journalctl RULE=tokyo` finds a rule's lines
            let journal = tracing_journald::layer().context("cannot reach the journal")?;
            journal.with_field_prefix(None).boxed()
        }
        LogFormat::Auto | LogFormat::Text => {
            let colours = std::io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            fmt::layer().with_ansi(colours).with_writer(std::io::stderr).with_target(false).boxed()
        }
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    registry().with(layer.with_filter(filter)).try_init().context("cannot start logging")
}

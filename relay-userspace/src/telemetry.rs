//! relayd's log: journal fields under systemd, text or JSON elsewhere.

use std::env;
use std::io::IsTerminal as _;

use anyhow::Context as _;
use nix::sys::stat::fstat;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, registry};

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
        LogFormat::Auto => match journal() {
            // no prefix: `journalctl RULE=tokyo` finds a rule's lines
            Some(journal) => journal.with_field_prefix(None).boxed(),
            None => text(),
        },
        LogFormat::Text => text(),
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    // the resolver tells its log of every forged answer that comes along
    let quiet = if filter < LevelFilter::DEBUG { LevelFilter::OFF } else { filter };
    let targets = Targets::new().with_default(filter).with_target("hickory", quiet);
    registry().with(layer.with_filter(targets)).try_init().context("cannot start logging")
}

/// The journal, if standard error goes there: programs started from a unit inherit its environment too.
fn journal() -> Option<tracing_journald::Layer> {
    let named = env::var("JOURNAL_STREAM").ok()?;
    let stderr = fstat(std::io::stderr()).ok()?;
    if named != format!("{}:{}", stderr.st_dev, stderr.st_ino) {
        return None;
    }
    tracing_journald::layer().ok()
}

fn text<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let colours =
        std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    fmt::layer().with_ansi(colours).with_writer(std::io::stderr).with_target(false).boxed()
}

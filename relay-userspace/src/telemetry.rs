//! relayd's log: journal fields under systemd, text or JSON elsewhere.

use std::env;
use std::io::{IsTerminal as _, Stderr};

use anyhow::Context as _;
use nix::sys::stat::fstat;
use tracing::Subscriber;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{DefaultFields, Format, debug_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, registry};

use crate::config::settings::{Level, LogFormat};
use crate::connections;

/// Starts logging. Everything goes to standard error or the journal, never to standard output.
pub fn start(level: Level, format: LogFormat) -> anyhow::Result<()> {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // the resolver tells its log of every forged answer that comes along
    let quiet = if filter < LevelFilter::DEBUG { LevelFilter::OFF } else { filter };
    let targets = Targets::new().with_default(filter).with_target("hickory", quiet);
    // whether connections are logged has a setting of its own
    let connections = LevelFilter::INFO;
    let layer = match format {
        LogFormat::Json => Some(fmt::layer().json().with_writer(std::io::stderr).boxed()),
        // no prefix: `journalctl RULE=tokyo` finds a rule's lines
        LogFormat::Auto => journal().map(|journal| journal.with_field_prefix(None).boxed()),
        LogFormat::Text => None,
    };
    // a list, whose layers each keep their own level; one put upon another would hold both to the higher
    let layers = match layer {
        Some(layer) => vec![layer.with_filter(targets.with_target(connections::TARGET, connections)).boxed()],
        None => {
            let others = targets.with_target(connections::TARGET, LevelFilter::OFF);
            let only = Targets::new().with_target(connections::TARGET, connections);
            vec![text().with_filter(others).boxed(), message().with_filter(only).boxed()]
        }
    };
    registry().with(layers).try_init().context("cannot start logging")
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

fn text<S>() -> fmt::Layer<S, DefaultFields, Format, fn() -> Stderr>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let colours =
        std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let stderr: fn() -> Stderr = std::io::stderr;
    fmt::layer().with_ansi(colours).with_writer(stderr).with_target(false)
}

/// Text for events whose message says everything that their fields say.
fn message<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let fields = debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        _ => Ok(()),
    });
    text().fmt_fields(fields).boxed()
}

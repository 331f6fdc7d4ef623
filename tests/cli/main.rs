//! What people and scripts meet: relayctl, relayd's arguments and messages, the file, the API, the metrics.

mod alerts;
mod api;
mod backends;
mod commands;
mod configuration;
mod daemon;
mod flows;
mod import;
mod journal;
mod man;
mod metrics;
mod observe;
mod output;
mod ports;
mod prometheus;
mod quotas;
mod refusals;
mod rights;
mod saving;
mod top;
mod tunnels;

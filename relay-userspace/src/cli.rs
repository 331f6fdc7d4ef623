//! `relayctl`: arguments, requests, output. Everything it knows comes from relayd's API.

mod alerts;
pub mod args;
mod backends;
pub mod commands;
mod export;
pub mod fields;
mod flows;
mod history;
mod import;
pub mod manual;
mod observe;
pub mod print;
mod quotas;
pub mod relayd;
mod top;
mod walk;

use std::process::ExitCode;

use crate::api::client::ClientError;
use crate::api::problem::Code;

/// How `relayctl` ends, for scripts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Invalid = 4,
    /// Applied, but some rules do not work as written.
    Degraded = 5,
}

/// Words after a command that mean nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// How an error ends the program.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Unreachable { .. }) => Self::Unreachable,
            Some(ClientError::Refused(problem)) if problem.code == Code::Starting => Self::Unreachable,
            Some(ClientError::Refused(problem)) if problem.code == Code::Invalid => Self::Invalid,
            _ if error.is::<crate::config::Problems>() => Self::Invalid,
            _ if error.is::<Misuse>() => Self::Usage,
            _ => Self::Failed,
        }
    }
}

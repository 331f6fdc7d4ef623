//! Errors of the API: `application/problem+json` (RFC 9457) with a stable code.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::config::Problems;

/// Why a request was refused.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ApiProblem {
    pub status: u16,
    pub code: Code,
    /// One or more sentences; several lines for a configuration with several mistakes.
    pub detail: String,
}

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The configuration or a request's fields are wrong.
    Invalid,
    RuleExists,
    RuleNotFound,
    /// The rule has no such backend.
    BackendNotFound,
    AlertNotFound,
    /// The rule is well-formed but cannot work on this host now.
    NotPossible,
    /// The kernel refused a change; nothing was changed.
    NotApplied,
    /// The file could not be written; nothing was changed.
    NotSaved,
    Forbidden,
    /// There is nothing to confirm.
    NothingPending,
    NotFound,
    MethodNotAllowed,
    /// relayd is not ready to answer; ask again.
    Starting,
}

impl Code {
    const fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::RuleExists | Self::NotPossible | Self::NothingPending => StatusCode::CONFLICT,
            Self::RuleNotFound | Self::BackendNotFound | Self::AlertNotFound | Self::NotFound => {
                StatusCode::NOT_FOUND
            }
            Self::NotApplied | Self::NotSaved => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Starting => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl ApiProblem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { status: code.status().as_u16(), code, detail: detail.into() }
    }
}

impl From<Problems> for ApiProblem {
    fn from(problems: Problems) -> Self {
        Self::new(Code::Invalid, problems.to_string())
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let mut response = (status, axum::Json(self)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

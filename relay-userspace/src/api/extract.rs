//! What requests carry, with refusals that look like every other answer of the API.

use axum::extract::{FromRequest, FromRequestParts, Path as PathOf, Query as QueryOf, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::{ApiProblem, Code};

/// A part of the path.
pub struct Path<T>(pub T);

/// What stands behind the question mark.
pub struct Query<T>(pub T);

/// The body, in UTF-8.
pub struct Text(pub String);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        let part = PathOf::<T>::from_request_parts(parts, state).await;
        part.map(|PathOf(part)| Self(part)).map_err(|error| invalid(error.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        let query = QueryOf::<T>::from_request_parts(parts, state).await;
        query.map(|QueryOf(query)| Self(query)).map_err(|error| invalid(error.body_text()))
    }
}

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiProblem;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiProblem> {
        let text = String::from_request(request, state).await;
        text.map(Self).map_err(|error| invalid(error.body_text()))
    }
}

fn invalid(text: String) -> ApiProblem {
    ApiProblem::new(Code::Invalid, text)
}

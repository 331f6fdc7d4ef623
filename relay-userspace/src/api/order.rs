//! What is asked for one backend of a rule: `{"addr": "...", "weight": 4}` or `{"addr": "...", "order": "drain"}`.

use serde::Deserialize;

use super::problem::{ApiProblem, Code};
use crate::rule::Backend;
use crate::supervisor::backends::BackendCall;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    addr: String,
    weight: Option<u64>,
    order: Option<Order>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    Drain,
    Down,
    Up,
}

/// Which backend, and what to do with it.
///
/// # Errors
///
/// The body is not of this shape, or asks for nothing or for two things.
pub fn parse(body: &str) -> Result<(String, BackendCall), ApiProblem> {
    let body: Body =
        serde_json::from_str(body).map_err(|error| invalid(format!("the body is not an order: {error}")))?;
    let call = match (body.weight, body.order) {
        (Some(weight), None) => BackendCall::Weight(checked(weight)?),
        (None, Some(Order::Drain)) => BackendCall::Drain,
        (None, Some(Order::Down)) => BackendCall::Down,
        (None, Some(Order::Up)) => BackendCall::Up,
        (None, None) => {
            return Err(invalid("there is neither `weight` nor `order` (\"drain\", \"down\", \"up\")"));
        }
        (Some(_), Some(_)) => return Err(invalid("`weight` and `order` are two requests; make one of them")),
    };
    Ok((body.addr, call))
}

fn checked(weight: u64) -> Result<u16, ApiProblem> {
    let fits = u16::try_from(weight).ok().filter(|&weight| weight <= Backend::MOST_WEIGHT);
    let most = Backend::MOST_WEIGHT;
    fits.ok_or_else(|| invalid(format!("weight: {weight} is not a whole number from 0 to {most}")))
}

fn invalid(text: impl Into<String>) -> ApiProblem {
    ApiProblem::new(Code::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_at_a_time() {
        let read = |body: &str| parse(body).map_err(|problem| problem.detail);
        let is = |call| Ok(("b:80".to_owned(), call));
        assert_eq!(read(r#"{ "addr": "b:80", "weight": 0 }"#), is(BackendCall::Weight(0)));
        assert_eq!(read(r#"{ "addr": "b:80", "order": "up" }"#), is(BackendCall::Up));
        for (body, part) in [
            ("[]", "the body is not an order"),
            (r#"{ "order": "up" }"#, "missing field `addr`"),
            (r#"{ "addr": "b:80" }"#, "neither `weight` nor `order`"),
            (r#"{ "addr": "b:80", "weight": 1, "order": "up" }"#, "two requests"),
            (r#"{ "addr": "b:80", "weight": 1001 }"#, "1001 is not a whole number from 0 to 1000"),
            (r#"{ "addr": "b:80", "weight": -1 }"#, "-1"),
            (r#"{ "addr": "b:80", "order": "sleep" }"#, "expected one of `drain`, `down`, `up`"),
            (r#"{ "addr": "b:80", "wait": 1 }"#, "unknown field `wait`"),
        ] {
            let problem = read(body).expect_err(body);
            assert!(problem.contains(part), "{body}: {problem}");
        }
    }
}

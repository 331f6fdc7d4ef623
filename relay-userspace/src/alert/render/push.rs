//! Pushes to phones: ntfy, Bark.

use serde_json::json;

use super::super::escape::{Escape, Limit, cut, fit};
use super::super::message::Message;
use super::super::secret::{Secret, Url};
use super::{Post, Unsendable, bearer, json_post};

/// ntfy makes an attachment of what is longer.
const NTFY: Limit = Limit::bytes(4096);
/// Apple takes 4,096 bytes, of which the title and the names of keys are some, and what JSON escapes takes two.
const BARK: Limit = Limit::bytes(1800);
const TITLE: Limit = Limit::bytes(200);

/// Published as JSON, so that the title may be in any language.
pub fn ntfy(
    url: &Url,
    topic: &Secret,
    token: Option<&Secret>,
    message: &Message,
) -> Result<Post, Unsendable> {
    let body = json!({
        "topic": topic.expose(),
        "title": cut(&message.title, Escape::None, TITLE),
        "message": fit(&message.lines, Escape::None, NTFY),
    });
    let mut post = json_post(&url.expose(), &body)?;
    if let Some(token) = token {
        bearer(&mut post, token)?;
    }
    Ok(post)
}

/// The key goes in the body, not in the path, which servers log.
pub fn bark(server: &Url, key: &Secret, message: &Message) -> Result<Post, Unsendable> {
    let body = json!({
        "device_key": key.expose(),
        "title": cut(&message.title, Escape::None, TITLE),
        "body": fit(&message.lines, Escape::None, BARK),
        "group": "relay",
    });
    json_post(&server.below("push"), &body)
}

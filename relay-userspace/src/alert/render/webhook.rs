//! Any URL, with a body of one's own.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, Entry};
use http::{HeaderMap, HeaderValue};

use super::super::channel::{Body, Webhook};
use super::super::message::Message;
use super::super::template::Format;
use super::{Post, Unsendable, uri};

/// What is put into the URL is escaped as in a form.
pub fn post(webhook: &Webhook, message: &Message) -> Result<Post, Unsendable> {
    let value = |field| message.value(field);
    let (body, content_type) = match &webhook.body {
        Body::None => (Bytes::new(), None),
        Body::Whole => (message.to_json().to_string().into(), Some(Format::Json)),
        Body::Filled(template, format) => (template.0.fill(*format, value).into(), Some(*format)),
    };
    let mut headers = HeaderMap::new();
    for (name, text) in &webhook.headers {
        let mut header = HeaderValue::from_str(text.expose()).map_err(|_form| Unsendable("a header"))?;
        header.set_sensitive(true);
        headers.append(name.clone(), header);
    }
    if let (Some(format), Entry::Vacant(entry)) = (content_type, headers.entry(CONTENT_TYPE)) {
        entry.insert(HeaderValue::from_static(format.content_type()));
    }
    let url = webhook.url.0.fill(Format::Form, value);
    Ok(Post { method: webhook.method.clone(), uri: uri(&url)?, headers, body })
}

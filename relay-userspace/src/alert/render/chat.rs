//! Chats: Telegram, WeCom, Feishu, DingTalk, Discord, Slack.

use serde_json::{Value, json};

use super::super::escape::{Escape, Limit, fit};
use super::super::message::Message;
use super::super::secret::{Secret, Url};
use super::super::sign;
use super::super::template::percent;
use super::{Post, Unsendable, json_post};

const TELEGRAM: Limit = Limit::utf16(4096);
const WECOM: Limit = Limit::bytes(2048);
/// A request may have 20,000 bytes, and what JSON escapes takes two.
const FEISHU: Limit = Limit::bytes(9000);
const DINGTALK: Limit = Limit::bytes(9000);
const DISCORD: Limit = Limit::utf16(2000);
/// Slack cuts what is longer into several messages.
const SLACK: Limit = Limit::utf16(4000);

/// `sendMessage` of the Bot API. Without a parse mode nothing is formatting.
pub fn telegram(token: &Secret, chat: &str, api_base: &Url, message: &Message) -> Result<Post, Unsendable> {
    let text = fit(&message.whole(), Escape::Mentions, TELEGRAM);
    let body = json!({ "chat_id": chat, "text": text, "link_preview_options": { "is_disabled": true } });
    json_post(&api_base.below(&format!("bot{}/sendMessage", token.expose())), &body)
}

/// A robot of a group. In texts, other than in its Markdown, nobody is mentioned.
pub fn wecom(url: &Url, message: &Message) -> Result<Post, Unsendable> {
    let text = fit(&message.whole(), Escape::None, WECOM);
    json_post(&url.expose(), &json!({ "msgtype": "text", "text": { "content": text } }))
}

/// A robot of a group; signed if it wants that.
pub fn feishu(url: &Url, secret: Option<&Secret>, message: &Message, now: u64) -> Result<Post, Unsendable> {
    let text = fit(&message.whole(), Escape::Tags, FEISHU);
    let mut body = json!({ "msg_type": "text", "content": { "text": text } });
    if let Some(secret) = secret {
        let seconds = now / 1000;
        body["timestamp"] = Value::from(seconds.to_string());
        body["sign"] = Value::from(sign::feishu(secret.expose(), seconds));
    }
    json_post(&url.expose(), &body)
}

/// A robot of a group; signed if it wants that. Only `at` mentions somebody.
pub fn dingtalk(url: &Url, secret: Option<&Secret>, message: &Message, now: u64) -> Result<Post, Unsendable> {
    let text = fit(&message.whole(), Escape::None, DINGTALK);
    let body = json!({ "msgtype": "text", "text": { "content": text }, "at": { "isAtAll": false } });
    let mut url = url.expose();
    if let Some(secret) = secret {
        url.push(if url.contains('?') { '&' } else { '?' });
        let sign = percent(&sign::dingtalk(secret.expose(), now));
        url += &format!("timestamp={now}&sign={sign}");
    }
    json_post(&url, &body)
}

/// A webhook of a channel. Nobody is mentioned, and links make no pictures (flag 4).
pub fn discord(url: &Url, message: &Message) -> Result<Post, Unsendable> {
    let text = fit(&message.whole(), Escape::Markdown, DISCORD);
    json_post(&url.expose(), &json!({ "content": text, "allowed_mentions": { "parse": [] }, "flags": 4 }))
}

/// An incoming webhook.
pub fn slack(url: &Url, message: &Message) -> Result<Post, Unsendable> {
    let text = fit(&message.whole(), Escape::Entities, SLACK);
    let body = json!({
        "text": text, "mrkdwn": false, "link_names": false, "unfurl_links": false, "unfurl_media": false,
    });
    json_post(&url.expose(), &body)
}

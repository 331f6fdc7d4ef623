//! Signatures that two chats want: HMAC-SHA-256 over a time and a secret, each in its own way.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use data_encoding::BASE64;

/// DingTalk: the secret signs the time, in milliseconds, and itself.
pub fn dingtalk(secret: &str, milliseconds: u64) -> String {
    let text = format!("{milliseconds}\n{secret}");
    BASE64.encode(sign(&Key::new(HMAC_SHA256, secret.as_bytes()), text.as_bytes()).as_ref())
}

/// Feishu: the time, in seconds, and the secret together sign nothing.
pub fn feishu(secret: &str, seconds: u64) -> String {
    let key = format!("{seconds}\n{secret}");
    BASE64.encode(sign(&Key::new(HMAC_SHA256, key.as_bytes()), b"").as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `printf '1577262236757\nthis is secret' | openssl dgst -sha256 -hmac 'this is secret' -binary | base64`, and with an
    /// empty text and both for a key.
    #[test]
    fn signatures_are_those_of_openssl() {
        assert_eq!(
            dingtalk("this is secret", 1_577_262_236_757),
            "hmPWwU+7lVdm3ZZz0r9tSfx0L4Q26jWOZr9+Gs6EZQM="
        );
        assert_eq!(feishu("demo", 1_599_360_473), "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8=");
    }
}

//! Texts that nobody may see: tokens, passwords, whole URLs that have keys in them.

use std::fmt;

use http::Uri;

/// What stands where a secret would.
pub const HIDDEN: &str = "(hidden)";
/// A shorter part of a URL is no secret, and may be a word of any error text.
const SHORTEST: usize = 6;

/// Is never shown, in no debug output either.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// For the request, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// An address of http or https. It may have a key anywhere behind its host, so only the host is shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Url(Uri);

impl Url {
    /// What a URL may look like, for error texts.
    pub const FORMS: &str =
        r#"write one such as "https://example.com/hook", with what is not ASCII as %E6%B8%AF"#;

    /// `None` for anything that is no whole URL of http or https, or has a user in it.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        (is_web && has_host && !has_user && is_plain).then_some(Self(uri))
    }

    pub const fn uri(&self) -> &Uri {
        &self.0
    }

    /// The whole text, for the request.
    pub fn expose(&self) -> String {
        self.0.to_string()
    }

    /// This place and a path below it.
    pub fn below(&self, path: &str) -> String {
        format!("{}/{path}", self.expose().trim_end_matches('/'))
    }

    /// `https://example.com`
    pub fn origin(&self) -> String {
        let authority = self.0.authority().map(ToString::to_string).unwrap_or_default();
        format!("{}://{authority}", self.0.scheme_str().unwrap_or_default())
    }

    /// What may not be seen of it: all, and each part behind the host that may be a key.
    pub fn secrets(&self) -> Vec<String> {
        let behind = self.0.path_and_query().map(ToString::to_string).unwrap_or_default();
        let parts = behind.split(['/', '?', '&', '=']).filter(|part| part.len() >= SHORTEST);
        parts.map(ToOwned::to_owned).collect()
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{HIDDEN}", self.origin())
    }
}

/// A text from outside without secrets, on one line, and no longer than people read.
pub fn scrubbed(text: &str, secrets: &[String]) -> String {
    const MOST: usize = 300;
    let mut secrets: Vec<&String> = secrets.iter().filter(|secret| !secret.is_empty()).collect();
    // the longest first, since a shorter one may be a part of it
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    let text =
        secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN));
    let text: Vec<&str> = text.split(|letter: char| letter.is_whitespace() || letter.is_control()).collect();
    let text = text.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_secret_is_shown() {
        assert_eq!(format!("{:?}", Secret::new("sesame")), "(hidden)");
        let url = Url::parse("https://open.example.com/bot/v2/hook/0123456789?key=abcdef-1").expect("URL");
        assert_eq!(format!("{url:?}"), "https://open.example.com/(hidden)");
        let error = "no hook 0123456789\r\nfor /bot/v2/hook/0123456789?key=abcdef-1";
        let shown = scrubbed(error, &url.secrets());
        assert_eq!(shown, "no hook (hidden) for /bot/v2/hook/(hidden)?key=(hidden)");
    }

    #[test]
    fn what_is_no_url_is_not_taken() {
        for text in [
            "",
            "example.com",
            "ftp://example.com/",
            "https://",
            "https:///x",
            "https://a:b@example.com/",
            "https://example.com/香",
            "https://example.com/a b",
        ] {
            assert!(Url::parse(text).is_none(), "{text}");
        }
        let url = Url::parse("http://[2001:db8::1]:8080/a/").expect("URL");
        assert_eq!(
            (url.origin().as_str(), url.below("b").as_str()),
            ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080/a/b")
        );
    }

    #[test]
    fn long_answers_are_cut_between_characters() {
        let shown = scrubbed(&"香".repeat(1000), &[]);
        assert_eq!(shown.chars().count(), 300);
        assert!(shown.ends_with('…'));
    }
}

//! Texts with placeholders: `{{title}}`. What is put in is escaped for where it stands.

use std::fmt::Write as _;

/// A text with places to be filled in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
    /// As it was written.
    text: Box<str>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(Box<str>),
    Field(Field),
}

/// What can be put in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// One line that says whose message it is, and of how many events.
    Title,
    /// All lines, the title not among them.
    Text,
    /// The host's name.
    Host,
    /// How many events there are.
    Count,
    /// Of the first event, as 2026-11-23T08:00:00Z.
    Time,
    /// The kinds of the events, with commas.
    Kind,
    /// The rules that they are about, with commas.
    Rule,
}

impl Field {
    const ALL: [(Self, &str); 7] = [
        (Self::Title, "title"),
        (Self::Text, "text"),
        (Self::Host, "host"),
        (Self::Count, "count"),
        (Self::Time, "time"),
        (Self::Kind, "kind"),
        (Self::Rule, "rule"),
    ];
}

/// Why a text is no template.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    #[error("a {{{{ has no }}}}")]
    Unclosed,
    #[error("there is no placeholder {{{{{0}}}}}")]
    Unknown(Box<str>),
}

impl Template {
    /// For error texts.
    pub const FORMS: &str =
        "placeholders are {{title}}, {{text}}, {{host}}, {{count}}, {{time}}, {{kind}} and {{rule}}";

    /// Two braces always begin a placeholder; no JSON has them there.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind.split_once("}}").ok_or(TemplateError::Unclosed)?;
            let name = name.trim();
            let found = Field::ALL.into_iter().find(|(_, known)| *known == name);
            let (field, _) = found.ok_or_else(|| TemplateError::Unknown(name.into()))?;
            parts.extend((!before.is_empty()).then(|| Part::Text(before.into())));
            parts.push(Part::Field(field));
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.into())));
        Ok(Self { parts, text: text.into() })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.text
    }

    /// Words of what is written in it that may be keys: long ones, without blanks or signs of any format.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        const SHORTEST: usize = 8;
        let literals = self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(&**text),
            Part::Field(_) => None,
        });
        let is_sign = |letter: char| !(letter.is_alphanumeric() || "-_.".contains(letter));
        literals.flat_map(move |text| text.split(is_sign)).filter(|word| word.len() >= SHORTEST)
    }

    /// With every place filled in.
    pub fn fill(&self, format: Format, value: impl Fn(Field) -> String) -> String {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled += text,
                Part::Field(field) => format.escape(&value(*field), &mut filled),
            }
        }
        filled
    }
}

/// What a body is, which says how to escape what is put in, and its content type.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// Placeholders stand inside of strings.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`
    Form,
    /// As it is.
    Plain,
}

impl Format {
    pub const WORDS: [&str; 3] = ["json", "form", "plain"];

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Json, Self::Form, Self::Plain].into_iter().find(|format| format.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Form => "form",
            Self::Plain => "plain",
        }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Form => "application/x-www-form-urlencoded",
            Self::Plain => "text/plain; charset=utf-8",
        }
    }

    fn escape(self, text: &str, into: &mut String) {
        match self {
            Self::Plain => *into += text,
            Self::Form => *into += &percent(text),
            Self::Json => {
                let quoted = serde_json::Value::from(text).to_string();
                // without the quotes around it
                *into += &quoted[1..quoted.len() - 1];
            }
        }
    }
}

/// Every byte that has a meaning in a URL or a form is written as `%2F` (RFC 3986 section 2.1).
pub fn percent(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => {
                let _infallible = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that means something somewhere.
    const NASTY: &str = "\"a\" \\ {{title}} & b=c\n\t香港 %41 + \u{1}";

    fn filled(template: &str, format: Format) -> String {
        Template::parse(template).expect("template").fill(format, |_| NASTY.to_owned())
    }

    #[test]
    fn json_stays_json() {
        let filled = filled(r#"{"text": "say: {{ text }}!", "a": {"b": {"c": 1}}}"#, Format::Json);
        let value: serde_json::Value = serde_json::from_str(&filled).expect("JSON");
        assert_eq!(value["text"], format!("say: {NASTY}!"));
        assert_eq!(value["a"]["b"]["c"], 1);
        // one that is nothing but quotes
        let quotes = Template::parse("\"{{text}}\"").expect("template").fill(Format::Json, |_| "\"\"".into());
        assert_eq!(quotes, r#""\"\"""#);
    }

    #[test]
    fn forms_keep_their_fields() {
        let filled = filled("text={{text}}&x=1", Format::Form);
        let (first, last) = filled.split_once('&').expect("two fields");
        assert_eq!(last, "x=1");
        let value = first.strip_prefix("text=").expect("value");
        assert!(
            value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)),
            "{value}"
        );
        assert_eq!(percent("香 &=+%"), "%E9%A6%99%20%26%3D%2B%25");
    }

    #[test]
    fn plain_text_is_put_in_as_it_is() {
        assert_eq!(filled("<{{text}}>", Format::Plain), format!("<{NASTY}>"));
    }

    #[test]
    fn mistakes_have_names() {
        assert_eq!(Template::parse("{{nosuch}}"), Err(TemplateError::Unknown("nosuch".into())));
        assert_eq!(Template::parse("a {{text").expect_err("unclosed").to_string(), "a {{ has no }}");
        let unknown = Template::parse("{{x}}").expect_err("unknown").to_string();
        assert_eq!(unknown, "there is no placeholder {{x}}");
        for (_, name) in Field::ALL {
            assert!(Template::FORMS.contains(&format!("{{{{{name}}}}}")), "{name}");
        }
    }
}

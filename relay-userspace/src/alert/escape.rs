//! What services would read as more than text, written so that they do not; and how long a message may be.

/// How a service is told that a character is only a character.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Escape {
    /// The service takes text as it is.
    None,
    /// Telegram without a parse mode: nothing but `@name`, which is a mention unless something invisible stands in it.
    Mentions,
    /// Slack: `&`, `<` and `>` begin entities, links and mentions.
    Entities,
    /// Discord: Markdown, and `<@` for mentions.
    Markdown,
    /// Feishu: `<at ...>` is a mention, and there is no other way to write a `<`.
    Tags,
}

impl Escape {
    fn push(self, letter: char, into: &mut String) {
        match (self, letter) {
            (Self::Entities, '&') => *into += "&amp;",
            (Self::Entities, '<') => *into += "&lt;",
            (Self::Entities, '>') => *into += "&gt;",
            (
                Self::Markdown,
                '\\' | '*' | '_' | '~' | '`' | '|' | '>' | '<' | '#' | '[' | ']' | '(' | ')' | '@' | '-',
            ) => {
                into.push('\\');
                into.push(letter);
            }
            // a joiner of words, which has no width
            (Self::Mentions, '@') => *into += "@\u{2060}",
            // the sign for "less than" of East Asian fonts
            (Self::Tags, '<') => into.push('\u{ff1c}'),
            _ => into.push(letter),
        }
    }

    pub fn apply(self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        text.chars().for_each(|letter| self.push(letter, &mut escaped));
        escaped
    }
}

/// How much a service takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limit {
    pub most: usize,
    pub unit: Unit,
}

/// What a service counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Of UTF-8.
    Bytes,
    /// Units of UTF-16: most characters are one, emoji two.
    Utf16,
}

impl Limit {
    pub const fn bytes(most: usize) -> Self {
        Self { most, unit: Unit::Bytes }
    }

    pub const fn utf16(most: usize) -> Self {
        Self { most, unit: Unit::Utf16 }
    }

    fn size(self, text: &str) -> usize {
        match self.unit {
            Unit::Bytes => text.len(),
            Unit::Utf16 => text.encode_utf16().count(),
        }
    }
}

/// A line behind others that says how many are missing.
fn rest(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "\n… and 1 more".into(),
        _ => format!("\n… and {count} more"),
    }
}

/// Lines one below the other, escaped, as many as there is room for; what is left out is counted in a last line. A line that
/// takes most of the room by itself is cut between two characters.
pub fn fit(lines: &[String], escape: Escape, limit: Limit) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let piece = escape.apply(line);
        let gap = if index > 0 { "\n" } else { "" };
        let left = lines.len() - index - 1;
        let taken = limit.size(&text) + gap.len() + limit.size(&rest(left));
        let room = limit.most.saturating_sub(taken);
        if taken + limit.size(&piece) <= limit.most {
            text = text + gap + &piece;
            continue;
        }
        let is_long = limit.size(&piece) > limit.most / 2 && room > limit.most / 4;
        return if index == 0 || is_long {
            text + gap + &cut(line, escape, Limit { most: room, ..limit }) + &rest(left)
        } else {
            text + &rest(left + 1)
        };
    }
    text
}

/// As much of the beginning as there is room for, with an ellipsis if that is not all.
pub fn cut(text: &str, escape: Escape, limit: Limit) -> String {
    let whole = escape.apply(text);
    if limit.size(&whole) <= limit.most {
        return whole;
    }
    let room = limit.most.saturating_sub(limit.size("…"));
    let mut short = String::new();
    for letter in text.chars() {
        let before = short.len();
        escape.push(letter, &mut short);
        if limit.size(&short) > room {
            short.truncate(before);
            break;
        }
    }
    short + "…"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Escape; 5] =
        [Escape::None, Escape::Mentions, Escape::Entities, Escape::Markdown, Escape::Tags];

    #[test]
    fn nothing_means_more_than_itself() {
        let text = "<@U1> <!channel> @everyone *b* _i_ [x](http://y) & `c` # h > q";
        assert_eq!(
            Escape::Entities.apply(text),
            "&lt;@U1&gt; &lt;!channel&gt; @everyone *b* _i_ [x](http://y) &amp; `c` # h &gt; q"
        );
        assert_eq!(
            Escape::Markdown.apply(text),
            r"\<\@U1\> \<!channel\> \@everyone \*b\* \_i\_ \[x\]\(http://y\) & \`c\` \# h \> q"
        );
        assert_eq!(Escape::Tags.apply("<at user_id=\"all\">"), "＜at user_id=\"all\">");
        assert_eq!(Escape::Mentions.apply("ask @me"), "ask @\u{2060}me");
        assert_eq!(Escape::None.apply(text), text);
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let lines: Vec<String> = (0..5).map(|number| format!("line {number}")).collect();
        assert_eq!(fit(&lines, Escape::None, Limit::bytes(100)), lines.join("\n"));
        // "line 0\nline 1" and its last line, whose ellipsis has three bytes
        assert_eq!(fit(&lines, Escape::None, Limit::bytes(28)), "line 0\nline 1\n… and 3 more");
        let long = vec!["香".repeat(10), "more".to_owned()];
        assert_eq!(fit(&long, Escape::None, Limit::bytes(28)), "香香香…\n… and 1 more");
        // an empty line has no room either where its gap has none
        let empty = ["x".repeat(26), String::new(), "y".repeat(9)];
        assert_eq!(fit(&empty, Escape::None, Limit::bytes(41)), format!("{}\n… and 2 more", "x".repeat(26)));
        let last = vec!["short".to_owned(), "x".repeat(100)];
        assert_eq!(fit(&last, Escape::None, Limit::bytes(40)), format!("short\n{}…", "x".repeat(31)));
        assert_eq!(cut("a&b", Escape::Entities, Limit::bytes(7)), "a&amp;b");
        assert_eq!(cut("a&bcd", Escape::Entities, Limit::bytes(7)), "a…", "no half entity");
        assert_eq!(cut("😀😀", Escape::None, Limit::utf16(3)), "😀…");
    }

    proptest! {
        #[test]
        fn limits_hold(lines in prop::collection::vec(".{0,60}", 0..20), most in 40_usize..400) {
            for escape in ALL {
                for limit in [Limit::bytes(most), Limit::utf16(most)] {
                    let text = fit(&lines, escape, limit);
                    prop_assert!(limit.size(&text) <= most, "{} of {most}: {text}", limit.size(&text));
                }
            }
        }
    }
}

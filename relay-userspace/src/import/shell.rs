//! Lines that a shell would take: `KEY=value`, and commands. They are split into words, and nothing is run.

use super::{Refusal, Source};

/// `KEY=value`, `KEY="value"` or `KEY='value'`, maybe with `export` before it and a comment behind.
///
/// # Errors
///
/// A line of another form, a quote that does not end, and what a shell would run.
pub fn assignment<'a>(source: &Source, line: usize, text: &'a str) -> Result<(&'a str, &'a str), Refusal> {
    let text = text.strip_prefix("export ").unwrap_or(text);
    if text.contains("$(") || text.contains('`') {
        return Err(source.refuse(line, "a shell would run what stands here; write the value itself"));
    }
    let is_key =
        |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| is_key(key))
        .ok_or_else(|| source.refuse(line, format!("{text:?} is not KEY=value")))?;
    let closed =
        |quote: char| value.strip_prefix(quote).map(|rest| rest.split_once(quote).map(|(inner, _)| inner));
    match closed('"').or_else(|| closed('\'')) {
        Some(Some(inner)) => Ok((key, inner)),
        Some(None) => Err(source.refuse(line, format!("{key}: the quote does not end"))),
        None => Ok((key, value.split(" #").next().unwrap_or(value).trim())),
    }
}

/// Words, with what stands in quotes kept together.
pub fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut is_word) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match c {
            '"' | '\'' if quote.is_none() => (quote, is_word) = (Some(c), true),
            c if quote == Some(c) => quote = None,
            c if c.is_whitespace() && quote.is_none() => {
                if is_word || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            c => word.push(c),
        }
    }
    if is_word || !word.is_empty() {
        words.push(word);
    }
    words
}

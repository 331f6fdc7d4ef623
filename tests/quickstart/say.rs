//! What the quickstart prints.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Prints a paragraph or a line to standard output. A reader that has gone is no failure.
pub fn line(text: &str) {
    let _reader_gone = writeln!(std::io::stdout(), "{text}");
}

/// Prints a problem to standard error.
pub fn problem(text: &str) {
    let _nowhere_to_say_it = writeln!(std::io::stderr(), "error: {text}");
}

/// A command as typed, and its own output.
pub fn command(typed: &str, output: &str) {
    line(&format!("  $ {typed}"));
    for text in output.lines() {
        line(format!("  {text}").trim_end());
    }
    line("");
}

/// A number with separators: 12,345.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Gigabits per second.
pub fn rate(bytes: u64, time: Duration) -> String {
    format!("{:.1} Gbit/s", bytes as f64 * 8e-9 / time.as_secs_f64())
}

/// A path as short as it can be typed here.
pub fn path(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

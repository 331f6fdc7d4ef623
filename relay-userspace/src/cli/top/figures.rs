//! Numbers in few characters.

/// Eighths of a line's height.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `0`, `7.5`, `999`, `1.23k`, `45.6M`: five characters at most, by thousands.
pub fn rate(value: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (mut value, mut unit) = (value.max(0.0), 0);
    // 999.5 is a thousand when it is rounded
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 && !(0.05..9.95).contains(&value) => 0,
        _ if unit == 0 => 1,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", UNITS[unit])
}

/// The same of what is whole.
pub fn count(number: u64) -> String {
    if number < 1000 { number.to_string() } else { rate(number as f64) }
}

/// The last values as bars, the newest to the right. `most`: what is as high as a line.
pub fn bars(values: impl DoubleEndedIterator<Item = f64>, width: usize, most: f64) -> String {
    let last: Vec<char> = values.rev().take(width).map(|value| bar(value, most)).collect();
    let blanks = std::iter::repeat_n(' ', width - last.len());
    blanks.chain(last.into_iter().rev()).collect()
}

fn bar(value: f64, most: f64) -> char {
    if value <= 0.0 || most <= 0.0 {
        return ' ';
    }
    let steps = BARS.len() as f64;
    let step = (value / most * steps).ceil().clamp(1.0, steps);
    BARS[step as usize - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (-1.0, "0"),
            (0.5, "0.5"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (9_996.0, "10.0k"),
            (45_600_000.0, "45.6M"),
            (999_600_000.0, "1.00G"),
            (9e15, "9.00P"),
        ] {
            assert_eq!(rate(value), text);
        }
        assert_eq!((count(4), count(45_600)), ("4".into(), "45.6k".into()));
    }

    #[test]
    fn bars_end_with_the_newest() {
        assert_eq!(bars([1.0, 0.0, 8.0].into_iter(), 5, 8.0), "  ▁ █");
        assert_eq!(bars([8.0, 4.0, 1.0].into_iter(), 2, 8.0), "▄▁");
        assert_eq!(bars([3.0].into_iter(), 1, 0.0), " ");
        assert_eq!(bars([3.0].into_iter(), 0, 1.0), "");
    }
}

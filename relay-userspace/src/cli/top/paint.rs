//! Colours, or none.

use ratatui::style::{Color, Modifier, Style};

/// How things are shown. Without colours everything can still be told: states are words, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Paint {
    pub coloured: bool,
}

impl Paint {
    /// Colours unless `NO_COLOR` is there and not empty (<https://no-color.org>), or the terminal has none.
    pub fn from_environment() -> Self {
        let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        Self { coloured: !is_off && !is_dumb }
    }

    const fn in_colour(self, colour: Color) -> Style {
        if self.coloured { Style::new().fg(colour) } else { Style::new() }
    }

    pub const fn head(self) -> Style {
        self.in_colour(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub const fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub const fn quiet(self) -> Style {
        self.in_colour(Color::DarkGray)
    }

    pub const fn trouble(self) -> Style {
        self.in_colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub const fn ingress(self) -> Style {
        self.in_colour(Color::Green)
    }

    pub const fn egress(self) -> Style {
        self.in_colour(Color::Blue)
    }

    /// Of a rule or a backend.
    pub fn state(self, state: &str) -> Style {
        match state {
            "active" | "up" => self.in_colour(Color::Green),
            "disabled" | "unknown" => self.quiet(),
            "draining" => self.in_colour(Color::Yellow),
            _ => self.in_colour(Color::Red),
        }
    }
}

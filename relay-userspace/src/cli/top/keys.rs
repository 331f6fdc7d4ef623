//! What keys do.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::columns::SortBy;
use super::model::{Mode, Model};

/// What a key asks of the program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    GoOn,
    Suspend,
    Quit,
}

/// Keys and what they do, for the help.
pub const KEYS: [(&str, &str); 13] = [
    ("↑ ↓ k j  PgUp PgDn  Home End", "choose a rule"),
    ("Enter", "its details; Esc goes back"),
    ("PgUp PgDn", "there: more of its backends and drops"),
    ("/", "only rules with a text in name, note, address or state"),
    ("b", "sort by traffic both ways"),
    ("n i o f w d s", "by name, in, out, flows, new flows, drops, state"),
    ("< >", "by the column to the left or right"),
    ("r", "the other way round"),
    ("p Space", "pause"),
    ("+ -", "less often, more often"),
    ("q Ctrl-C", "quit"),
    ("Ctrl-Z", "to the shell; fg comes back"),
    ("?", "this"),
];

/// Answers are at least so far apart, and at most.
pub const INTERVALS: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(60)];
/// Rows of a page.
const PAGE: isize = 10;

impl Model {
    pub fn press(&mut self, key: KeyEvent) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Step::Quit,
                KeyCode::Char('z') => Step::Suspend,
                _ => Step::GoOn,
            };
        }
        match self.mode {
            Mode::Filter => self.type_filter(key.code),
            Mode::Help => {
                self.mode = Mode::List;
                return if key.code == KeyCode::Char('q') { Step::Quit } else { Step::GoOn };
            }
            Mode::List | Mode::Detail => return self.command(key.code),
        }
        Step::GoOn
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::List;
            }
            _ => {}
        }
        self.keep_selection();
    }

    fn command(&mut self, code: KeyCode) -> Step {
        match code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Enter if self.selection().is_some() => {
                self.hold_selection();
                self.scrolled = 0;
                self.mode = Mode::Detail;
            }
            KeyCode::Esc if self.mode == Mode::Detail => self.mode = Mode::List,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(INTERVALS[1]),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(INTERVALS[0]),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown if self.mode == Mode::Detail => self.scroll(PAGE),
            KeyCode::PageUp if self.mode == Mode::Detail => self.scroll(-PAGE),
            KeyCode::PageDown => self.step(PAGE),
            KeyCode::PageUp => self.step(-PAGE),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char('r') => self.order = self.order.reversed(),
            KeyCode::Char('<') | KeyCode::Left => self.sort(self.order.by.beside(-1)),
            KeyCode::Char('>') | KeyCode::Right => self.sort(self.order.by.beside(1)),
            KeyCode::Char(letter) => {
                if let Some(by) = sort_key(letter) {
                    self.sort(by);
                }
            }
            _ => {}
        }
        Step::GoOn
    }
}

const fn sort_key(letter: char) -> Option<SortBy> {
    Some(match letter {
        'b' => SortBy::Traffic,
        'n' => SortBy::Name,
        'i' => SortBy::Ingress,
        'o' => SortBy::Egress,
        'f' => SortBy::Flows,
        'w' => SortBy::New,
        'd' => SortBy::Drops,
        's' => SortBy::State,
        _ => return None,
    })
}

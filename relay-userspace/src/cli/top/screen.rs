//! The terminal, taken and put back as it was, however this ends.

use std::io::{self, Stdout, stdout};
use std::sync::Once;

use anyhow::Context as _;
use nix::sys::signal::{Signal, raise};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

/// A terminal in raw mode that shows its other screen. Put back when this goes, and when the program panics.
pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

static HOOK: Once = Once::new();

impl Screen {
    pub fn take() -> anyhow::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                put_back();
                before(info);
            }));
        });
        enter().context("cannot take the terminal")?;
        match Terminal::new(CrosstermBackend::new(stdout())) {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                put_back();
                Err(error).context("cannot draw on the terminal")
            }
        }
    }

    /// Draws what has changed since the last time.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        self.0.draw(draw).context("cannot draw on the terminal")?;
        Ok(())
    }

    /// Gives the terminal to the shell, and takes it again when the shell says so.
    pub fn suspend(&mut self) -> anyhow::Result<()> {
        put_back();
        // the terminal's own stop signal is taken by us
        raise(Signal::SIGSTOP).context("cannot stop")?;
        enter().context("cannot take the terminal again")?;
        // one that knows of an empty screen: `clear` would ask the terminal where its cursor is, and the answer be taken for keys
        self.0 = Terminal::new(CrosstermBackend::new(stdout())).context("cannot draw on the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put_back();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All)).inspect_err(|_| put_back())
}

fn put_back() {
    let _no_terminal = disable_raw_mode();
    let _nobody_sees_it = execute!(stdout(), LeaveAlternateScreen, Show);
}

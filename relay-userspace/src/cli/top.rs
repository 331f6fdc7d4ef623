//! `relayctl top`: all rules on a terminal, live. What is shown is a [`model`] made of answers and keys; drawing reads it.

mod columns;
mod detail;
mod draw;
mod figures;
mod keys;
mod model;
mod paint;
mod poll;
mod screen;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::Context as _;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::keys::INTERVALS;
use self::keys::Step;
use self::model::Model;
use self::paint::Paint;
use self::poll::{Sample, poll};
use self::screen::Screen;
use super::args::Top;
use super::{Exit, Misuse};

/// Answers that may wait to be shown.
const BACKLOG: usize = 4;

/// Shows all rules until somebody has seen enough.
pub async fn run(socket: &Path, top: &Top) -> anyhow::Result<Exit> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let text = "top draws on a terminal, and this is none; `relayctl list -w` prints again every second";
        return Err(Misuse(text.into()).into());
    }
    // before the screen is taken, so that a relayd that does not run is an error as with any other command
    let first = Sample::take(socket).await?;
    let (pace, paced) = watch::channel(top.interval);
    let (answers, mut samples) = mpsc::channel(BACKLOG);
    let mut tasks = JoinSet::new();
    tasks.spawn(poll(socket.to_owned(), paced, answers));
    let mut stop = wait_for(SignalKind::from_raw(nix::libc::SIGTSTP))?;
    let mut ends = Ends::new()?;
    let mut model = Model::new(top.interval);
    model.take(first);
    let paint = Paint::from_environment();
    let mut screen = Screen::take()?;
    let mut events = events();
    loop {
        screen.draw(|frame| {
            model.fit(draw::room(frame.area()));
            draw::all(frame, &model, paint, Instant::now());
        })?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match model.press(key) {
                    Step::GoOn => _ = pace.send_if_modified(|now| std::mem::replace(now, model.interval) != model.interval),
                    Step::Suspend => screen.suspend()?,
                    Step::Quit => return Ok(Exit::Done),
                },
                Some(_) => {}
                // the terminal has gone
                None => return Ok(Exit::Done),
            },
            Some(sample) = samples.recv() => match sample {
                Ok(sample) => model.take(sample),
                Err(why) => model.lose(why, Instant::now()),
            },
            _ = stop.recv() => screen.suspend()?,
            () = ends.come() => return Ok(Exit::Done),
        }
    }
}

/// Keys and sizes, as the terminal tells them. It is read by a thread that ends with the program.
fn events() -> mpsc::UnboundedReceiver<Event> {
    let (sender, events) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read()
            && sender.send(event).is_ok()
        {}
    });
    events
}

/// Those that end programs. They must not leave the terminal as it is.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> anyhow::Result<Self> {
        Ok(Self([
            wait_for(SignalKind::terminate())?,
            wait_for(SignalKind::interrupt())?,
            wait_for(SignalKind::hangup())?,
        ]))
    }

    async fn come(&mut self) {
        let [terminate, interrupt, hang_up] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

fn wait_for(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot wait for signals")
}

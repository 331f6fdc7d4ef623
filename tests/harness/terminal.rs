//! A program on a terminal of its own, seen as somebody in front of it would see it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Child, Command, ExitStatus};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::eventually;

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, nix::pty::Winsize);
}

/// The terminal and the program on it. Both end with the value.
pub struct Terminal {
    screen: File,
    /// The program's end, by which the terminal can be asked.
    line: OwnedFd,
    child: Child,
    parser: vt100::Parser,
}

impl Terminal {
    /// Starts a program on a terminal of so many rows and columns.
    pub fn start(command: &Command, (rows, columns): (u16, u16)) -> Self {
        let pair = openpty(Some(&size(rows, columns)), None).expect("a terminal");
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("non-blocking");
        let end = || pair.slave.try_clone().expect("the terminal's other end");
        // util-linux has what makes it the program's own: then it has its size and its signals from it
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        on_terminal.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        let child = on_terminal.spawn().expect("setsid starts (apt install util-linux)");
        let parser = vt100::Parser::new(some(rows), some(columns), 0);
        Self { screen: pair.master.into(), line: pair.slave, child, parser }
    }

    /// Reads what the program has written since.
    pub fn look(&mut self) -> &vt100::Screen {
        let mut bytes = [0; 65_536];
        loop {
            match self.screen.read(&mut bytes) {
                Ok(0) => break,
                Ok(length) => self.parser.process(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("terminal: {error}"),
            }
        }
        self.parser.screen()
    }

    /// Waits until what is on the screen is so.
    pub fn await_screen(&mut self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut seen = String::new();
        let start = std::time::Instant::now();
        let limit = crate::patience(std::time::Duration::from_secs(20));
        loop {
            seen.clear();
            seen += &self.look().contents();
            if is_so(&seen) {
                return;
            }
            assert!(start.elapsed() < limit, "{what}; the screen is\n{seen}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    pub fn type_in(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).expect("typed");
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        // SAFETY: the descriptor is the terminal's, and the size lives as long as the call.
        unsafe { ioctl::set_size(self.screen.as_raw_fd(), &size(rows, columns)) }.expect("another size");
        self.parser.screen_mut().set_size(some(rows), some(columns));
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("signal");
    }

    /// The letter that the kernel has for the program's state: `T` is stopped.
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?')
    }

    /// Whether the terminal takes lines and shows what is typed, and shows its usual screen and a cursor.
    pub fn is_put_back(&mut self) -> bool {
        let flags = tcgetattr(self.line.as_fd()).expect("settings").local_flags;
        let screen = self.look();
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
            && !screen.alternate_screen()
            && !screen.hide_cursor()
    }

    /// Waits for the program's end.
    pub fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("the program ends", || {
            // it could not end before what it has written is read
            self.look();
            ended = self.child.try_wait().expect("wait");
            ended.is_some()
        });
        ended.expect("it has ended")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn some(lines: u16) -> NonZero<u16> {
    NonZero::new(lines).expect("a terminal has lines")
}

const fn size(ws_row: u16, ws_col: u16) -> Winsize {
    Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }
}

//! The quickstart: a client, the relay and a backend in namespaces, real traffic, and what to type next.
//!
//! The program starts itself a second time inside namespaces of the run's own, where the show takes place.

mod limited;
mod say;
mod show;
mod stage;

use std::process::ExitCode;

use nix::unistd::geteuid;

use self::stage::Stage;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None if geteuid().is_root() => as_root(),
        None => limited::run(),
        Some(stage::SHOW) => {
            stage::enter();
            show::run()
        }
        Some(stage::SHOW_LIMITED) => {
            stage::enter();
            limited::show()
        }
        Some(other) => {
            say::problem(&format!(
                "the quickstart takes no argument, and got {other:?}; relayd takes them: cargo xtask run -- {other}"
            ));
            ExitCode::from(2)
        }
    }
}

fn as_root() -> ExitCode {
    match Stage::raise().and_then(|stage| stage.play(stage::SHOW)) {
        Ok(code) => code,
        Err(error) => {
            say::problem(&format!(
                "cannot make namespaces: {error}\n\
                 root may not do that everywhere: in a container, run it on the host or with --privileged"
            ));
            ExitCode::FAILURE
        }
    }
}

//! relayd and relayctl as processes.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::netns::NetNs;
use crate::patience;
use crate::store::{self, Store};

/// Where a built program is.
pub fn binary(name: &str) -> PathBuf {
    let path = chosen_folder().unwrap_or_else(built_folder).join(name);
    assert!(path.exists(), "{} is not built; cargo xtask run and cargo xtask test build it", path.display());
    path
}

/// Where the programs of a tool are that `cargo xtask test` builds for the tests.
pub fn tool_folder(tool: &str) -> PathBuf {
    chosen_folder().unwrap_or_else(|| {
        let target = built_folder().parent().map(PathBuf::from).expect("the target folder");
        target.join("tools").join(tool).join("bin")
    })
}

/// Where all of them are, if somebody says so.
fn chosen_folder() -> Option<PathBuf> {
    std::env::var_os("RELAY_BIN_DIR").map(PathBuf::from)
}

/// Ours: a test is target/PROFILE/deps/test, a program target/PROFILE/program.
fn built_folder() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let folder = own.parent().expect("folder");
    if folder.ends_with("deps") { folder.parent().expect("folder").to_owned() } else { folder.to_owned() }
}

/// A running relayd. Ends with its value.
pub struct Daemon {
    child: Child,
    command: Command,
    store: Option<Arc<Store>>,
    log: fs::File,
    /// What it tells its service manager, one message each.
    pub told: Receiver<String>,
    pub ctl: Ctl,
    pub config: PathBuf,
    pub folder: PathBuf,
}

/// Loading the programs is two seconds of a processor's work, which others may leave little of.
const READY: Duration = Duration::from_secs(120);

impl Daemon {
    /// Starts relayd in a namespace and waits until it is ready.
    pub fn start(ns: &NetNs, folder: &Path, daemon: &str, rules: &str) -> Self {
        Self::spawn(ns, folder, configured(folder, daemon, rules))
    }

    /// The same, under a service manager that keeps descriptors.
    pub fn start_stored(ns: &NetNs, folder: &Path, rules: &str) -> Self {
        Self::spawn_under(ns, folder, configured(folder, "", rules), Some(Arc::default()))
    }

    /// Starts relayd with other arguments.
    pub fn spawn(ns: &NetNs, folder: &Path, command: Command) -> Self {
        Self::spawn_under(ns, folder, command, None)
    }

    /// Starts relayd under a manager that keeps descriptors, or one that does not.
    pub fn spawn_under(ns: &NetNs, folder: &Path, mut command: Command, store: Option<Arc<Store>>) -> Self {
        let notify_path = folder.join("notify");
        let _left_over = fs::remove_file(&notify_path);
        let told = listen(UnixDatagram::bind(&notify_path).expect("notify socket"), store.clone());
        // a relayd of another user tells it too
        fs::set_permissions(&notify_path, fs::Permissions::from_mode(0o666)).expect("mode");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(folder.join("relayd.log"))
            .expect("log");
        command.env("NOTIFY_SOCKET", &notify_path).env_remove("INVOCATION_ID").env_remove("JOURNAL_STREAM");
        if store.is_some() {
            // as systemd 254 says it
            command.env("FDSTORE", "8192");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().expect("log"));
        let child = ns.run(|| command.spawn()).expect("relayd starts");
        let socket = folder.join("relay.sock");
        let ctl = Ctl { socket, folder: folder.to_owned() };
        let config = folder.join("relay.toml");
        let mut daemon = Self { child, command, store, log, told, ctl, config, folder: folder.to_owned() };
        daemon.wait_ready();
        daemon
    }

    fn wait_ready(&mut self) {
        let (start, limit) = (Instant::now(), patience(READY));
        loop {
            match self.told.recv_timeout(limit) {
                Ok(message) if message.contains("READY=1") => return,
                Ok(_) if start.elapsed() < limit => {}
                Ok(_) => panic!("relayd is not ready within {limit:?}\n{}", self.log()),
                Err(error) => panic!("relayd is not ready: {error}\n{}", self.log()),
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("relayd ended: {status}\n{}", self.log());
            }
        }
    }

    /// What relayd has logged.
    pub fn log(&mut self) -> String {
        let mut text = String::new();
        self.log.rewind().expect("log");
        self.log.read_to_string(&mut text).expect("log");
        text
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("signal");
    }

    /// Ends relayd without a chance to do anything about it.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("wait");
    }

    /// Ends relayd as systemd would.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "relayd ended with {status}\n{}", self.log());
    }

    /// Starts it again with the same arguments, and with what the manager has kept.
    pub fn start_again(&mut self, ns: &NetNs) {
        let (store, command, log) = (&self.store, &mut self.command, &self.log);
        let spawn = || match store {
            Some(store) => store.hand_out(command, log.try_clone()?).spawn(),
            None => command.spawn(),
        };
        self.child = ns.run(spawn).expect("relayd starts");
        self.wait_ready();
    }

    /// For the next time it is started.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.command.env(name, value);
    }

    /// What its manager keeps.
    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("a manager that keeps descriptors")
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// What counts for `RLIMIT_DATA`, in KiB: memory of its own that it may write to.
    pub fn data_kib(&self) -> u64 {
        self.status("VmData:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().trim_end_matches(" kB").parse().expect("number")
    }
}

/// relayd with a configuration of its own.
fn configured(folder: &Path, daemon: &str, rules: &str) -> Command {
    let config = folder.join("relay.toml");
    fs::write(&config, settings(folder, daemon) + rules).expect("config");
    let mut command = Command::new(binary("relayd"));
    command.arg("--config").arg(&config);
    command
}

/// Reads all the time, as a service manager does. Ends with the daemon's value.
fn listen(socket: UnixDatagram, store: Option<Arc<Store>>) -> Receiver<String> {
    let (heard, told) = mpsc::channel();
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout");
    thread::spawn(move || {
        loop {
            // an empty message finds out whether anybody listens still
            let (message, descriptors) = store::receive(&socket).unwrap_or_default();
            if let Some(store) = &store {
                store.obey(&message, descriptors);
            }
            if heard.send(message).is_err() {
                return;
            }
        }
    });
    told
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let _shown =
                std::io::Write::write_all(&mut std::io::stderr(), format!("relayd's log:\n{log}").as_bytes());
        }
        let _already_gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A configuration whose files are all in one folder.
pub fn settings(folder: &Path, daemon: &str) -> String {
    let shown = folder.display();
    let mut text = format!(
        "[daemon]\nsocket = \"{shown}/relay.sock\"\nstate_dir = \"{shown}/state\"\nbpf_dir = \"{shown}/bpf\"\n"
    );
    if !daemon.contains("max_flows") {
        text.push_str("max_flows = 4096\n");
    }
    text.push_str(daemon);
    text.push_str("\n\n");
    text
}

/// relayctl, talking to one relayd.
#[derive(Clone, Debug)]
pub struct Ctl {
    pub socket: PathBuf,
    folder: PathBuf,
}

/// What relayctl has said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ctl {
    /// For a relayd that somebody else has started; commands run in the folder.
    pub fn new(socket: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), folder: folder.into() }
    }

    pub fn run(&self, args: &[&str]) -> Said {
        let mut command = Command::new(binary("relayctl"));
        let output = command.arg("--socket").arg(&self.socket).args(args).current_dir(&self.folder).output();
        Said::from(output.expect("relayctl starts"))
    }

    /// Runs it and expects success.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "relayctl {args:?}: {}{}", said.out, said.err);
        said.out
    }

    /// Runs it and expects a certain failure; returns what it complained about.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, code, "relayctl {args:?}: {}{}", said.out, said.err);
        said.err
    }

    /// Output as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        serde_json::from_str(&self.ok(&all)).expect("JSON")
    }

    /// One rule.
    pub fn rule(&self, name: &str) -> Value {
        self.json(&["show", name])
    }

    /// A number of a rule, by its JSON pointer below `/counters`.
    pub fn counter(&self, name: &str, pointer: &str) -> u64 {
        self.rule(name).pointer(&format!("/counters{pointer}")).and_then(Value::as_u64).unwrap_or(0)
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

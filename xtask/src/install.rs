//! `cargo xtask install`: Relay onto this host, or below a folder. It needs nothing but what has been built, so that
//! the built xtask does it under sudo, where cargo has no business.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::build;
use crate::cargo::release_dir;
use crate::tools::{need_root, print, run as run_program, run_quietly};

const SERVICE: &str = include_str!("../../relay-userspace/packaging/relayd.service");
const MOUNT: &str = include_str!("../../relay-userspace/packaging/run-relay\\x2dbpf.mount");
const SYSUSERS: &str = include_str!("../../relay-userspace/packaging/relay.sysusers");
const TMPFILES: &str = include_str!("../../relay-userspace/packaging/relay.tmpfiles");
const EXAMPLE: &str = include_str!("../../relay-userspace/packaging/relay.toml");

/// The name systemd wants for a mount at /run/relay-bpf.
const MOUNT_PLACE: &str = "lib/systemd/system/run-relay\\x2dbpf.mount";
/// Where the packaging files expect Relay.
const UNIT_PREFIX: &str = "/usr/local/";

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Install below this folder, as packagers do; users are made if it holds a system (etc/passwd)
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Where programs, units and pages go
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: PathBuf,
    /// Install what has been built already
    #[arg(long)]
    pub no_build: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let root = std::path::absolute(&options.root)?;
    if !options.prefix.is_absolute() {
        bail!("--prefix {}: not an absolute path", options.prefix.display());
    }
    if !options.no_build {
        build::release()?;
    }
    if root == Path::new("/") {
        let mut again = Command::new(std::env::current_exe()?);
        again.args(["install", "--no-build", "--prefix"]).arg(&options.prefix);
        need_root("installing writes to the system", &again)?;
    }
    let site = Site { root, prefix: options.prefix.clone(), programs: release_dir() };
    let upgrade = site.install()?;
    if site.is_this_host() {
        site.tell_systemd()?;
        print(next_step(upgrade));
    } else {
        print(&format!("installed below {}", site.root.display()));
    }
    Ok(())
}

/// Where Relay is installed, and from where.
pub struct Site {
    pub root: PathBuf,
    pub prefix: PathBuf,
    /// The folder with relayd and relayctl.
    pub programs: PathBuf,
}

impl Site {
    /// Installs everything; a configuration that is there is left alone. Returns whether Relay was there before.
    pub fn install(&self) -> anyhow::Result<bool> {
        let upgrade = self.inside(&self.prefix.join("bin/relayd")).exists();
        for name in ["relayd", "relayctl"] {
            let built = self.programs.join(name);
            let bytes = fs::read(&built)
                .with_context(|| format!("{} is not built; run cargo xtask build", built.display()))?;
            self.put(&format!("bin/{name}"), &bytes, 0o755)?;
        }
        self.put_units()?;
        self.put_pages()?;
        self.put_completions()?;
        self.put("share/relay/relay.toml", EXAMPLE.as_bytes(), 0o644)?;
        // a folder without a system gets the rest from its own systemd, at its first boot
        if self.inside(Path::new("/etc/passwd")).exists() {
            self.make_user()?;
            self.put_configuration()?;
        }
        Ok(upgrade)
    }

    fn put_units(&self) -> anyhow::Result<()> {
        let prefix = format!("{}/", self.prefix.display());
        for (place, text) in [
            ("lib/systemd/system/relayd.service", SERVICE),
            (MOUNT_PLACE, MOUNT),
            ("lib/sysusers.d/relay.conf", SYSUSERS),
            ("lib/tmpfiles.d/relay.conf", TMPFILES),
        ] {
            self.put(place, text.replace(UNIT_PREFIX, &prefix).as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// The pages, which relayctl makes, each into the folder of its section.
    fn put_pages(&self) -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("relay-man-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let made = run_quietly(self.relayctl().arg("man").arg(&folder));
        let put = made.and_then(|_output| self.put_pages_of(&folder));
        fs::remove_dir_all(&folder)?;
        put
    }

    fn put_pages_of(&self, folder: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let (Some(name), Some(section)) = (path.file_name(), path.extension()) else { continue };
            let place = format!("share/man/man{}/{}", section.to_string_lossy(), name.to_string_lossy());
            self.put(&place, &fs::read(&path)?, 0o644)?;
        }
        Ok(())
    }

    fn put_completions(&self) -> anyhow::Result<()> {
        for (shell, place) in [
            ("bash", "share/bash-completion/completions/relayctl"),
            ("zsh", "share/zsh/site-functions/_relayctl"),
            ("fish", "share/fish/vendor_completions.d/relayctl.fish"),
        ] {
            let script = run_quietly(self.relayctl().args(["completion", shell]))?;
            self.put(place, script.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    fn relayctl(&self) -> Command {
        Command::new(self.programs.join("relayctl"))
    }

    /// The user that relayd runs as.
    fn make_user(&self) -> anyhow::Result<()> {
        let mut command = Command::new("systemd-sysusers");
        command.arg(format!("--root={}", self.root.display())).arg("-");
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start systemd-sysusers: it comes with systemd (apt-get install systemd)")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(SYSUSERS.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The folder of the configuration, and the example unless there is one. Both are the user's: relayctl saves there.
    fn put_configuration(&self) -> anyhow::Result<()> {
        let (user, group) = self.user()?;
        let folder = self.inside(Path::new("/etc/relay"));
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750))?;
        let file = folder.join("relay.toml");
        if fs::symlink_metadata(&file).is_err() {
            write_whole(&file, EXAMPLE.as_bytes(), 0o640)?;
        }
        // what is a link is not followed: the folder is not root's
        for path in [&folder, &file] {
            lchown(path, Some(user), Some(group))
                .with_context(|| format!("cannot give {} to the user relay", path.display()))?;
        }
        Ok(())
    }

    /// The user's numbers, as the system below the root has them.
    fn user(&self) -> anyhow::Result<(u32, u32)> {
        let path = self.inside(Path::new("/etc/passwd"));
        let text = fs::read_to_string(&path)?;
        let numbers = text.lines().find_map(|line| {
            let mut fields = line.strip_prefix("relay:")?.split(':').skip(1);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        numbers.with_context(|| format!("{} has no user relay", path.display()))
    }

    fn is_this_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Lets a running systemd see the units.
    fn tell_systemd(&self) -> anyhow::Result<()> {
        if self.is_this_host() && Path::new("/run/systemd/system").exists() {
            run_program(Command::new("systemctl").arg("daemon-reload"))?;
        }
        Ok(())
    }

    fn put(&self, place: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        write_whole(&self.inside(&self.prefix.join(place)), bytes, mode)
    }

    /// Where an absolute path lies below the root.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Writes a file under another name and renames it: a running program is replaced, not written into.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let shown = path.display();
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{shown} is not the path of a file");
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let temporary = folder.join(format!(".{}.new", name.to_string_lossy()));
    fs::write(&temporary, bytes)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {shown}"))
}

const fn next_step(upgrade: bool) -> &'static str {
    if upgrade {
        "installed over the version before; the configuration is as it was. Traffic goes on while you type:\n  \
         sudo systemctl restart relayd"
    } else {
        "installed. Now:\n  sudo systemctl enable --now relayd\n  sudo relayctl add 8388 203.0.113.10:8388\n\
         The configuration is /etc/relay/relay.toml."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(root: &Path) -> Site {
        Site { root: root.to_owned(), prefix: "/usr".into(), programs: root.join("built") }
    }

    #[test]
    fn units_name_the_programs_where_they_are() {
        let root = std::env::temp_dir().join(format!("relay-units-{}", std::process::id()));
        site(&root).put_units().expect("units");
        let unit = fs::read_to_string(root.join("usr/lib/systemd/system/relayd.service")).expect("unit");
        assert!(unit.contains("\nExecStart=/usr/bin/relayd\n"), "{unit}");
        assert!(unit.contains("\nExecReload=/usr/bin/relayctl reload\n"), "{unit}");
        assert!(!unit.contains(UNIT_PREFIX), "{unit}");
        assert!(root.join("usr").join(MOUNT_PLACE).exists());
        fs::remove_dir_all(&root).expect("clean up");
    }

    #[test]
    fn a_configuration_is_never_replaced() {
        let root = std::env::temp_dir().join(format!("relay-config-{}", std::process::id()));
        let file = root.join("etc/relay/relay.toml");
        fs::create_dir_all(root.join("etc")).expect("folder");
        let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
        fs::write(root.join("etc/passwd"), format!("root:x:0:0::/:\nrelay:x:{user}:{group}::/:\n"))
            .expect("user");
        site(&root).put_configuration().expect("first");
        assert_eq!(fs::read_to_string(&file).expect("file"), EXAMPLE);
        fs::write(&file, "[log]\n").expect("edit");
        site(&root).put_configuration().expect("second");
        assert_eq!(fs::read_to_string(&file).expect("file"), "[log]\n");
        fs::remove_dir_all(&root).expect("clean up");
    }
}

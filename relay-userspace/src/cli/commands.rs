//! Carrying out what was typed.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::CommandFactory as _;
use hyper::Method;
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::args::{
    Add, Alert, Apply, Backend, Call, Cli, Command, Down, Export, Format, History, Import, Names, One,
    Output, Quota, Set,
};
use super::walk::walk;
use super::{Exit, alerts, export, fields, flows, history, import, manual, observe, print, quotas, top};
use crate::api::client::{Client, ClientError};
use crate::api::flows::FlowsView;
use crate::api::view::{
    AccountView, AlertTestView, AlertView, ChangeView, DownView, ExplainView, HistoryView, PortView,
    RuleView, StatusView, TermsView, WalkView,
};
use crate::config::Problems;
use crate::config::files::Config;
use crate::config::problem::Source;
use crate::kernel::detach;
use crate::net::sysctl::Ledger;

/// Time between repeated outputs.
const PACE: Duration = Duration::from_secs(1);

/// Runs one command.
pub async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let session = Session { cli: &cli };
    match &cli.command {
        Command::Add(add) => session.add(add).await,
        Command::Set(set) => session.set(set).await,
        Command::Rm(names) => session.each(names, Method::DELETE, "").await,
        Command::Enable(names) => session.each(names, Method::POST, "/enable").await,
        Command::Disable(names) => session.each(names, Method::POST, "/disable").await,
        Command::Drain(names) => session.each(names, Method::POST, "/drain").await,
        Command::Backend(backend) => session.backend(backend).await,
        Command::List(watch) => {
            session.repeat(watch.watch, "/v1/rules", |rules: &Vec<RuleView>, f| print::rules(rules, f)).await
        }
        Command::Show(show) if show.ports => {
            let path = format!("/v1/rules/{}/ports", show.name);
            session.repeat(show.watch.watch, &path, |ports: &Vec<PortView>, f| history::ports(ports, f)).await
        }
        Command::Show(show) => {
            let path = format!("/v1/rules/{}", show.name);
            session.repeat(show.watch.watch, &path, |rule: &RuleView, f| print::rule(rule, f)).await
        }
        Command::History(history) => session.history(history).await,
        Command::Quota(quota) => session.quota(quota).await,
        Command::Status(watch) => {
            session.repeat(watch.watch, "/v1/status", |view: &StatusView, f| print::status(view, f)).await
        }
        Command::Alert(alert) => session.alert(alert).await,
        Command::Export(export) => session.export(export).await,
        Command::Flows(args) => {
            let path = flows::path(args);
            session.repeat(args.watch.watch, &path, |view: &FlowsView, f| flows::print(view, f)).await
        }
        Command::Observe(asked) => observe::run(&cli.socket, cli.output, asked).await,
        Command::Top(args) => top::run(&cli.socket, args).await,
        Command::Explain(one) => {
            let path = format!("/v1/rules/{}/explain", one.name);
            session.repeat(false, &path, |view: &ExplainView, f| print::explain(view, f)).await
        }
        Command::Test(one) => session.test(one).await,
        Command::Check(check) => session.check(&check.file),
        Command::Diff(diff) => {
            let body = diff.file.as_deref().map(read_config).transpose()?.unwrap_or_default();
            session.change(Method::POST, "/v1/diff", true, body).await
        }
        Command::Apply(apply) => session.apply(apply).await,
        Command::Import(import) => session.import(import).await,
        Command::Confirm => session.change(Method::POST, "/v1/confirm", false, String::new()).await,
        Command::Reload(dry) => session.change(Method::POST, "/v1/reload", dry.dry_run, String::new()).await,
        Command::Down(down) => session.down(down).await,
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "relayctl", &mut text);
            write(&String::from_utf8_lossy(&text))
        }
        Command::Man { folder } => manual::write_all(folder).map(|()| Exit::Done),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Reads a configuration and looks it over, so that its mistakes are shown by its own name. Whether it gets along with
/// conf.d only relayd can tell. An empty one is a comment: without a body relayd takes its own file.
fn read_config(file: &Path) -> anyhow::Result<String> {
    let text = read(file)?;
    let path = if file == Path::new("-") { "standard input".into() } else { file.to_owned() };
    let source = Source { path, text: text.clone() };
    Config::parse(Problems { sources: vec![source], list: Vec::new() })?;
    Ok(if text.is_empty() { "#\n".into() } else { text })
}

/// Writes to standard output. A reader that has gone is no failure.
pub(super) fn write(text: &str) -> anyhow::Result<Exit> {
    write_on(text).map(|_| Exit::Done)
}

/// Whether anyone still reads.
pub(super) fn write_on(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write the output"),
    }
}

struct Session<'a> {
    cli: &'a Cli,
}

impl Session<'_> {
    async fn client(&self) -> Result<Client, ClientError> {
        Client::connect(&self.cli.socket).await
    }

    const fn format(&self) -> Format {
        self.cli.output.format()
    }

    /// Writes what was made for [`Self::format`] to standard output.
    fn print(&self, text: &str) -> anyhow::Result<Exit> {
        match self.cli.output {
            Output::Csv => write(&print::csv(text)),
            Output::Table | Output::Wide | Output::Json | Output::Tsv => write(text),
        }
    }

    async fn quota(&self, quota: &Quota) -> anyhow::Result<Exit> {
        let Some(name) = &quota.name else {
            let all: Vec<TermsView> = self.client().await?.get("/v1/quotas").await?;
            return self.print(&quotas::all(&all, self.format()));
        };
        let path = format!("/v1/{}/{name}/quota", if quota.group { "groups" } else { "rules" });
        if quota.reset {
            return self.change(Method::POST, &format!("{path}/reset"), quota.dry_run, String::new()).await;
        }
        let view: TermsView = self.client().await?.get(&path).await?;
        self.print(&quotas::one(&view, self.format()))
    }

    async fn set(&self, set: &Set) -> anyhow::Result<Exit> {
        let body = Value::Object(fields::parse(&set.fields)?).to_string();
        let path = format!("/v1/rules/{}", set.name);
        self.change(Method::PATCH, &path, set.dry.dry_run, body).await
    }

    async fn export(&self, what: &Export) -> anyhow::Result<Exit> {
        match what {
            Export::Realm(check) => {
                let (text, left) = import::realm(&check.file)?;
                say(&left);
                write(&text)
            }
            Export::Grafana => write(&print::json(&export::dashboard())),
            Export::PrometheusRules { job } => {
                let rules: Vec<RuleView> = self.client().await?.get("/v1/rules").await?;
                write(&export::alerts(&rules, job))
            }
        }
    }

    async fn import(&self, args: &Import) -> anyhow::Result<Exit> {
        let found = import::Found::read(args)?;
        if let Some(file) = &args.to {
            return import::offline(&found, args, file, self.format());
        }
        let path = if args.dry.dry_run { "/v1/import?dry_run=true" } else { "/v1/import" };
        let body = found.body(args.on_conflict);
        let view: ChangeView = self.client().await?.ask(Method::POST, path, body).await?;
        self.print(&found.shown(&view, self.format()))?;
        Ok(if view.degraded { Exit::Degraded } else { Exit::Done })
    }

    async fn add(&self, add: &Add) -> anyhow::Result<Exit> {
        let listen: Vec<&str> = add.listen.split(',').collect();
        let mut rule =
            Map::from_iter([("listen".to_owned(), json!(listen)), ("to".to_owned(), json!(add.to))]);
        for (key, value) in [
            ("name", &add.name),
            ("protocol", &add.protocol),
            ("balance", &add.balance),
            ("plane", &add.plane),
            ("note", &add.note),
            ("expires", &add.expires),
            ("group", &add.group),
        ] {
            rule.extend(value.as_ref().map(|value| (key.to_owned(), json!(value))));
        }
        if add.disabled {
            rule.insert("enabled".into(), json!(false));
        }
        if add.force {
            rule.insert("force".into(), json!(true));
        }
        let quota = add.quota.iter().map(|limit| format!("quota.limit={limit}"));
        let fields: Vec<String> = quota.chain(add.fields.iter().cloned()).collect();
        rule.extend(fields::parse(&fields)?);
        self.change(Method::POST, "/v1/rules", add.dry.dry_run, Value::Object(rule).to_string()).await
    }

    /// Sends a change and prints what it did.
    async fn change(&self, method: Method, path: &str, dry_run: bool, body: String) -> anyhow::Result<Exit> {
        let path = if dry_run { format!("{path}?dry_run=true") } else { path.to_owned() };
        let view: ChangeView = self.client().await?.ask(method, &path, body).await?;
        self.print(&print::change(&view, self.format()))?;
        Ok(if view.degraded { Exit::Degraded } else { Exit::Done })
    }

    /// The same for several rules. One that fails does not keep the others from it.
    async fn each(&self, names: &Names, method: Method, suffix: &str) -> anyhow::Result<Exit> {
        let mut worst = Ok(Exit::Done);
        for name in &names.names {
            let path = format!("/v1/rules/{name}{suffix}");
            match self.change(method.clone(), &path, names.dry.dry_run, String::new()).await {
                Ok(Exit::Done) => {}
                Ok(exit) => worst = worst.map(|_| exit),
                Err(error) if names.names.len() == 1 => return Err(error),
                Err(error) => {
                    report(&error);
                    worst = Ok(Exit::of(&error));
                }
            }
        }
        worst
    }

    /// Shows a rule's backends, or does something with one of them.
    async fn backend(&self, backend: &Backend) -> anyhow::Result<Exit> {
        let path = format!("/v1/rules/{}", backend.name);
        let (Some(addr), Some(call)) = (&backend.addr, &backend.call) else {
            return self.repeat(false, &path, |rule: &RuleView, f| print::backends_of(rule, f)).await;
        };
        let body = match call {
            Call { weight: Some(weight), .. } => json!({ "addr": addr, "weight": weight }),
            Call { drain: true, .. } => json!({ "addr": addr, "order": "drain" }),
            Call { down: true, .. } => json!({ "addr": addr, "order": "down" }),
            Call { .. } => json!({ "addr": addr, "order": "up" }),
        };
        self.change(Method::POST, &format!("{path}/backend"), backend.dry_run, body.to_string()).await
    }

    /// Shows one rule's history, or all accounts.
    async fn history(&self, asked: &History) -> anyhow::Result<Exit> {
        let Some(name) = &asked.name else {
            let accounts: Vec<AccountView> = self.client().await?.get("/v1/history").await?;
            return self.print(&history::accounts(&accounts, self.format()));
        };
        let view: HistoryView = self.client().await?.get(&history::path(name.as_str(), asked)).await?;
        if let Some(file) = &asked.svg {
            fs::write(file, history::svg(&view))
                .with_context(|| format!("cannot write {}", file.display()))?;
            return Ok(Exit::Done);
        }
        self.print(&history::show(&view, asked, self.format(), print::width()))
    }

    /// Prints an answer, once or again and again.
    async fn repeat<T: serde::de::DeserializeOwned>(
        &self,
        watch: bool,
        path: &str,
        show: impl Fn(&T, Format) -> String,
    ) -> anyhow::Result<Exit> {
        loop {
            let view: T = self.client().await?.get(path).await?;
            let text = show(&view, self.format());
            if !watch {
                return self.print(&text);
            }
            if !write_on(&format!("{}{text}", print::clear()))? {
                return Ok(Exit::Done);
            }
            sleep(PACE).await;
        }
    }

    async fn test(&self, one: &One) -> anyhow::Result<Exit> {
        let path = format!("/v1/rules/{}/test", one.name);
        let view: WalkView = self.client().await?.ask(Method::POST, &path, String::new()).await?;
        self.print(&walk(&view, self.format()))?;
        Ok(if view.ok { Exit::Done } else { Exit::Failed })
    }

    async fn alert(&self, alert: &Alert) -> anyhow::Result<Exit> {
        match alert {
            Alert::List(watch) => {
                self.repeat(watch.watch, "/v1/alerts", |all: &Vec<AlertView>, f| alerts::list(all, f)).await
            }
            Alert::Test { name } => self.test_alerts(name.as_deref()).await,
        }
    }

    /// One alert, or all of them at once: each may take its time.
    async fn test_alerts(&self, name: Option<&str>) -> anyhow::Result<Exit> {
        let names = match name {
            Some(name) => vec![name.to_owned()],
            None => {
                let all: Vec<AlertView> = self.client().await?.get("/v1/alerts").await?;
                all.into_iter().map(|alert| alert.name).collect()
            }
        };
        let tests = names.iter().map(async |name| -> anyhow::Result<AlertTestView> {
            let path = format!("/v1/alerts/{name}/test");
            Ok(self.client().await?.ask(Method::POST, &path, String::new()).await?)
        });
        let views = futures_util::future::try_join_all(tests).await?;
        self.print(&alerts::tested(&views, self.format()))?;
        Ok(if views.iter().all(|view| view.ok) { Exit::Done } else { Exit::Failed })
    }

    fn check(&self, file: &Path) -> anyhow::Result<Exit> {
        let config = Config::read(file)?;
        let enabled = config.rules.iter().filter(|(rule, _)| rule.enabled).count();
        let rules = config.rules.len();
        if self.format() == Format::Json {
            return write(&print::json(&json!({ "valid": true, "rules": rules, "enabled": enabled })));
        }
        let noun = if rules == 1 { "rule" } else { "rules" };
        write(&format!("{} is valid: {rules} {noun}, {enabled} enabled\n", file.display()))
    }

    async fn apply(&self, apply: &Apply) -> anyhow::Result<Exit> {
        let body = read_config(&apply.file)?;
        let mut query = Vec::new();
        if apply.dry.dry_run {
            query.push("dry_run=true".to_owned());
        }
        query.extend(apply.confirm.as_ref().map(|time| format!("confirm={time}")));
        let path =
            if query.is_empty() { "/v1/apply".into() } else { format!("/v1/apply?{}", query.join("&")) };
        let mut client = self.client().await?;
        let view: ChangeView = client.ask(Method::POST, &path, body).await?;
        self.print(&print::change(&view, self.format()))?;
        if let Some(seconds) = view.confirm_within {
            self.ask_to_confirm(seconds).await?;
        }
        Ok(if view.degraded { Exit::Degraded } else { Exit::Done })
    }

    /// At a terminal Enter confirms; elsewhere `relayctl confirm` must.
    async fn ask_to_confirm(&self, seconds: u64) -> anyhow::Result<()> {
        if !io::stdin().is_terminal() {
            say(&format!("undone in {seconds} s unless you run: relayctl confirm\n"));
            return Ok(());
        }
        say(&format!("undone in {seconds} s; press Enter to keep it "));
        let pressed = tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
        if let Ok(Ok(Ok(length))) = tokio::time::timeout(Duration::from_secs(seconds), pressed).await
            && length > 0
        {
            let _saved: ChangeView =
                self.client().await?.ask(Method::POST, "/v1/confirm", String::new()).await?;
            say("kept\n");
            return Ok(());
        }
        say("\nnot confirmed, undone\n");
        Ok(())
    }

    /// Through relayd if it runs, else by hand: the kernel plane outlives relayd.
    async fn down(&self, down: &Down) -> anyhow::Result<Exit> {
        let view = match self.client().await {
            Ok(mut client) => {
                let path = if down.dry.dry_run { "/v1/down?dry_run=true" } else { "/v1/down" };
                client.ask(Method::POST, path, String::new()).await?
            }
            Err(ClientError::Unreachable { .. }) => self.down_alone(down)?,
            Err(error) => return Err(error.into()),
        };
        self.print(&print::down(&view, self.format()))?;
        Ok(if view.failed.is_empty() { Exit::Done } else { Exit::Failed })
    }

    fn down_alone(&self, down: &Down) -> anyhow::Result<DownView> {
        if !nix::unistd::geteuid().is_root() {
            anyhow::bail!("relayd does not run, and only root can detach without it");
        }
        let interfaces = nix::net::if_::if_nameindex().context("cannot list the interfaces")?;
        let interfaces: Vec<String> =
            interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect();
        let mut ledger = Ledger::open(&down.state_dir);
        let sysctls = ledger.names().map(ToOwned::to_owned).collect();
        let dry_run = down.dry.dry_run;
        let (removed, unrestored) = if dry_run {
            (detach::count(&down.bpf_dir, &interfaces), Vec::new())
        } else {
            (detach::detach_all(&down.bpf_dir, &interfaces), ledger.restore())
        };
        let (hooks, pins, mut failed) = (removed.hooks(), removed.maps, removed.failed);
        failed.extend(unrestored);
        Ok(DownView { dry_run, hooks, pins, sysctls, failed })
    }
}

/// Says something that is not part of the output.
pub(super) fn say(text: &str) {
    let _nowhere_to_say_it = io::stderr().write_all(text.as_bytes());
}

/// Prints an error with its causes.
pub fn report(error: &anyhow::Error) {
    let _nowhere_to_say_it = writeln!(io::stderr(), "relayctl: {error:#}");
}

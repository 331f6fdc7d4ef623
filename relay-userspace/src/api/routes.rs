//! What each path of the API does.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRef, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_stream::wrappers::BroadcastStream;

use super::extract::{Path, Query, Text};
use super::flows::{FlowsView, Params};
use super::problem::{ApiProblem, Code};
use super::server::Peer;
use super::view::{
    AccountView, AlertTestView, AlertView, ChangeView, DownView, ExplainView, HistoryView, PortView,
    RuleView, StatusView, TermsView, WalkView,
};
use super::{history, metrics, observe, order};
use crate::accounting::allowances::Owner;
use crate::config::node::{Node, Value as NodeValue};
use crate::config::problem::Problems;
use crate::config::{decode, quantity};
use crate::import::conflict::OnConflict;
use crate::import::{Draft, Place};
use crate::rule::{Listener, Rule, RuleName};
use crate::supervisor::Shared;
use crate::supervisor::command::{Action, Reply};
use crate::supervisor::explain::explain;
use crate::supervisor::walk;

/// A request body larger than this is no configuration.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

#[derive(Clone)]
struct App(Arc<Shared>);

impl FromRef<App> for Arc<Shared> {
    fn from_ref(app: &App) -> Self {
        app.0.clone()
    }
}

/// The whole API.
pub fn all(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/rules", get(list).post(add))
        .route("/v1/rules/{name}", get(show).patch(set).delete(remove))
        .route("/v1/rules/{name}/explain", get(explained))
        .route("/v1/rules/{name}/history", get(past))
        .route("/v1/rules/{name}/ports", get(ports))
        .route("/v1/history", get(accounts))
        .route("/v1/rules/{name}/enable", post(enable))
        .route("/v1/rules/{name}/disable", post(disable))
        .route("/v1/rules/{name}/drain", post(drain))
        .route("/v1/rules/{name}/backend", post(backend))
        .route("/v1/quotas", get(quotas))
        .route("/v1/rules/{name}/quota", get(rule_quota))
        .route("/v1/rules/{name}/quota/reset", post(reset_rule_quota))
        .route("/v1/groups/{name}/quota", get(group_quota))
        .route("/v1/groups/{name}/quota/reset", post(reset_group_quota))
        .route("/v1/flows", get(flows))
        .route("/v1/observe", get(observed))
        .route("/v1/rules/{name}/test", post(test))
        .route("/v1/alerts", get(alerts))
        .route("/v1/alerts/{name}/test", post(test_alert))
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/v1/diff", post(diff))
        .route("/v1/apply", post(apply))
        .route("/v1/import", post(import))
        .route("/v1/confirm", post(confirm))
        .route("/v1/down", post(down))
        .route("/v1/events", get(events))
        .merge(common())
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn_with_state(shared.clone(), when_started))
        .with_state(App(shared))
}

/// For the TCP listener: nothing that could be misused.
pub fn metrics_only(shared: Arc<Shared>) -> Router {
    common().layer(from_fn_with_state(shared.clone(), when_started)).with_state(App(shared))
}

/// The socket is there before the rules are: it keeps a second relayd from starting. Nobody is told that there are none.
async fn when_started(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match shared.started().await {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn common() -> Router<App> {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(health))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
}

/// Proof that the caller may change things.
struct Writer;

impl<S: Send + Sync> FromRequestParts<S> for Writer {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        match ConnectInfo::<Peer>::from_request_parts(parts, state).await {
            Ok(ConnectInfo(Peer { may_write: true })) => Ok(Self),
            _ => {
                let text = "only root and the user that relayd runs as may change anything";
                Err(ApiProblem::new(Code::Forbidden, text))
            }
        }
    }
}

#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    dry_run: bool,
    confirm: Option<String>,
}

type Answer<T> = Result<Json<T>, ApiProblem>;

fn name(text: &str) -> Result<RuleName, ApiProblem> {
    RuleName::parse(text).ok_or_else(|| {
        let problem = format!("{text:?} is not a rule name; {}", RuleName::FORM);
        ApiProblem::new(Code::Invalid, problem)
    })
}

async fn quotas(State(shared): State<Arc<Shared>>) -> Json<Vec<TermsView>> {
    Json(shared.all_terms())
}

async fn rule_quota(State(shared): State<Arc<Shared>>, Path(text): Path<String>) -> Answer<TermsView> {
    shared.terms_of(&Owner::Rule(name(&text)?)).map(Json)
}

async fn group_quota(State(shared): State<Arc<Shared>>, Path(text): Path<String>) -> Answer<TermsView> {
    shared.terms_of(&Owner::Group(name(&text)?)).map(Json)
}

async fn reset_rule_quota(
    State(shared): State<Arc<Shared>>,
    _writer: Writer,
    Path(text): Path<String>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    change(&shared, Action::ResetQuota(Owner::Rule(name(&text)?)), options.dry_run).await
}

async fn reset_group_quota(
    State(shared): State<Arc<Shared>>,
    _writer: Writer,
    Path(text): Path<String>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    change(&shared, Action::ResetQuota(Owner::Group(name(&text)?)), options.dry_run).await
}

async fn change(shared: &Shared, action: Action, dry_run: bool) -> Answer<ChangeView> {
    changed(shared.ask(action, dry_run).await?)
}

async fn change_all(shared: &Shared, action: Action, dry_run: bool) -> Answer<ChangeView> {
    changed(shared.ask_for_all(action, dry_run).await?)
}

fn changed(reply: Reply) -> Answer<ChangeView> {
    match reply {
        Reply::Change(view) => Ok(Json(view)),
        Reply::Down(_) => Err(ApiProblem::new(Code::NotApplied, "relayd answered something else")),
    }
}

async fn list(State(shared): State<Arc<Shared>>) -> Json<Vec<RuleView>> {
    Json(shared.rules().await)
}

async fn show(State(shared): State<Arc<Shared>>, Path(text): Path<String>) -> Answer<RuleView> {
    Ok(Json(shared.rule(&name(&text)?).await?.1))
}

async fn past(
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<history::Options>,
) -> Answer<HistoryView> {
    Ok(Json(history::history(&shared, name(&text)?, options).await?))
}

async fn ports(State(shared): State<Arc<Shared>>, Path(text): Path<String>) -> Answer<Vec<PortView>> {
    Ok(Json(shared.ports_of(&name(&text)?)?))
}

async fn accounts(State(shared): State<Arc<Shared>>) -> Json<Vec<AccountView>> {
    Json(history::accounts(&shared))
}

async fn explained(State(shared): State<Arc<Shared>>, Path(text): Path<String>) -> Answer<ExplainView> {
    let (planned, view) = shared.rule(&name(&text)?).await?;
    Ok(Json(explain(&planned, view, &shared.snapshot().explain)))
}

async fn add(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Query(options): Query<Options>,
    Text(body): Text,
) -> Result<(StatusCode, Json<ChangeView>), ApiProblem> {
    let rule = rule_from_body(&shared, &body)?;
    let view = change(&shared, Action::Add(Box::new(rule)), options.dry_run).await?;
    Ok((if options.dry_run { StatusCode::OK } else { StatusCode::CREATED }, view))
}

/// A rule from a request body; one without a name gets its first port for a name.
fn rule_from_body(shared: &Shared, body: &str) -> Result<Rule, ApiProblem> {
    let node = Node::from_json(parse_json(body)?);
    let NodeValue::Table(table) = &node.value else {
        return Err(ApiProblem::new(Code::Invalid, "the body is not a JSON object"));
    };
    let snapshot = shared.snapshot();
    let free = |listener: &Listener| {
        let base = listener.ports.to_string();
        let numbered = (2u32..).map(|number| format!("{base}-{number}"));
        std::iter::once(base.clone())
            .chain(numbered)
            .filter_map(|text| RuleName::parse(&text))
            .find(|name| !snapshot.by_name.contains_key(name))
            .unwrap_or_else(|| unreachable_name(&base))
    };
    let mut problems = Problems::default();
    decode::rule(table, None, Some(&free), &mut problems).ok_or_else(|| ApiProblem::from(problems))
}

/// Numbers never run out before names do.
fn unreachable_name(base: &str) -> RuleName {
    RuleName::parse(base).unwrap_or_else(|| unreachable!("a port range is a rule name"))
}

fn parse_json(body: &str) -> Result<Value, ApiProblem> {
    serde_json::from_str(body)
        .map_err(|error| ApiProblem::new(Code::Invalid, format!("the body is not JSON: {error}")))
}

async fn set(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<Options>,
    Text(body): Text,
) -> Answer<ChangeView> {
    let Value::Object(fields) = parse_json(&body)? else {
        return Err(ApiProblem::new(Code::Invalid, "the body is not a JSON object"));
    };
    change(&shared, Action::Set(name(&text)?, fields), options.dry_run).await
}

async fn remove(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    change(&shared, Action::Remove(name(&text)?), options.dry_run).await
}

async fn enable(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    change(&shared, Action::Enable(name(&text)?), options.dry_run).await
}

async fn disable(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    let fields = Map::from_iter([("enabled".to_owned(), json!(false))]);
    change(&shared, Action::Set(name(&text)?, fields), options.dry_run).await
}

async fn drain(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    change(&shared, Action::Drain(name(&text)?), options.dry_run).await
}

async fn backend(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
    Query(options): Query<Options>,
    Text(body): Text,
) -> Answer<ChangeView> {
    let (addr, call) = order::parse(&body)?;
    change(&shared, Action::Backend(name(&text)?, addr, call), options.dry_run).await
}

async fn flows(State(shared): State<Arc<Shared>>, Query(params): Query<Params>) -> Answer<FlowsView> {
    Ok(Json(shared.flows(params.into_query()?).await?.into()))
}

/// What happens to flows from now on.
async fn observed(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<observe::Params>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiProblem> {
    let watch = observe::watch(&shared, params.into_filter()?).await?;
    Ok(Sse::new(observe::told(watch)).keep_alive(KeepAlive::default()))
}

/// What a rule's sessions would meet. Backends hear of it, so it is nothing for who may only look.
async fn test(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(text): Path<String>,
) -> Answer<WalkView> {
    Ok(Json(walk::test(&shared, &name(&text)?).await?))
}

async fn alerts(State(shared): State<Arc<Shared>>) -> Json<Vec<AlertView>> {
    Json(alert_views(&shared))
}

fn alert_views(shared: &Shared) -> Vec<AlertView> {
    shared.alerts.statuses().into_iter().map(Into::into).collect()
}

/// Sends a message, so it is nothing for who may only look.
async fn test_alert(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Answer<AlertTestView> {
    match shared.alerts.test(&name).await {
        Some(tested) => Ok(Json(tested.into())),
        None => {
            let text = format!("there is no alert {name:?}; `relayctl alert list` shows all");
            Err(ApiProblem::new(Code::AlertNotFound, text))
        }
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<StatusView> {
    Json(shared.status().await)
}

async fn reload(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Query(options): Query<Options>,
) -> Answer<ChangeView> {
    change_all(&shared, Action::Reload, options.dry_run).await
}

async fn diff(State(shared): State<Arc<Shared>>, Text(body): Text) -> Answer<ChangeView> {
    let text = (!body.is_empty()).then_some(body);
    change(&shared, Action::Diff(text), true).await
}

async fn apply(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Query(options): Query<Options>,
    Text(body): Text,
) -> Answer<ChangeView> {
    let confirm = match options.confirm.as_deref() {
        None => None,
        Some(text) => Some(within(text)?),
    };
    change_all(&shared, Action::Apply { text: body, confirm }, options.dry_run).await
}

/// `{"rules": [...], "on_conflict": "fail"}`: all of them, or none.
async fn import(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Query(options): Query<Options>,
    Text(body): Text,
) -> Answer<ChangeView> {
    let Body { rules, on_conflict } = serde_json::from_str(&body).map_err(|error| {
        ApiProblem::new(
            Code::Invalid,
            format!("the body is not {{\"rules\": [...], \"on_conflict\": ...}}: {error}"),
        )
    })?;
    let place = |index: usize| Place { file: "rules".into(), line: index + 1 };
    let drafts: Vec<Draft> =
        rules.into_iter().enumerate().map(|(index, keys)| Draft { place: place(index), keys }).collect();
    let rules = crate::import::rules(&drafts).map_err(|wrong| ApiProblem::new(Code::Invalid, wrong))?;
    let rules = rules.into_iter().map(|(rule, _)| rule).collect();
    change_all(&shared, Action::Import(rules, on_conflict), options.dry_run).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    rules: Vec<Map<String, Value>>,
    #[serde(default)]
    on_conflict: OnConflict,
}

fn within(text: &str) -> Result<Duration, ApiProblem> {
    quantity::parse_duration(text).filter(|duration| !duration.is_zero()).ok_or_else(|| {
        ApiProblem::new(
            Code::Invalid,
            format!("confirm: {text:?} is not a duration; {}", quantity::DURATION_FORMS),
        )
    })
}

async fn confirm(_writer: Writer, State(shared): State<Arc<Shared>>) -> Answer<ChangeView> {
    change(&shared, Action::Confirm, false).await
}

async fn down(
    _writer: Writer,
    State(shared): State<Arc<Shared>>,
    Query(options): Query<Options>,
) -> Answer<DownView> {
    match shared.ask(Action::Down, options.dry_run).await? {
        Reply::Down(view) => Ok(Json(view)),
        Reply::Change(_) => Err(ApiProblem::new(Code::NotApplied, "relayd answered something else")),
    }
}

/// Everything that happens from now on. A reader that falls behind misses some and goes on.
async fn events(State(shared): State<Arc<Shared>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stream = BroadcastStream::new(shared.events.subscribe()).filter_map(|event| {
        let event = event.ok().and_then(|event| {
            let kind = event.kind.clone();
            Some(Ok(Event::default().event(kind).json_data(event).ok()?))
        });
        std::future::ready(event)
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let (terms, alerts) = (shared.all_terms(), alert_views(&shared));
    let ports = shared.all_ports();
    let views =
        metrics::Views { rules: shared.rules().await, status: shared.status().await, terms, alerts, ports };
    let Ok(text) = metrics::encode(views) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn wrong_method(method: Method) -> ApiProblem {
    ApiProblem::new(Code::MethodNotAllowed, format!("{method} means nothing here; see the `allow` header"))
}

async fn nowhere() -> ApiProblem {
    ApiProblem::new(Code::NotFound, "there is nothing here; the API starts at /v1/rules and /v1/status")
}

//! The onboarding session and its progress. Can reach no ciphertext and no KMS key.

use lambda_http::{Body, Request, Response, http::Method};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    auth::AuthSetupError,
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, json},
    key_table::KeyLister,
    onboarding::{
        DATA_MAX_BYTES, Ended, STEPS, Session, SessionError, Sessions, ShownStep, StepNumber,
    },
    problem::{Code, Problem},
    provider::Provider,
    rate_limit::Class,
};
use utoipa::{OpenApi, ToSchema};

const BODY_MAX_BYTES: usize = 16 * 1024;
const API_KEYS_STEP: u8 = 1;

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Starts the session.
    Start,
    /// Ends a step as done.
    CompleteStep,
    /// Ends a step as left out.
    SkipStep,
    /// Whether a person can go on from a step.
    ValidateStep,
    /// One step.
    Step,
    /// Finishes the whole of it.
    Complete,
    /// Starts over.
    Reset,
    /// Where the person is.
    Status,
    /// Where the person is, with every step.
    Progress,
    /// All that a page needs when it opens.
    Init,
    /// Steps and providers, the same for everybody.
    Steps,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[
    post("/api/onboarding/start", Action::Start),
    post("/api/onboarding/step/{n}/complete", Action::CompleteStep),
    post("/api/onboarding/step/{n}/skip", Action::SkipStep),
    get("/api/onboarding/step/{n}/validate", Action::ValidateStep),
    get("/api/onboarding/step/{n}", Action::Step),
    post("/api/onboarding/complete", Action::Complete),
    post("/api/onboarding/reset", Action::Reset),
    get("/api/onboarding/status", Action::Status),
    get("/api/onboarding/progress", Action::Progress),
    get("/api/onboarding/init", Action::Init),
    get("/api/onboarding/config", Action::Steps),
];

const fn post(path: &'static str, action: Action) -> Route<Action> {
    Route {
        method: Method::POST,
        path,
        action,
        class: Class::Save,
        effect: Effect::Acts,
    }
}

const fn get(path: &'static str, action: Action) -> Route<Action> {
    Route {
        method: Method::GET,
        path,
        action,
        class: Class::Read,
        effect: Effect::Looks,
    }
}

/// Its part of the OpenAPI description.
#[derive(Debug, OpenApi)]
#[openapi(paths(
    start,
    complete_step,
    skip_step,
    validate_step,
    shown_step,
    complete,
    reset,
    status,
    progress,
    init,
    config
))]
pub struct Api;

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    sessions: Sessions,
    keys: KeyLister,
    developer: Option<DeveloperKeys>,
}

impl Deps {
    /// Exactly this function's capabilities.
    ///
    /// # Errors
    /// When callers could not be identified.
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, AuthSetupError> {
        Ok(Self {
            endpoint: Endpoint::new(config, aws, env!("CARGO_PKG_NAME"))?,
            sessions: Sessions::new(aws.dynamodb.clone(), config.table_name.clone()),
            keys: KeyLister::new(aws.dynamodb.clone(), config.table_name.clone()),
            developer: DeveloperKeys::new(config),
        })
    }
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::Start => start(deps, &call).await,
        Action::CompleteStep => complete_step(deps, &call).await,
        Action::SkipStep => skip_step(deps, &call).await,
        Action::ValidateStep => validate_step(deps, &call).await,
        Action::Step => shown_step(deps, &call).await,
        Action::Complete => complete(deps, &call).await,
        Action::Reset => reset(deps, &call).await,
        Action::Status => status(deps, &call).await,
        Action::Progress => progress(deps, &call).await,
        Action::Init => init(deps, &call).await,
        Action::Steps => config(),
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

fn step(call: &Call<Action>) -> Result<StepNumber, Problem> {
    StepNumber::parse(&call.segment)
        .ok_or_else(|| Problem::invalid_request("There are steps 1 to 6."))
}

fn problem(error: SessionError) -> Problem {
    match error {
        SessionError::TooMuchData(_) => Problem::too_large(DATA_MAX_BYTES),
        SessionError::Table(error) => error.into(),
    }
}

/// Required providers without a key: one `Query`, no key is opened.
async fn missing(deps: &Deps, call: &Call<Action>) -> Result<Vec<Provider>, Problem> {
    let records = deps.keys.list(&call.user).await?;
    let has_key = |provider: Provider| {
        let developer = deps.developer.as_ref();
        developer.is_some_and(|keys| keys.find(provider).is_some())
            || records.iter().any(|key| key.provider() == Some(provider))
    };
    let required = Provider::ALL.iter().copied().filter(|p| p.facts().required);
    Ok(required.filter(|&provider| !has_key(provider)).collect())
}

fn sentence(missing: &[Provider]) -> String {
    let titles: Vec<_> = missing.iter().map(|p| p.facts().title).collect();
    format!("Add your API keys for {} first.", titles.join(", "))
}

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "onboarding started", "current_step": 1,
    "started_at": "2026-11-24T06:00:00Z"}))]
struct StartAnswer<'a> {
    message: &'a str,
    current_step: u8,
    #[schema(required)]
    started_at: Option<String>,
}

/// Start onboarding; a second start changes nothing.
#[utoipa::path(
    post,
    path = "/api/onboarding/start",
    responses((status = 200, description = "started", body = StartAnswer<'_>))
)]
async fn start(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let begin = |session: &mut Session| session.start(call.now);
    let session = deps.sessions.change(&call.user, call.now, begin).await;
    let session = session.map_err(problem)?;
    json(&StartAnswer {
        message: "onboarding started",
        current_step: session.current_step,
        started_at: session.started_at,
    })
}

/// What the front end keeps with a step.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"data": {"website": "https://a.example"}}))]
struct StepRequest {
    /// Any object; keys in it are dropped.
    #[serde(default)]
    #[schema(value_type = Option<Object>, required = false)]
    data: Value,
    validation_errors: Option<Vec<String>>,
}

const STEP_SHAPE: &str = "if you like data (an object) and validation_errors (a list of texts)";

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "step completed", "step_number": 2,
    "data": {"website": "https://a.example"}, "warnings": []}))]
struct StepAnswer {
    message: &'static str,
    step_number: u8,
    /// As it was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
    /// What is still missing, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
}

async fn end(
    deps: &Deps,
    call: &Call<Action>,
    step: StepNumber,
    ended: Ended,
    request: StepRequest,
) -> Result<ShownStep, Problem> {
    let errors = request.validation_errors.unwrap_or_default();
    let change = |session: &mut Session| {
        let (data, errors) = (request.data.clone(), errors.clone());
        session.end(step, ended, data, errors, call.now)
    };
    let session = deps.sessions.change(&call.user, call.now, change).await;
    Ok(session.map_err(problem)?.shown(step))
}

/// End a step as done.
#[utoipa::path(
    post,
    path = "/api/onboarding/step/{n}/complete",
    params(("n" = u8, Path, minimum = 1, maximum = 6)),
    request_body = Option<StepRequest>,
    responses(
        (status = 200, description = "the step as it was kept", body = StepAnswer),
        (status = 400, description = "invalid_request"),
    )
)]
async fn complete_step(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    let request: StepRequest = call.json_or_nothing(BODY_MAX_BYTES, STEP_SHAPE)?;
    if !request.data.is_object() && !request.data.is_null() {
        return Err(Problem::invalid_request(format!("Send {STEP_SHAPE}.")));
    }
    let shown = end(deps, call, step, Ended::Completed, request).await?;
    let missing = match step.get() {
        API_KEYS_STEP => missing(deps, call).await?,
        _ => Vec::new(),
    };
    let warnings = match missing.as_slice() {
        [] => Vec::new(),
        missing => vec![sentence(missing)],
    };
    json(&StepAnswer {
        message: "step completed",
        step_number: step.get(),
        data: Some(shown.data),
        warnings: Some(warnings),
    })
}

/// End a step as left out.
#[utoipa::path(
    post,
    path = "/api/onboarding/step/{n}/skip",
    params(("n" = u8, Path, minimum = 1, maximum = 6)),
    responses(
        (status = 200, description = "skipped", body = StepAnswer),
        (status = 400, description = "invalid_request"),
    )
)]
async fn skip_step(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    end(deps, call, step, Ended::Skipped, StepRequest::default()).await?;
    json(&StepAnswer {
        message: "step skipped",
        step_number: step.get(),
        data: None,
        warnings: None,
    })
}

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"can_proceed": true, "validation_errors": [], "step_status": "completed"}))]
struct StepValidation {
    can_proceed: bool,
    validation_errors: Vec<String>,
    /// `pending`, `in_progress`, `completed` or `skipped`.
    step_status: &'static str,
}

/// Say whether a person can go on from a step.
///
/// Step 1 needs the required keys; the others are the front end's own to judge.
#[utoipa::path(
    get,
    path = "/api/onboarding/step/{n}/validate",
    params(("n" = u8, Path, minimum = 1, maximum = 6)),
    responses(
        (status = 200, description = "and what keeps them", body = StepValidation),
        (status = 400, description = "invalid_request"),
    )
)]
async fn validate_step(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    let shown = deps.sessions.get(&call.user).await?.shown(step);
    let missing = match step.get() {
        API_KEYS_STEP => missing(deps, call).await?,
        _ => Vec::new(),
    };
    let validation_errors = match missing.as_slice() {
        [] => shown.validation_errors,
        missing => vec![sentence(missing)],
    };
    json(&StepValidation {
        can_proceed: missing.is_empty() && validation_errors.is_empty(),
        validation_errors,
        step_status: shown.status,
    })
}

/// Read one step.
#[utoipa::path(
    get,
    path = "/api/onboarding/step/{n}",
    params(("n" = u8, Path, minimum = 1, maximum = 6)),
    responses(
        (status = 200, description = "ended or not", body = ShownStep),
        (status = 400, description = "invalid_request"),
    )
)]
async fn shown_step(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    json(&deps.sessions.get(&call.user).await?.shown(step))
}

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "onboarding completed", "completed_at": "2026-11-24T06:00:00Z",
    "completion_percentage": 100}))]
struct CompleteAnswer {
    message: &'static str,
    #[schema(required)]
    completed_at: Option<String>,
    completion_percentage: u8,
}

/// Finish onboarding.
#[utoipa::path(
    post,
    path = "/api/onboarding/complete",
    responses(
        (status = 200, description = "finished", body = CompleteAnswer),
        (status = 409, description = "no_api_key"),
    )
)]
async fn complete(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let missing = missing(deps, call).await?;
    if !missing.is_empty() {
        return Err(Problem::new(Code::NoApiKey, sentence(&missing)));
    }
    let finish = |session: &mut Session| session.finish(call.now);
    let session = deps.sessions.change(&call.user, call.now, finish).await;
    let session = session.map_err(problem)?;
    json(&CompleteAnswer {
        message: "onboarding completed",
        completion_percentage: session.completion_percentage(),
        completed_at: session.completed_at,
    })
}

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "onboarding starts over", "current_step": 1}))]
struct ResetAnswer {
    message: &'static str,
    current_step: u8,
}

/// Start over.
///
/// Step 1 again; `hard=true` also deletes the session. The keys stay either way.
#[utoipa::path(
    post,
    path = "/api/onboarding/reset",
    params(("hard" = Option<bool>, Query, description = "also delete the session; never the keys")),
    responses(
        (status = 200, description = "step 1 again, or not started", body = ResetAnswer),
        (status = 400, description = "invalid_request"),
    )
)]
async fn reset(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let hard = match call.query("hard").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::invalid_request("hard is true or false.")),
    };
    if hard {
        deps.sessions.delete(&call.user).await?;
        return json(&ResetAnswer {
            message: "onboarding deleted; it can be started anew",
            current_step: Session::default().current_step,
        });
    }
    let again = |session: &mut Session| {
        session.start(call.now)?;
        session.reset();
        Ok(())
    };
    let session = deps.sessions.change(&call.user, call.now, again).await;
    json(&ResetAnswer {
        message: "onboarding starts over",
        current_step: session.map_err(problem)?.current_step,
    })
}

#[derive(Serialize, ToSchema)]
#[schema(as = OnboardingStatus, example = json!({"is_completed": false, "current_step": 2,
    "completion_percentage": 16, "next_step": 2, "started_at": "2026-11-24T06:00:00Z",
    "completed_at": null, "can_proceed_to_final": false}))]
struct Status {
    is_completed: bool,
    /// 0 before the start.
    current_step: u8,
    /// Ended steps out of six.
    completion_percentage: u8,
    /// The first that has not ended.
    #[schema(required)]
    next_step: Option<u8>,
    #[schema(required)]
    started_at: Option<String>,
    #[schema(required)]
    completed_at: Option<String>,
    can_proceed_to_final: bool,
}

/// Say where the person is.
#[utoipa::path(
    get,
    path = "/api/onboarding/status",
    responses((status = 200, description = "also before the start", body = Status))
)]
async fn status(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    json(&Status::of(&deps.sessions.get(&call.user).await?))
}

impl Status {
    fn of(session: &Session) -> Self {
        Self {
            is_completed: session.completed_at.is_some(),
            current_step: session.current_step,
            completion_percentage: session.completion_percentage(),
            next_step: session.next_step(),
            started_at: session.started_at.clone(),
            completed_at: session.completed_at.clone(),
            can_proceed_to_final: session.can_proceed_to_final(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = OnboardingProgress, example = json!({"steps": [], "current_step": 0, "started_at": null,
    "last_updated": null, "is_completed": false, "completed_at": null, "completion_percentage": 0,
    "total_steps": 6}))]
struct Progress {
    steps: Vec<ShownStep>,
    /// 0 before the start.
    current_step: u8,
    #[schema(required)]
    started_at: Option<String>,
    #[schema(required)]
    last_updated: Option<String>,
    is_completed: bool,
    #[schema(required)]
    completed_at: Option<String>,
    /// Ended steps out of six.
    completion_percentage: u8,
    total_steps: usize,
}

/// Say where the person is, with every step.
#[utoipa::path(
    get,
    path = "/api/onboarding/progress",
    responses((status = 200, description = "also before the start", body = Progress))
)]
async fn progress(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    json(&Progress::of(deps.sessions.get(&call.user).await?))
}

impl Progress {
    fn of(session: Session) -> Self {
        Self {
            steps: session.shown_steps(),
            current_step: session.current_step,
            is_completed: session.completed_at.is_some(),
            completion_percentage: session.completion_percentage(),
            total_steps: STEPS.len(),
            started_at: session.started_at,
            last_updated: session.updated_at,
            completed_at: session.completed_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"user": {"id": "user_2abcDEF9", "clerk_user_id": "user_2abcDEF9"},
    "onboarding": {"is_completed": false, "current_step": 0, "completion_percentage": 0,
    "next_step": 1, "started_at": null, "completed_at": null, "can_proceed_to_final": false,
    "steps": []}, "session": {"session_id": "", "initialized_at": "2026-11-24T06:00:00Z",
    "last_activity": null}}))]
struct InitAnswer<'a> {
    user: InitUser<'a>,
    onboarding: InitOnboarding,
    session: InitSession,
}

#[derive(Serialize, ToSchema)]
struct InitUser<'a> {
    id: &'a str,
    clerk_user_id: &'a str,
}

#[derive(Serialize, ToSchema)]
struct InitOnboarding {
    #[serde(flatten)]
    status: Status,
    steps: Vec<ShownStep>,
}

#[derive(Serialize, ToSchema)]
struct InitSession {
    /// Empty before the start.
    session_id: String,
    initialized_at: String,
    #[schema(required)]
    last_activity: Option<String>,
}

/// Read all that a page needs when it opens.
#[utoipa::path(
    get,
    path = "/api/onboarding/init",
    responses((status = 200, description = "also before the start", body = InitAnswer<'_>))
)]
async fn init(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let session = deps.sessions.get(&call.user).await?;
    let id = call.user.id().as_str();
    json(&InitAnswer {
        user: InitUser {
            id,
            clerk_user_id: id,
        },
        onboarding: InitOnboarding {
            status: Status::of(&session),
            steps: session.shown_steps(),
        },
        session: InitSession {
            initialized_at: rfc3339(call.now)?,
            session_id: session.session_id,
            last_activity: session.updated_at,
        },
    })
}

fn rfc3339(time: OffsetDateTime) -> Result<String, Problem> {
    time.format(&time::format_description::well_known::Rfc3339)
        .map_err(|_| Problem::internal("a time that cannot be written down"))
}

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"steps": [], "total_steps": 6, "providers": [{"provider": "gemini",
    "name": "Google Gemini", "required": true}]}))]
struct ConfigAnswer {
    steps: Vec<ShownStep>,
    total_steps: usize,
    providers: Vec<ShownProvider>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OnboardingProvider)]
struct ShownProvider {
    #[schema(value_type = Provider)]
    provider: &'static str,
    name: &'static str,
    required: bool,
}

/// Read steps and providers, the same for everybody.
#[utoipa::path(
    get,
    path = "/api/onboarding/config",
    responses((status = 200, description = "steps and providers", body = ConfigAnswer))
)]
fn config() -> Result<Response<Body>, Problem> {
    let shown = |provider: &Provider| ShownProvider {
        provider: provider.name(),
        name: provider.facts().title,
        required: provider.facts().required,
    };
    json(&ConfigAnswer {
        steps: Session::default().shown_steps(),
        total_steps: STEPS.len(),
        providers: Provider::ALL.iter().map(shown).collect(),
    })
}

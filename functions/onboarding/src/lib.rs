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
        Action::Step => json(&deps.sessions.get(&call.user).await?.shown(step(&call)?)),
        Action::Complete => complete(deps, &call).await,
        Action::Reset => reset(deps, &call).await,
        Action::Status => json(&Status::of(&deps.sessions.get(&call.user).await?)),
        Action::Progress => json(&Progress::of(deps.sessions.get(&call.user).await?)),
        Action::Init => init(deps, &call).await,
        Action::Steps => json(&config()),
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

#[derive(Serialize)]
struct StartAnswer<'a> {
    message: &'a str,
    current_step: u8,
    started_at: Option<String>,
}

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

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct StepRequest {
    #[serde(default)]
    data: Value,
    validation_errors: Option<Vec<String>>,
}

const STEP_SHAPE: &str = "if you like data (an object) and validation_errors (a list of texts)";

#[derive(Serialize)]
struct StepAnswer {
    message: &'static str,
    step_number: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
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

#[derive(Serialize)]
struct StepValidation {
    can_proceed: bool,
    validation_errors: Vec<String>,
    step_status: &'static str,
}

/// Step 1 needs the required keys; the others are the front end's own to judge.
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

#[derive(Serialize)]
struct CompleteAnswer {
    message: &'static str,
    completed_at: Option<String>,
    completion_percentage: u8,
}

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

#[derive(Serialize)]
struct ResetAnswer {
    message: &'static str,
    current_step: u8,
}

/// Step 1 again; `hard=true` also deletes the session. The keys stay either way.
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

#[derive(Serialize)]
struct Status {
    is_completed: bool,
    current_step: u8,
    completion_percentage: u8,
    next_step: Option<u8>,
    started_at: Option<String>,
    completed_at: Option<String>,
    can_proceed_to_final: bool,
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

#[derive(Serialize)]
struct Progress {
    steps: Vec<ShownStep>,
    current_step: u8,
    started_at: Option<String>,
    last_updated: Option<String>,
    is_completed: bool,
    completed_at: Option<String>,
    completion_percentage: u8,
    total_steps: usize,
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

#[derive(Serialize)]
struct InitAnswer<'a> {
    user: InitUser<'a>,
    onboarding: InitOnboarding,
    session: InitSession,
}

#[derive(Serialize)]
struct InitUser<'a> {
    id: &'a str,
    clerk_user_id: &'a str,
}

#[derive(Serialize)]
struct InitOnboarding {
    #[serde(flatten)]
    status: Status,
    steps: Vec<ShownStep>,
}

#[derive(Serialize)]
struct InitSession {
    session_id: String,
    initialized_at: String,
    last_activity: Option<String>,
}

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

#[derive(Serialize)]
struct ConfigAnswer {
    steps: Vec<ShownStep>,
    total_steps: usize,
    providers: Vec<ShownProvider>,
}

#[derive(Serialize)]
struct ShownProvider {
    provider: &'static str,
    name: &'static str,
    required: bool,
}

fn config() -> ConfigAnswer {
    let shown = |provider: &Provider| ShownProvider {
        provider: provider.name(),
        name: provider.facts().title,
        required: provider.facts().required,
    };
    ConfigAnswer {
        steps: Session::default().shown_steps(),
        total_steps: STEPS.len(),
        providers: Provider::ALL.iter().map(shown).collect(),
    }
}

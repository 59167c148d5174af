//! The onboarding session and its progress. Can reach no ciphertext and no KMS key.

mod progress;
mod session;
mod steps;

use lambda_http::{Body, Request, Response, http::Method};
use user_api_keys::{
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, SetupError},
    key_table::{KeyLister, Status},
    onboarding::{DATA_MAX_BYTES, SessionError, Sessions},
    problem::Problem,
    provider::Provider,
    rate_limit::Class,
};
use utoipa::OpenApi;

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
    session::start,
    steps::complete_step,
    steps::skip_step,
    steps::validate_step,
    steps::shown_step,
    session::complete,
    session::reset,
    progress::status,
    progress::progress,
    progress::init,
    progress::config
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
    /// [`SetupError`]
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, SetupError> {
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
        Action::Start => session::start(deps, &call).await,
        Action::CompleteStep => steps::complete_step(deps, &call).await,
        Action::SkipStep => steps::skip_step(deps, &call).await,
        Action::ValidateStep => steps::validate_step(deps, &call).await,
        Action::Step => steps::shown_step(deps, &call).await,
        Action::Complete => session::complete(deps, &call).await,
        Action::Reset => session::reset(deps, &call).await,
        Action::Status => progress::status(deps, &call).await,
        Action::Progress => progress::progress(deps, &call).await,
        Action::Init => progress::init(deps, &call).await,
        Action::Steps => progress::config(),
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

fn problem(error: SessionError) -> Problem {
    match error {
        SessionError::TooMuchData(_) => Problem::too_large(DATA_MAX_BYTES),
        SessionError::Table(error) => error.into(),
    }
}

/// What stands in the way at the required keys.
#[derive(Debug, Default)]
struct Required {
    /// There is no key.
    missing: Vec<Provider>,
    /// There is one, and its provider refuses it.
    refused: Vec<Provider>,
}

impl Required {
    /// One `Query`, no key is opened.
    async fn of(deps: &Deps, call: &Call<Action>) -> Result<Self, Problem> {
        let records = deps.keys.list(&call.user).await?;
        let mut required = Self::default();
        for &provider in Provider::ALL.iter().filter(|p| p.facts().required) {
            let developer = deps.developer.as_ref();
            if developer.is_some_and(|keys| keys.find(provider).is_some()) {
                continue;
            }
            let mut records = records.iter();
            match records.find(|key| key.provider() == Some(provider)) {
                None => required.missing.push(provider),
                Some(key) if key.status == Status::Invalid => required.refused.push(provider),
                Some(_) => {}
            }
        }
        Ok(required)
    }

    /// What the person can do about it; empty when nothing stands in the way.
    fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.missing.is_empty() {
            sentences.push(format!(
                "Add your API keys for {} first.",
                titles(&self.missing)
            ));
        }
        if !self.refused.is_empty() {
            sentences.push(format!(
                "Replace your refused keys: {}.",
                titles(&self.refused)
            ));
        }
        sentences
    }
}

fn titles(providers: &[Provider]) -> String {
    let titles: Vec<_> = providers.iter().map(|p| p.facts().title).collect();
    titles.join(", ")
}

//! Where a person is: in short, with every step, and with all that a page needs.

use lambda_http::{Body, Response};
use serde::Serialize;
use time::OffsetDateTime;
use user_api_keys::{
    endpoint::{Call, json},
    onboarding::{STEPS, Session, ShownStep},
    problem::Problem,
    provider::Provider,
};
use utoipa::ToSchema;

use crate::{Action, Deps};

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
pub(crate) async fn status(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
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
pub(crate) async fn progress(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
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
pub(crate) async fn init(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
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
    "name": "Google Gemini", "required": true, "can_be_tested": true}]}))]
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
    /// Whether the provider has a free call that tells whether a key works.
    can_be_tested: bool,
}

/// Read steps and providers, the same for everybody.
#[utoipa::path(
    get,
    path = "/api/onboarding/config",
    responses((status = 200, description = "steps and providers", body = ConfigAnswer))
)]
pub(crate) fn config() -> Result<Response<Body>, Problem> {
    let shown = |provider: &Provider| ShownProvider {
        provider: provider.name(),
        name: provider.facts().title,
        required: provider.facts().required,
        can_be_tested: provider.facts().check.is_some(),
    };
    json(&ConfigAnswer {
        steps: Session::default().shown_steps(),
        total_steps: STEPS.len(),
        providers: Provider::ALL.iter().map(shown).collect(),
    })
}

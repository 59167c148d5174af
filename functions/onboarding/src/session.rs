//! Starts, finishes and resets the session as a whole.

use lambda_http::{Body, Response};
use serde::Serialize;
use user_api_keys::{
    endpoint::{Call, json},
    onboarding::Session,
    problem::{Code, Problem},
};
use utoipa::ToSchema;

use crate::{Action, Deps, Required, problem};

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
pub(crate) async fn start(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let begin = |session: &mut Session| session.start(call.now);
    let session = deps.sessions.change(&call.user, call.now, begin).await;
    let session = session.map_err(problem)?;
    json(&StartAnswer {
        message: "onboarding started",
        current_step: session.current_step,
        started_at: session.started_at,
    })
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
pub(crate) async fn complete(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let required = Required::of(deps, call).await?;
    if !required.missing.is_empty() {
        let sentences = required.sentences().join(" ");
        return Err(Problem::new(Code::NoApiKey, sentences));
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
pub(crate) async fn reset(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
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

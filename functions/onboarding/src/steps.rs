//! Ends, judges and shows one step.

use lambda_http::{Body, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use user_api_keys::{
    endpoint::{Call, json},
    onboarding::{Ended, Session, ShownStep, StepData, StepNumber},
    problem::Problem,
};
use utoipa::ToSchema;

use crate::{Action, Deps, Required, problem};

const BODY_MAX_BYTES: usize = 16 * 1024;
const API_KEYS_STEP: u8 = 1;

fn step(call: &Call<Action>) -> Result<StepNumber, Problem> {
    StepNumber::parse(&call.segment)
        .ok_or_else(|| Problem::invalid_request("There are steps 1 to 6."))
}

/// What the front end keeps with a step.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"data": {"website": "https://a.example"}}))]
struct StepRequest {
    /// Any object. Whatever in it is named like a key, or is one, is dropped.
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
    /// What was dropped, by JSON pointer, and what is still missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
}

async fn end(
    deps: &Deps,
    call: &Call<Action>,
    step: StepNumber,
    ended: Ended,
    kept: &StepData,
) -> Result<ShownStep, Problem> {
    let change = |session: &mut Session| session.end(step, ended, kept.clone(), call.now);
    let session = deps.sessions.change(&call.user, call.now, change).await;
    Ok(session.map_err(problem)?.shown(step))
}

/// Step 1 needs the required keys; the others are the front end's own to judge.
async fn in_the_way(
    deps: &Deps,
    call: &Call<Action>,
    step: StepNumber,
) -> Result<Vec<String>, Problem> {
    match step.get() {
        API_KEYS_STEP => Ok(Required::of(deps, call).await?.sentences()),
        _ => Ok(Vec::new()),
    }
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
pub(crate) async fn complete_step(
    deps: &Deps,
    call: &Call<Action>,
) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    let request: StepRequest = call.json_or_nothing(BODY_MAX_BYTES, STEP_SHAPE)?;
    if !request.data.is_object() && !request.data.is_null() {
        return Err(Problem::invalid_request(format!("Send {STEP_SHAPE}.")));
    }
    let errors = request.validation_errors.unwrap_or_default();
    let kept = StepData::without_keys(request.data, errors);
    let shown = end(deps, call, step, Ended::Completed, &kept).await?;
    let mut warnings = kept.warnings();
    warnings.extend(in_the_way(deps, call, step).await?);
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
pub(crate) async fn skip_step(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    end(deps, call, step, Ended::Skipped, &StepData::default()).await?;
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
pub(crate) async fn validate_step(
    deps: &Deps,
    call: &Call<Action>,
) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    let shown = deps.sessions.get(&call.user).await?.shown(step);
    let required = in_the_way(deps, call, step).await?;
    let validation_errors = match required.is_empty() {
        true => shown.validation_errors,
        false => required,
    };
    json(&StepValidation {
        can_proceed: validation_errors.is_empty(),
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
pub(crate) async fn shown_step(
    deps: &Deps,
    call: &Call<Action>,
) -> Result<Response<Body>, Problem> {
    let step = step(call)?;
    json(&deps.sessions.get(&call.user).await?.shown(step))
}

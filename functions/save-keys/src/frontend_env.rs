//! Writes CopilotKit's public key to the front end's `.env`; Local mode only.

use lambda_http::{Body, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use user_api_keys::{
    api_key::ApiKey,
    audit::{self, Outcome},
    endpoint::{Call, json},
    problem::Problem,
    provider::Provider,
};
use utoipa::ToSchema;

use crate::{Action, BODY_MAX_BYTES, Deps, elsewhere::still_in_force};

/// One line of the front end's `.env`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key": "REACT_APP_COPILOTKIT_API_KEY", "value": "ck_pub_0123456789abcdef"}))]
struct FrontendEnvRequest {
    #[schema(pattern = "^REACT_APP_COPILOTKIT_API_KEY$")]
    key: String,
    #[schema(value_type = String, min_length = 8, max_length = 1024, pattern = "^ck_pub_[!-~]+$")]
    value: SecretString,
    /// Not kept.
    #[serde(rename = "description")]
    _description: Option<String>,
}

const FRONTEND_ENV_SHAPE: &str = "key (REACT_APP_COPILOTKIT_API_KEY) and value (texts)";

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "front end environment updated",
    "key": "REACT_APP_COPILOTKIT_API_KEY", "env_files": ["frontend/.env"]}))]
struct FrontendEnvAnswer {
    message: &'static str,
    key: &'static str,
    /// Files that hold the key now.
    env_files: Vec<String>,
    /// What did not go as usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// Write CopilotKit's public key to the front end's `.env`; Local mode only.
///
/// Only the variables of browser-safe keys; never another line, never a file in Production.
#[utoipa::path(
    post,
    path = "/api/frontend-env/update",
    request_body = FrontendEnvRequest,
    responses(
        (status = 200, description = "the line is written", body = FrontendEnvAnswer),
        (status = 400, description = "invalid_request, invalid_api_key"),
        (status = 404, description = "not_found"),
        (status = 409, description = "key_still_in_force"),
    )
)]
pub(crate) async fn frontend_env(
    deps: &Deps,
    call: &Call<Action>,
) -> Result<Response<Body>, Problem> {
    let developer = deps.developer.as_ref().ok_or_else(Problem::not_found)?;
    let request: FrontendEnvRequest = call.json(BODY_MAX_BYTES, FRONTEND_ENV_SHAPE)?;
    let mut all = Provider::ALL
        .iter()
        .filter_map(|p| Some((*p, p.facts().frontend_env?)));
    let found = all.find(|(_, name)| *name == request.key);
    let (provider, name) =
        found.ok_or_else(|| Problem::invalid_request(format!("Send {FRONTEND_ENV_SHAPE}.")))?;
    let key = ApiKey::of(provider, request.value)?;
    let event = call.event(audit::Action::FrontendEnv, Some(provider), None);
    deps.audit.write(&call.user, &event, Outcome::Ok).await?;
    let written = developer.save_for_browser(name, &key);
    if !written
        .as_ref()
        .is_ok_and(|written| !written.files.is_empty())
    {
        deps.audit.note(&call.user, &event, Outcome::Failed).await;
    }
    let written = written.map_err(|still| still_in_force("The line was not written", &still))?;
    json(&FrontendEnvAnswer {
        message: "front end environment updated",
        key: name,
        env_files: written.files,
        warnings: written.warnings,
    })
}

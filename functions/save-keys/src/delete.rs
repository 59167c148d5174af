//! Deletes one key, or all.

use lambda_http::{Body, Response, http::StatusCode};
use user_api_keys::{
    audit,
    endpoint::{Call, empty},
    problem::Problem,
    provider::Provider,
};

use crate::{Action, Deps};

/// Delete a key.
///
/// The files first: a row that is left over is deleted by the next try, a line that is left over
/// would still be used.
#[utoipa::path(
    delete,
    path = "/api/onboarding/api-keys/{provider}",
    params(("provider" = Provider, Path)),
    responses(
        (status = 204, description = "there is no such key any more"),
        (status = 400, description = "unknown_provider"),
    )
)]
pub(crate) async fn delete(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let _order = deps.in_order().await;
    deps.remove_lines(&[provider])?;
    let event = call.event(audit::Action::Delete, Some(provider), None);
    let one = [provider];
    let work = deps.keys.delete(&call.user, &one);
    deps.audited(&call.user, &event, work).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Delete every key.
///
/// As [`delete`], for every provider.
#[utoipa::path(
    delete,
    path = "/api/onboarding/api-keys",
    responses((status = 204, description = "there is no key any more"))
)]
pub(crate) async fn delete_all(
    deps: &Deps,
    call: &Call<Action>,
) -> Result<Response<Body>, Problem> {
    let _order = deps.in_order().await;
    deps.remove_lines(Provider::ALL)?;
    let event = call.event(audit::Action::Delete, None, None);
    let work = deps.keys.delete(&call.user, Provider::ALL);
    deps.audited(&call.user, &event, work).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

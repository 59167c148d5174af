//! Deletes one key, or all.

use lambda_http::{Body, Response, http::StatusCode};
use user_api_keys::{
    audit,
    endpoint::{Call, empty},
    key_table::TableError,
    problem::Problem,
    provider::Provider,
};

use crate::{Action, Deps};

/// Delete a key.
///
/// The files first: a row that is left over is deleted by the next try, a line that is left over
/// would still be used. In Local mode a key that stays in the environment, or in a file that takes no
/// change, is paused in its place.
#[utoipa::path(
    delete,
    path = "/api/onboarding/api-keys/{provider}",
    params(
        ("provider" = Provider, Path),
        ("If-Match" = Option<String>, Header, pattern = "^\"[0-9]{1,19}\"$",
            description = "the version to delete, in double quotes"),
    ),
    responses(
        (status = 204, description = "there is no such key any more"),
        (status = 400, description = "invalid_request, unknown_provider"),
        (status = 409, description = "key_still_in_force"),
        (status = 412, description = "version_conflict"),
    )
)]
pub(crate) async fn delete(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let version = call.if_match()?;
    let _order = deps.in_order().await;
    if version.is_some() && deps.keys.before(&call.user, provider).await?.version() != version {
        return Err(TableError::Condition.into());
    }
    deps.take_out(call, provider).await?;
    let event = call.event(audit::Action::Delete, Some(provider), None);
    let one = [provider];
    let work = deps.keys.delete(&call.user, &one, version);
    deps.audited(&call.user, &event, work).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Delete every key.
///
/// As [`delete`], for every provider.
#[utoipa::path(
    delete,
    path = "/api/onboarding/api-keys",
    responses(
        (status = 204, description = "there is no key any more"),
        (status = 409, description = "key_still_in_force"),
    )
)]
pub(crate) async fn delete_all(
    deps: &Deps,
    call: &Call<Action>,
) -> Result<Response<Body>, Problem> {
    if call.if_match()?.is_some() {
        let detail =
            "If-Match is for one key; delete all without it, or each with its own version.";
        return Err(Problem::invalid_request(detail));
    }
    let _order = deps.in_order().await;
    let (mut gone, mut stays) = (Vec::new(), Ok(()));
    for &provider in Provider::ALL {
        match deps.take_out(call, provider).await {
            Ok(()) => gone.push(provider),
            still => stays = stays.and(still),
        }
    }
    let event = call.event(audit::Action::Delete, None, None);
    let work = deps.keys.delete(&call.user, &gone, None);
    deps.audited(&call.user, &event, work).await?;
    stays?;
    Ok(empty(StatusCode::NO_CONTENT))
}

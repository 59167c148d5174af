//! Pauses a key, words it, or lets it expire.

use lambda_http::{Body, Response};
use serde::{Deserialize, Deserializer};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use user_api_keys::{
    audit,
    endpoint::{Call, json},
    key_table::{Change, ShownRecord, TableError},
    problem::Problem,
    provider::Provider,
    user_api_keys::KeyError,
};
use utoipa::ToSchema;

use crate::{Action, BODY_MAX_BYTES, Deps, fits};

/// A field that may be there, null or absent.
fn maybe_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What to change about a key; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1, example = json!({"enabled": false}))]
struct ChangeRequest {
    /// `false` pauses it; null leaves it as it is.
    enabled: Option<bool>,
    /// The person's own words; null takes them away.
    #[serde(default, deserialize_with = "maybe_null")]
    #[schema(value_type = Option<String>, required = false, max_length = 200)]
    description: Option<Option<String>>,
    /// The key is not opened from then on: a time to come, or null for never.
    #[serde(default, deserialize_with = "maybe_null")]
    #[schema(value_type = Option<String>, required = false, format = DateTime)]
    expires_at: Option<Option<String>>,
}

const CHANGE_SHAPE: &str = "one or more of enabled (true or false), description (text of at most \
                            200 characters, or null) and expires_at (a time to come such as \
                            2030-01-31T00:00:00Z, or null for never)";

/// Pause a key, word it, or let it expire.
///
/// One `UpdateItem`. In Local mode a key that stands in the environment or in `.env` alone is saved first:
/// what is paused or expired is not used, wherever it stands.
#[utoipa::path(
    patch,
    path = "/api/onboarding/api-keys/{provider}",
    params(
        ("provider" = Provider, Path),
        ("If-Match" = Option<String>, Header, pattern = "^\"[0-9]{1,19}\"$",
            description = "the version to change, in double quotes"),
    ),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "the key's record as it is now", body = ShownRecord),
        (status = 400, description = "invalid_request, unknown_provider"),
        (status = 409, description = "no_api_key"),
        (status = 412, description = "version_conflict"),
    )
)]
pub(crate) async fn change(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let request: ChangeRequest = call.json(BODY_MAX_BYTES, CHANGE_SHAPE)?;
    let wrong = || Problem::invalid_request(format!("Send {CHANGE_SHAPE}."));
    let expires_at = match request.expires_at {
        Some(Some(text)) => {
            let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| wrong())?;
            Some(Some(at.to_offset(UtcOffset::UTC)))
        }
        other => other.map(|_| None),
    };
    let to_come = expires_at.flatten().is_none_or(|at| at > call.now);
    let description = request.description;
    let nothing = request.enabled.is_none() && description.is_none() && expires_at.is_none();
    if nothing || !to_come || !fits(description.as_ref().and_then(Option::as_deref)) {
        return Err(wrong());
    }
    let version = call.if_match()?;
    let change = Change {
        version,
        enabled: request.enabled,
        description: description.map(|text| text.filter(|text| !text.is_empty())),
        expires_at,
    };
    deps.adopt(call, provider).await?;
    let event = call.event(audit::Action::Change, Some(provider), None);
    let work = deps.keys.change(&call.user, provider, change, call.now);
    let record = deps
        .audited(&call.user, &event, work)
        .await
        .map_err(|error| match error {
            TableError::Condition if version.is_none() => KeyError::Missing(provider).into(),
            error => Problem::from(error),
        })?;
    json(&record.shown(call.now, deps.rotate_after_days))
}

//! Saves a key: sealed, and asked about where that is free.

use lambda_http::{Body, Response};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::Duration;
use user_api_keys::{
    api_key::ApiKey,
    audit::{self, Outcome},
    config::CheckOnSave,
    endpoint::{Call, json, whole},
    key_table::{NewKey, Status},
    problem::{Code, Problem},
    provider::Provider,
    provider_check::Verdict,
    rate_limit::{Class, LimitError},
    sealing::Binding,
};
use utoipa::ToSchema;

use crate::{Action, BODY_MAX_BYTES, Deps, fits};

/// Ten years.
const EXPIRES_IN_DAYS_MAX: u16 = 3_650;

/// A key to save.
// No `Debug`: the key is in it, as a secret from its first byte.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"provider": "gemini", "api_key": "AQ.my-own-gemini-key-0001",
    "description": "mine", "expires_in_days": 90}))]
struct SaveRequest {
    #[schema(value_type = Provider)]
    provider: String,
    /// As the provider gave it; never a mask or a placeholder.
    #[schema(value_type = String, min_length = 1, max_length = 1024, pattern = "^[!-~]+$")]
    api_key: SecretString,
    /// The person's own words.
    #[schema(max_length = 200)]
    description: Option<String>,
    /// The key is not opened any more after so many days; never, if left out.
    #[serde(default, deserialize_with = "whole")]
    #[schema(required = false, minimum = 1, maximum = 3650)]
    expires_in_days: Option<u16>,
}

const SAVE_SHAPE: &str = "provider and api_key (texts), and if you like description (text of at \
                          most 200 characters that can be seen, on one line) and expires_in_days (1 to 3650)";

/// A saved key, named and not shown.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "Google Gemini API key saved", "provider": "gemini",
    "status": "saved", "key": {"provider": "gemini", "hint": "0001",
    "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "version": 1, "check": "valid"}}))]
pub(crate) struct SaveAnswer<'a> {
    pub(crate) message: String,
    #[schema(value_type = Provider)]
    pub(crate) provider: &'a str,
    /// `saved` or `restored`.
    pub(crate) status: &'a str,
    pub(crate) key: SavedKey<'a>,
    /// Local mode: files that hold the key now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) env_files: Option<Vec<String>>,
    /// What did not go as usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) warnings: Vec<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SavedKey<'a> {
    #[schema(value_type = Provider)]
    pub(crate) provider: &'a str,
    /// Last four characters, or empty.
    #[schema(max_length = 4)]
    pub(crate) hint: &'a str,
    /// The key's own id, new with every save.
    pub(crate) kid: &'a str,
    /// Number of saves, for `If-Match`.
    pub(crate) version: u64,
    /// What the provider said: `valid`, `unknown`, or `skipped` when it was not asked.
    #[schema(pattern = "^(valid|unknown|skipped)$")]
    pub(crate) check: &'a str,
}

/// Save or replace a key.
///
/// A look at the row beside the count, then `Encrypt` beside the provider's check, then one write with
/// the audit record; in Local mode also the `.env` files. A key that is replaced can be restored for a day.
#[utoipa::path(
    post,
    path = "/api/onboarding/api-keys",
    params(
        ("check" = Option<String>, Query, pattern = "^(live|format)$",
            description = "`live` asks the provider where that is free, `format` looks at the key alone"),
        ("If-Match" = Option<String>, Header, pattern = "^\"[0-9]{1,19}\"$",
            description = "the version to replace, in double quotes"),
    ),
    request_body = SaveRequest,
    responses(
        (status = 200, description = "the key is saved", body = SaveAnswer<'_>),
        (status = 400, description = "invalid_request, unknown_provider, invalid_api_key"),
        (status = 409, description = "key_still_in_force"),
        (status = 412, description = "version_conflict"),
        (status = 422, description = "provider_rejected_key"),
    )
)]
pub(crate) async fn save(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let request: SaveRequest = call.json(BODY_MAX_BYTES, SAVE_SHAPE)?;
    let provider: Provider = request.provider.parse()?;
    let key = ApiKey::of(provider, request.api_key)?;
    let description = request.description.filter(|text| !text.is_empty());
    let days_fit = |days| (1..=EXPIRES_IN_DAYS_MAX).contains(&days);
    if !fits(description.as_deref()) || !request.expires_in_days.is_none_or(days_fit) {
        return Err(Problem::invalid_request(format!("Send {SAVE_SHAPE}.")));
    }
    let replaces = call.if_match()?;
    deps.gives_way(provider, Some(&key))?;
    let how = check_on_save(deps, call)?;
    let kid = ulid::Ulid::new().to_string();
    let hint = key.hint();
    let binding = Binding {
        user: call.user.id(),
        provider,
        kid: &kid,
    };
    let before = async { Ok(deps.keys.before(&call.user, provider).await?) };
    // Neither KMS nor the provider is asked before the call has been let through.
    let sealed_and_checked = async {
        call.let_through().await?;
        let seal = async { Ok(deps.sealer.seal(&key, &binding).await?) };
        tokio::try_join!(seal, check(deps, call, how, provider, &key, &kid))
    };
    let (before, (sealed, checked)) = tokio::try_join!(before, sealed_and_checked)?;
    let event = call.event(audit::Action::Save, Some(provider), Some(&kid));
    let record = deps.audit.entry(&call.user, &event, Outcome::Ok)?;
    let new = NewKey {
        provider,
        kid: &kid,
        sealed,
        hint: &hint,
        description: description.as_deref(),
        expires_at: request
            .expires_in_days
            .map(|days| call.now + Duration::days(days.into())),
        status: checked.status(),
        replaces,
        record: Some(record),
    };
    let _order = deps.in_order().await;
    let saved = deps.keys.save(&call.user, before, &new, call.now).await;
    let version = deps.recorded(&call.user, &event, saved).await?;
    let written = deps.to_files(provider, &key)?;
    let (env_files, mut warnings) = written.map_or((None, Vec::new()), |written| {
        (Some(written.files), written.warnings)
    });
    warnings.extend(checked.warning(provider));
    json(&SaveAnswer {
        message: format!("{} API key saved", provider.facts().title),
        provider: provider.name(),
        status: "saved",
        key: SavedKey {
            provider: provider.name(),
            hint: &hint,
            kid: &kid,
            version,
            check: checked.as_str(),
        },
        env_files,
        warnings,
    })
}

/// `?check=live|format`, else as configured.
fn check_on_save(deps: &Deps, call: &Call<Action>) -> Result<CheckOnSave, Problem> {
    let Some(asked) = call.query("check") else {
        return Ok(deps.check_on_save);
    };
    CheckOnSave::parse(&asked).ok_or_else(|| Problem::invalid_request("check is live or format."))
}

/// What was heard of a key before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Valid,
    Unknown,
    /// Nobody was asked.
    Skipped,
    /// Nobody was asked, since this person asked too often.
    TooOften,
}

impl Checked {
    const fn status(self) -> Status {
        match self {
            Self::Valid => Status::Active,
            Self::Unknown | Self::Skipped | Self::TooOften => Status::Unverified,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Skipped | Self::TooOften => "skipped",
        }
    }

    fn warning(self, provider: Provider) -> Option<String> {
        let title = provider.facts().title;
        match self {
            Self::Valid | Self::Skipped => None,
            Self::Unknown => Some(format!(
                "{title} did not say whether this key works; it was saved unchecked"
            )),
            Self::TooOften => Some(format!(
                "{title} was not asked whether this key works: too many checks in the last hour"
            )),
        }
    }
}

/// Asks the provider whether the key works, if that is free, wanted and not too often; on the record
/// before it is asked.
///
/// # Errors
/// 422 when the provider refuses the key.
async fn check(
    deps: &Deps,
    call: &Call<Action>,
    how: CheckOnSave,
    provider: Provider,
    key: &ApiKey,
    kid: &str,
) -> Result<Checked, Problem> {
    let free = match (how, &provider.facts().check) {
        (CheckOnSave::Live, Some(free)) => free,
        _ => return Ok(Checked::Skipped),
    };
    match deps
        .endpoint
        .count(&call.user, Class::Check, call.now)
        .await
    {
        Ok(()) => {}
        Err(LimitError::Limited(_)) => return Ok(Checked::TooOften),
        Err(error) => return Err(error.into()),
    }
    let event = call.event(audit::Action::Check, Some(provider), Some(kid));
    deps.audit.write(&call.user, &event, Outcome::Ok).await?;
    match deps.checker.check(provider, free, key).await {
        Verdict::Valid => Ok(Checked::Valid),
        Verdict::Unknown => Ok(Checked::Unknown),
        Verdict::Invalid => {
            deps.audit.note(&call.user, &event, Outcome::Refused).await;
            Err(Problem::new(
                Code::ProviderRejectedKey,
                format!(
                    "{} refuses this key, so it was not saved; copy it again from {}.",
                    provider.facts().title,
                    provider.facts().get_key_at
                ),
            ))
        }
    }
}

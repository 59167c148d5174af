//! Brings back the key that was replaced.

use lambda_http::{Body, Response};
use user_api_keys::{
    audit::{self, Outcome},
    endpoint::{Call, json},
    key_table::{Restore, Status, TableError},
    problem::{Code, Problem},
    provider::Provider,
};

use crate::{
    Action, Deps,
    save::{SaveAnswer, SavedKey},
};

/// Bring back the key that was replaced.
///
/// For a day after a save: the two change places, so that a restore can be restored, too. Two
/// `GetItem`s side by side, one `TransactWriteItems` with the audit record. In Local mode the `.env` lines
/// are taken out first, since they would win: no function that saves can open a key to write it there.
#[utoipa::path(
    post,
    path = "/api/onboarding/api-keys/{provider}/restore",
    params(
        ("provider" = Provider, Path),
        ("If-Match" = Option<String>, Header, pattern = "^\"[0-9]{1,19}\"$",
            description = "the version to replace, in double quotes: with it a second try cannot undo \
                           the first"),
    ),
    responses(
        (status = 200, description = "the earlier key is in use again", body = SaveAnswer<'_>),
        (status = 400, description = "invalid_request, unknown_provider"),
        (status = 409, description = "no_api_key, key_still_in_force"),
        (status = 412, description = "version_conflict"),
    )
)]
pub(crate) async fn restore(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let replaces = call.if_match()?;
    let _order = deps.in_order().await;
    let kms_key = deps.sealer.kms_key();
    let keys = deps
        .keys
        .restorable(&call.user, provider, kms_key, call.now)
        .await;
    let keys = keys.map_err(|error| match error {
        TableError::Condition => nothing_kept(provider),
        error => error.into(),
    })?;
    if replaces.is_some_and(|version| version != keys.version()) {
        return Err(TableError::Condition.into());
    }
    let wanted = keys.wanted().clone();
    let was_elsewhere = deps.give_way(provider)?;
    let event = call.event(audit::Action::Restore, Some(provider), Some(&wanted.kid));
    let restore = Restore {
        replaces,
        record: Some(deps.audit.entry(&call.user, &event, Outcome::Ok)?),
        now: call.now,
    };
    let restored = deps.keys.restore(&call.user, provider, keys, restore).await;
    let version = deps.recorded(&call.user, &event, restored).await?;
    let title = provider.facts().title;
    json(&SaveAnswer {
        message: format!("the {title} API key that was replaced is in use again"),
        provider: provider.name(),
        status: "restored",
        key: SavedKey {
            provider: provider.name(),
            hint: &wanted.hint,
            kid: &wanted.kid,
            version,
            check: match wanted.status {
                Status::Active => "valid",
                Status::Unverified | Status::Invalid => "unknown",
            },
        },
        env_files: None,
        warnings: Vec::from_iter(was_elsewhere.then(|| taken_out(provider))),
    })
}

fn nothing_kept(provider: Provider) -> Problem {
    let title = provider.facts().title;
    Problem::new(
        Code::NoApiKey,
        format!(
            "There is no earlier {title} key to bring back: one that is replaced is kept for a day, \
             and not beyond a delete. Save the key again."
        ),
    )
}

fn taken_out(provider: Provider) -> String {
    let variable = provider.facts().env;
    format!(
        "{variable} was taken out of the .env files and is read from the table; save the key again to have \
         it there"
    )
}

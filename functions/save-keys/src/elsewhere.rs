//! Local mode: keys in the environment and in `.env`, where they are read before the table's.

use user_api_keys::{
    api_key::ApiKey,
    audit,
    developer_keys::{StillInForce, Written},
    endpoint::Call,
    key_table::{Change, NewKey, TableError},
    problem::{Code, Problem},
    provider::Provider,
    sealing::Binding,
};

use crate::{Action, Deps};

/// 409 `key_still_in_force`, after what became of the request.
pub(crate) fn still_in_force(what: &str, still: &StillInForce) -> Problem {
    Problem::new(Code::KeyStillInForce, format!("{what}: {still}."))
}

impl Deps {
    /// Before anything changes: whether the key that is in the table then is the one that is used.
    pub(crate) fn gives_way(
        &self,
        provider: Provider,
        new: Option<&ApiKey>,
    ) -> Result<(), Problem> {
        let Some(developer) = &self.developer else {
            return Ok(());
        };
        let gives_way = developer.gives_way(provider, new);
        gives_way.map_err(|still| {
            still_in_force("Nothing was changed, since it would not be used", &still)
        })
    }

    /// Before a key comes back whose text is not known here: takes the lines out, and returns whether one
    /// was in use.
    pub(crate) fn give_way(&self, provider: Provider) -> Result<bool, Problem> {
        self.gives_way(provider, None)?;
        let Some(developer) = &self.developer else {
            return Ok(false);
        };
        let used = developer.find(provider).is_some();
        let removed = developer.remove(provider);
        removed.map_err(|still| still_in_force("Nothing was changed in the table", &still))?;
        Ok(used)
    }

    /// Writes a key that is in the table to the files.
    pub(crate) fn to_files(
        &self,
        provider: Provider,
        key: &ApiKey,
    ) -> Result<Option<Written>, Problem> {
        let written = self.developer.as_ref().map(|dev| dev.save(provider, key));
        let written = written.transpose();
        written.map_err(|still| still_in_force("The key is saved and is not used", &still))
    }

    /// Takes the provider's lines out of the files. Where its key stays in force, the provider is paused.
    pub(crate) async fn take_out(
        &self,
        call: &Call<Action>,
        provider: Provider,
    ) -> Result<(), Problem> {
        let removed = self.developer.as_ref().map(|dev| dev.remove(provider));
        let Some(Err(still)) = removed else {
            return Ok(());
        };
        self.pause(call, provider).await?;
        let what = "The key was not deleted, and is paused, so that it is not used here";
        Err(still_in_force(what, &still))
    }

    async fn pause(&self, call: &Call<Action>, provider: Provider) -> Result<(), Problem> {
        self.adopt(call, provider).await?;
        let event = call.event(audit::Action::Change, Some(provider), None);
        let change = Change {
            enabled: Some(false),
            ..Change::default()
        };
        let work = self.keys.change(&call.user, provider, change, call.now);
        match self.audited(&call.user, &event, work).await {
            // No row, and nothing to make one of, is nothing that could be used.
            Ok(_) | Err(TableError::Condition) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Saves a key that stands in the environment or in `.env` alone, since only a row can be paused.
    pub(crate) async fn adopt(
        &self,
        call: &Call<Action>,
        provider: Provider,
    ) -> Result<(), Problem> {
        let found = self.developer.as_ref().and_then(|dev| dev.find(provider));
        let Some(key) = found else {
            return Ok(());
        };
        if self.keys.before(&call.user, provider).await?.is_there() {
            return Ok(());
        }
        let (kid, hint) = (ulid::Ulid::new().to_string(), key.hint());
        let binding = Binding {
            user: call.user.id(),
            provider,
            kid: &kid,
        };
        let sealed = self.sealer.seal(&key, &binding).await?;
        let new = NewKey::unverified(provider, &kid, sealed, &hint);
        let event = call.event(audit::Action::Save, Some(provider), Some(&kid));
        let work = self.keys.add(&call.user, &new, call.now);
        self.audited(&call.user, &event, work).await?;
        Ok(())
    }
}

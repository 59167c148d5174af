//! Who is calling.
//!
//! A [`User`] is proof of identity: only `auth` makes one in Production, and in Local mode there is
//! exactly one.

/// A person's id, compared byte for byte: never trimmed, lower-cased or normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(String);

/// Not a Clerk user id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a user id: expected user_ and 8 to 64 letters or digits")]
pub struct InvalidUserId;

impl UserId {
    /// A Clerk subject: `^user_[A-Za-z0-9]{8,64}$`.
    ///
    /// # Errors
    /// [`InvalidUserId`] for anything else, such as a separator that could reach another row.
    pub fn clerk(sub: &str) -> Result<Self, InvalidUserId> {
        let tail = sub.strip_prefix("user_").ok_or(InvalidUserId)?;
        let fits =
            (8..=64).contains(&tail.len()) && tail.bytes().all(|b| b.is_ascii_alphanumeric());
        fits.then(|| Self(sub.to_owned())).ok_or(InvalidUserId)
    }

    /// The id as stored and as bound into the encryption context.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An authenticated user; nothing is read or written without one.
#[derive(Debug, Clone)]
pub struct User {
    id: UserId,
    via: Via,
    actor: Option<Actor>,
    session: Option<String>,
    caller: Option<String>,
}

/// How it is known who the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A session token that verifies.
    Session,
    /// A back end that IAM lets in and that is trusted to name users.
    TrustedCaller,
    /// Local mode without sign-in.
    Local,
    /// A scheduled job over everybody's rows.
    Job,
}

impl Via {
    /// As the audit log says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::TrustedCaller => "trusted_caller",
            Self::Local => "local",
            Self::Job => "job",
        }
    }
}

/// Somebody who impersonates a user through Clerk; named when Clerk names a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub(crate) Option<UserId>);

impl Actor {
    /// Their user id, or `unnamed`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("unnamed", UserId::as_str)
    }
}

impl User {
    fn known(id: UserId, via: Via) -> Self {
        Self {
            id,
            via,
            actor: None,
            session: None,
            caller: None,
        }
    }

    /// Made from a verified token's subject, session id and actor.
    pub(crate) fn verified(id: UserId, session_id: &str, actor: Option<Actor>) -> Self {
        Self {
            actor,
            session: Some(fingerprint(session_id)),
            ..Self::known(id, Via::Session)
        }
    }

    /// Named by a trusted back end.
    pub(crate) fn named(id: UserId) -> Self {
        Self::known(id, Via::TrustedCaller)
    }

    /// The one user of Local mode without sign-in.
    pub(crate) fn local() -> Self {
        Self::known(UserId("local".to_owned()), Via::Local)
    }

    /// Whose row it is, for jobs over everybody's rows: they act for nobody who is there.
    pub(crate) fn of_row(pk: &str) -> Option<Self> {
        let id = match pk.strip_prefix("USER#")? {
            "local" => UserId("local".to_owned()),
            sub => UserId::clerk(sub).ok()?,
        };
        Some(Self::known(id, Via::Job))
    }

    /// Adds the AWS identity that called, where Lambda says which.
    #[must_use]
    pub fn called_by(self, caller: Option<&str>) -> Self {
        let caller = caller.map(str::to_owned);
        Self { caller, ..self }
    }

    /// How it is known who this is.
    #[must_use]
    pub fn via(&self) -> Via {
        self.via
    }

    /// Names the session without being its id: uses of one session have the same one.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// The AWS identity that called.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        self.caller.as_deref()
    }

    /// Who impersonates this user, if anybody does: they may look, and do nothing else.
    #[must_use]
    pub fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// Whose rows may be touched.
    #[must_use]
    pub fn id(&self) -> &UserId {
        &self.id
    }
}

/// The first 16 hex digits of the text's SHA-256.
pub(crate) fn fingerprint(text: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let hash = digest(&SHA256, text.as_bytes());
    let start = hash.as_ref().iter().take(8);
    start.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clerk_subjects_are_user_ids() {
        assert!(UserId::clerk("user_2abcDEF9").is_ok());
        assert!(UserId::clerk(&format!("user_{}", "a".repeat(64))).is_ok());
        for sub in [
            "",
            "user_",
            "User_2abcDEF9",
            "user_2abcDEF9 ",
            "user_2abc#KEY9",
            "local",
            "user_2abcDEF9\n",
            "user_2abcDEFé",
            "org_2abcDEF9",
        ] {
            assert_eq!(UserId::clerk(sub), Err(InvalidUserId), "{sub:?}");
        }
        assert_eq!(UserId::clerk("user_2abcDEF"), Err(InvalidUserId));
        assert_eq!(
            UserId::clerk(&format!("user_{}", "a".repeat(65))),
            Err(InvalidUserId)
        );
    }
}

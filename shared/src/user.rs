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

/// An authenticated person; nothing is read or written without one.
#[derive(Debug, Clone)]
pub struct User {
    id: UserId,
    actor: Option<Actor>,
}

/// Somebody who impersonates a person through Clerk; named when Clerk names a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub(crate) Option<UserId>);

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_ref().map_or("unnamed", UserId::as_str))
    }
}

impl User {
    /// Made from a verified token's subject.
    pub(crate) fn verified(id: UserId, actor: Option<Actor>) -> Self {
        Self { id, actor }
    }

    /// The one developer of Local mode.
    pub(crate) fn local() -> Self {
        Self {
            id: UserId("local".to_owned()),
            actor: None,
        }
    }

    /// Whose row it is, for jobs over everybody's rows: they act for nobody who is there.
    pub(crate) fn of_row(pk: &str) -> Option<Self> {
        let sub = pk.strip_prefix("USER#")?;
        match sub {
            "local" => Some(Self::local()),
            _ => Some(Self::verified(UserId::clerk(sub).ok()?, None)),
        }
    }

    /// Who impersonates this person, if anybody does: they may look, and do nothing else.
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

//! What became of every key, in words without one.

use std::{collections::BTreeMap, io::Write};

use user_api_keys::api_key::InvalidApiKey;

/// What became of the key at a place.
pub(super) type One = (String, Result<(), Reason>);

/// Places of what is not even looked at, and why.
pub(super) type Skipped = Vec<(String, Reason)>;

/// Why a key was not imported, or is not what its source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(super) enum Reason {
    #[error("what python-dotenv does not read either")]
    Line,
    #[error("there is a newer one")]
    Older,
    #[error("its session is missing, so it is nobody's")]
    NoSession,
    #[error("its owner is no Clerk user id (user_ and 8 to 64 letters or digits)")]
    UserId,
    #[error("its provider is not known here")]
    Provider,
    #[error("{0}")]
    Key(InvalidApiKey),
    #[error("the person has a key of this provider already")]
    There,
    #[error("is not in the table: import it first")]
    Missing,
    #[error(
        "the table has another key: the person replaced it since, or had one before the import"
    )]
    Differs,
    #[error("does not open")]
    DoesNotOpen,
}

/// Counts, and a line for each key that is not as the others.
#[derive(Debug, Default)]
pub(super) struct Report {
    good: u64,
    bad: BTreeMap<Reason, Vec<String>>,
}

impl Report {
    pub(super) fn skip(&mut self, place: String, reason: Reason) {
        self.bad.entry(reason).or_default().push(place);
    }

    pub(super) fn add(&mut self, (place, outcome): One) {
        match outcome {
            Ok(()) => self.good += 1,
            Err(reason) => self.skip(place, reason),
        }
    }

    /// Whether a key that should be in the table is not.
    pub(super) fn differs(&self) -> bool {
        [Reason::Missing, Reason::Differs, Reason::DoesNotOpen]
            .iter()
            .any(|reason| self.bad.contains_key(reason))
    }

    pub(super) fn print(&self, word: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{} keys {word}", self.good)?;
        for (reason, places) in &self.bad {
            writeln!(out, "{} not: {reason}", places.len())?;
            // Those of a run before are too many, and all well.
            if *reason != Reason::There {
                for place in places {
                    writeln!(out, "    {place}")?;
                }
            }
        }
        out.flush()
    }
}

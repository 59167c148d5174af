//! The Clerk instance's public keys from its JWKS address, kept for a while.
//!
//! Source: RFC 7517. Ages are wall-clock ages, since a Lambda freezes between requests and its
//! monotonic clock may stand still meanwhile. Must not know tokens.

use std::time::Duration as StdDuration;

use aws_lc_rs::rsa::{PublicEncryptingKey, PublicKeyComponents};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};
use tokio::sync::Mutex;

use super::KEY_MIN_BITS;
use crate::https::{Https, HttpsError, answer};

const MAX_BYTES: usize = 64 * 1024;
const ANSWER: StdDuration = StdDuration::from_secs(3);
/// How long keys are used without asking again.
const FRESH: Duration = Duration::minutes(10);
/// How long they are used when asking again fails.
const STALE: Duration = Duration::hours(1);
/// Shortest time between two questions, whoever sends unknown `kid`s.
const PAUSE: Duration = Duration::minutes(1);
/// The same while there is no usable key and nobody gets in.
const PAUSE_WITHOUT_KEYS: Duration = Duration::seconds(2);

/// Keys and where they come from.
pub(super) struct Jwks {
    https: Https,
    url: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Vec<(String, DecodingKey)>,
    /// When the keys came; `None` before the first time.
    fetched_at: Option<OffsetDateTime>,
    /// When they were last asked for.
    asked_at: Option<OffsetDateTime>,
}

/// Why there is no key of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The instance has none.
    Unknown,
    /// The instance does not answer, and what it said before is too old.
    Unavailable,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwks {
    pub(super) fn new(url: &str) -> Result<Self, HttpsError> {
        Ok(Self {
            https: Https::new()?,
            url: url.to_owned(),
            known: Mutex::default(),
        })
    }

    /// The key named `kid`; one question at a time, whoever waits for it.
    pub(super) async fn key(&self, kid: &str, now: OffsetDateTime) -> Result<DecodingKey, NoKey> {
        let mut known = self.known.lock().await;
        if known.worth_asking(kid, now) {
            known.asked_at = Some(now);
            match self.fetch().await {
                Ok(keys) => {
                    known.keys = keys;
                    known.fetched_at = Some(now);
                }
                Err(cause) => tracing::error!(cause, "Clerk's keys were not fetched"),
            }
        }
        match known.usable(now) {
            false => Err(NoKey::Unavailable),
            true => known.find(kid).cloned().ok_or(NoKey::Unknown),
        }
    }

    async fn fetch(&self) -> Result<Vec<(String, DecodingKey)>, &'static str> {
        let got = answer(self.https.get(&self.url).timeout(ANSWER), MAX_BYTES).await;
        let got = got.map_err(|error| match error {
            HttpsError::TimedOut => "timed out",
            HttpsError::TooLarge => "answer too large",
            _ => "no connection",
        })?;
        if got.status.as_u16() != 200 {
            return Err("unexpected status");
        }
        let set: KeySet = serde_json::from_slice(&got.body).map_err(|_| "not a key set")?;
        let keys: Vec<_> = set.keys.into_iter().filter_map(usable_key).collect();
        match keys.is_empty() {
            true => Err("no usable key"),
            false => Ok(keys),
        }
    }
}

impl Known {
    fn find(&self, kid: &str) -> Option<&DecodingKey> {
        let mut keys = self.keys.iter();
        keys.find(|(name, _)| name == kid).map(|(_, key)| key)
    }

    /// Whether the keys came less than `limit` ago. A clock that went back makes them old.
    fn younger(&self, limit: Duration, now: OffsetDateTime) -> bool {
        let within = |at| (Duration::ZERO..limit).contains(&(now - at));
        self.fetched_at.is_some_and(within)
    }

    fn usable(&self, now: OffsetDateTime) -> bool {
        self.younger(STALE, now)
    }

    fn worth_asking(&self, kid: &str, now: OffsetDateTime) -> bool {
        let pause = match self.usable(now) {
            true => PAUSE,
            false => PAUSE_WITHOUT_KEYS,
        };
        let lately = |at| (Duration::ZERO..pause).contains(&(now - at));
        let enough = self.younger(FRESH, now) && self.find(kid).is_some();
        !enough && !self.asked_at.is_some_and(lately)
    }
}

/// An RSA signing key of enough bits under a name; anything else is passed over.
fn usable_key(jwk: Jwk) -> Option<(String, DecodingKey)> {
    let fits = jwk.kty == "RSA"
        && jwk.alg.as_deref().is_none_or(|alg| alg == "RS256")
        && jwk.r#use.as_deref().is_none_or(|purpose| purpose == "sig");
    let (n, e) = (jwk.n?, jwk.e?);
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let components = PublicKeyComponents {
        n: bytes(&n)?,
        e: bytes(&e)?,
    };
    let key: PublicEncryptingKey = components.try_into().ok()?;
    let key = (fits && key.key_size_bits() >= KEY_MIN_BITS)
        .then(|| DecodingKey::from_rsa_components(&n, &e).ok())??;
    Some((jwk.kid?, key))
}

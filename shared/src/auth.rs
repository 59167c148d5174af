//! Clerk session tokens → [`User`].
//!
//! The only place that makes a `User`. Identity comes from the `Authorization` header alone: never
//! from a body, path, query, other header or the gateway's authorizer.

use aws_lc_rs::rsa::PublicEncryptingKey;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use lambda_http::http::{HeaderMap, header::AUTHORIZATION};
use time::OffsetDateTime;

use self::jwks::{Jwks, NoKey};
use crate::{
    config::{Clerk, ClerkKeys, Config},
    https::HttpsError,
    mode::Mode,
    user::{User, UserId},
};

mod jwks;
mod token;

/// Shortest RSA key that may vouch for people.
const KEY_MIN_BITS: usize = 2_048;

/// How callers are identified.
pub enum Auth {
    /// Local mode without Clerk: whoever is on this machine is its one user.
    Local,
    /// A verified Clerk session token.
    Clerk(Box<Verifier>),
}

/// Verifies Clerk session tokens: with PEM keys and no network, or with the instance's JWKS.
pub struct Verifier {
    keys: Keys,
    signature_only: Validation,
    clerk: Clerk,
}

enum Keys {
    Pem(Vec<DecodingKey>),
    Jwks(Jwks),
}

/// Why a caller is nobody. For the log only: outside, the first two look the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    /// No single `Authorization: Bearer <token>`.
    #[error("no bearer token")]
    NoToken,
    /// A rule that the token breaks; never what it says.
    #[error("token does not verify: {0}")]
    Token(&'static str),
    /// Local mode is one user, and this is another one.
    #[error("not LOCAL_USER_ID")]
    NotTheLocalUser,
    /// Clerk's keys cannot be had, so nobody can be told apart; not the caller's fault.
    #[error("Clerk's keys are not available")]
    KeysUnavailable,
}

impl Unauthorized {
    /// The reason in few words, for the metric.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoToken => "no bearer token",
            Self::Token(rule) => rule,
            Self::NotTheLocalUser => "not the local user",
            Self::KeysUnavailable => "no keys",
        }
    }
}

/// Why callers cannot be identified at all; the process does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthSetupError {
    /// The PEM does not parse, is private, not RSA or under 2,048 bits.
    #[error(
        "CLERK_JWT_KEY must hold RSA public keys of 2,048 bits or more in PEM form \
         (-----BEGIN PUBLIC KEY-----), and nothing else"
    )]
    JwtKey,
    /// No client for `CLERK_JWKS_URL`.
    #[error("CLERK_JWKS_URL: {0}")]
    Jwks(#[from] HttpsError),
    /// Nobody could be told apart.
    #[error("Production needs Clerk's settings")]
    NoClerk,
}

impl Auth {
    /// A verifier with Clerk settings; without them the local developer, in Local mode only.
    ///
    /// # Errors
    /// [`AuthSetupError`]
    pub fn new(mode: Mode, clerk: Option<&Clerk>) -> Result<Self, AuthSetupError> {
        match (clerk, mode) {
            (Some(clerk), _) => Ok(Self::Clerk(Box::new(Verifier::new(clerk)?))),
            (None, Mode::Local) => Ok(Self::Local),
            (None, Mode::Production) => Err(AuthSetupError::NoClerk),
        }
    }

    /// Who is calling at `now`.
    ///
    /// # Errors
    /// [`Unauthorized`] holds the reason for the log; the caller gets one body for all.
    pub async fn user(
        &self,
        headers: &HeaderMap,
        now: OffsetDateTime,
    ) -> Result<User, Unauthorized> {
        match self {
            Self::Local => Ok(User::local()),
            Self::Clerk(verifier) => verifier.user(bearer(headers)?, now).await,
        }
    }

    /// Whom a token names at `now`, for a caller without headers.
    ///
    /// # Errors
    /// [`Unauthorized`]
    pub async fn user_of_token(
        &self,
        token: &str,
        now: OffsetDateTime,
    ) -> Result<User, Unauthorized> {
        match self {
            Self::Local => Ok(User::local()),
            Self::Clerk(verifier) if token::has_form(token) => verifier.user(token, now).await,
            Self::Clerk(_) => Err(Unauthorized::NoToken),
        }
    }
}

/// The right to name a user without their token: background work of a trusted back end, which IAM
/// lets in. There only where `OPEN_KEYS_TRUST_CALLER=true`.
pub struct TrustedCaller(Whom);

enum Whom {
    Anybody,
    /// Local mode: everybody it names is the one user.
    Local,
    /// Local mode with sign-in.
    Only(UserId),
}

impl TrustedCaller {
    /// `None` unless the configuration says so.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        let whom = match (config.mode, &config.clerk) {
            (Mode::Production, _) => Whom::Anybody,
            (Mode::Local, None) => Whom::Local,
            (Mode::Local, Some(clerk)) => Whom::Only(clerk.only_user.clone()?),
        };
        config.open_keys_trust_caller.then_some(Self(whom))
    }

    /// The user with this id.
    ///
    /// # Errors
    /// [`Unauthorized`] for anything that is no user id, and in Local mode for another user.
    pub fn user(&self, user_id: &str) -> Result<User, Unauthorized> {
        let id = UserId::clerk(user_id).map_err(|_| Unauthorized::Token("not a user id"))?;
        match &self.0 {
            Whom::Anybody => Ok(User::named(id)),
            Whom::Local => Ok(User::local()),
            Whom::Only(only) if *only == id => Ok(User::named(id)),
            Whom::Only(_) => Err(Unauthorized::NotTheLocalUser),
        }
    }
}

impl Verifier {
    fn new(clerk: &Clerk) -> Result<Self, AuthSetupError> {
        let mut signature_only = Validation::new(Algorithm::RS256);
        // Claims are ours to check, after the signature and more strictly.
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        let keys = match &clerk.keys {
            ClerkKeys::Pem(text) => Keys::Pem(public_keys(text).ok_or(AuthSetupError::JwtKey)?),
            ClerkKeys::Jwks(url) => Keys::Jwks(Jwks::new(url)?),
        };
        Ok(Self {
            keys,
            signature_only,
            clerk: clerk.clone(),
        })
    }

    async fn user(&self, token: &str, now: OffsetDateTime) -> Result<User, Unauthorized> {
        let kid = token::check_header(token).map_err(Unauthorized::Token)?;
        let claims = match &self.keys {
            Keys::Pem(keys) => self.signed_claims(token, keys),
            Keys::Jwks(jwks) => {
                let kid = kid.ok_or(Unauthorized::Token("key id is missing"))?;
                match jwks.key(&kid, now).await {
                    Ok(key) => self.signed_claims(token, &[key]),
                    Err(NoKey::Unknown) => Err("unknown key"),
                    Err(NoKey::Unavailable) => return Err(Unauthorized::KeysUnavailable),
                }
            }
        };
        let now_s = now.unix_timestamp() as f64;
        let claims = claims.map_err(Unauthorized::Token)?;
        let user = token::check_claims(&claims, &self.clerk, now_s).map_err(Unauthorized::Token)?;
        match &self.clerk.only_user {
            Some(only) if only != user.id() => Err(Unauthorized::NotTheLocalUser),
            _ => Ok(user),
        }
    }

    /// The claims, looked at only once one of the keys has verified the signature.
    fn signed_claims(
        &self,
        token: &str,
        keys: &[DecodingKey],
    ) -> Result<token::Object, &'static str> {
        for key in keys {
            match jsonwebtoken::decode(token, key, &self.signature_only) {
                Ok(data) => return Ok(data.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                // The library's own text may repeat what the token says.
                Err(_) => return Err("malformed"),
            }
        }
        Err("signature")
    }
}

/// Every key of a PEM text; `None` when any of it is not an acceptable public key.
fn public_keys(text: &str) -> Option<Vec<DecodingKey>> {
    let blocks = pem::parse_many(text).ok()?;
    let keys: Option<Vec<_>> = blocks.iter().map(public_key).collect();
    // The parser passes over what stands between blocks, and over a broken block.
    let all = text.matches("-----BEGIN").count() == blocks.len() && !blocks.is_empty();
    keys.filter(|_| all)
}

fn public_key(block: &pem::Pem) -> Option<DecodingKey> {
    let key = PublicEncryptingKey::from_der(block.contents()).ok()?;
    let fits = block.tag() == "PUBLIC KEY" && key.key_size_bits() >= KEY_MIN_BITS;
    fits.then(|| DecodingKey::from_rsa_pem(pem::encode(block).as_bytes()).ok())?
}

/// The token of the one `Authorization` header: the scheme in any case, one space, the token.
fn bearer(headers: &HeaderMap) -> Result<&str, Unauthorized> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Unauthorized::NoToken);
    };
    let text = value.to_str().map_err(|_| Unauthorized::NoToken)?;
    let (scheme, token) = text.split_once(' ').ok_or(Unauthorized::NoToken)?;
    match scheme.eq_ignore_ascii_case("bearer") && token::has_form(token) {
        true => Ok(token),
        false => Err(Unauthorized::NoToken),
    }
}

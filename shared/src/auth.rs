//! Clerk session tokens → [`User`].
//!
//! The only place that makes a `User`. Identity comes from the `Authorization` header alone: never
//! from a body, path, query, other header or the gateway's authorizer.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use lambda_http::http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;

use crate::{
    config::Clerk,
    mode::Mode,
    user::{User, UserId},
};

/// Clerk's documented clock tolerance, in seconds.
const LEEWAY_S: u64 = 5;

/// How callers are identified.
pub enum Auth {
    /// Local mode without Clerk: everybody on this machine is the developer.
    Local,
    /// A verified Clerk session token.
    Clerk(Box<Verifier>),
}

/// Verifies Clerk session tokens with a PEM key, without the network.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
    authorized_parties: Vec<String>,
}

/// Why a caller is nobody. For the log only: outside, all reasons look the same.
#[derive(Debug, thiserror::Error)]
pub enum Unauthorized {
    /// No single `Authorization: Bearer <token>`.
    #[error("no bearer token")]
    NoToken,
    /// Signature, header or a standard claim does not hold.
    #[error("token does not verify: {0}")]
    Token(&'static str),
    /// Issued for an origin that is not ours.
    #[error("authorized party is not allowed")]
    AuthorizedParty,
    /// The subject is not a user.
    #[error(transparent)]
    Subject(#[from] crate::user::InvalidUserId),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    azp: Option<String>,
}

/// Why callers cannot be identified at all; the process does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthSetupError {
    /// The PEM does not parse.
    #[error("CLERK_JWT_KEY is not an RSA public key in PEM form")]
    JwtKey,
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

    /// Who is calling.
    ///
    /// # Errors
    /// [`Unauthorized`] holds the reason for the log; the caller gets one body for all.
    pub fn user(&self, headers: &HeaderMap) -> Result<User, Unauthorized> {
        match self {
            Self::Local => Ok(User::local()),
            Self::Clerk(verifier) => verifier.user(bearer(headers)?),
        }
    }
}

impl Verifier {
    fn new(clerk: &Clerk) -> Result<Self, AuthSetupError> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.validate_aud = false; // Clerk session tokens carry none.
        validation.set_issuer(&[&clerk.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        Ok(Self {
            key: DecodingKey::from_rsa_pem(clerk.jwt_key.as_bytes())
                .map_err(|_| AuthSetupError::JwtKey)?,
            validation,
            authorized_parties: clerk.authorized_parties.clone(),
        })
    }

    fn user(&self, token: &str) -> Result<User, Unauthorized> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| Unauthorized::Token(reason(error.kind())))?
            .claims;
        let party = claims.azp.ok_or(Unauthorized::AuthorizedParty)?;
        if !self.authorized_parties.contains(&party) {
            return Err(Unauthorized::AuthorizedParty);
        }
        Ok(User::verified(UserId::clerk(&claims.sub)?))
    }
}

/// The library's own text may repeat what the token says, so only the kind is kept.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "signature",
        ErrorKind::ExpiredSignature => "expired",
        ErrorKind::ImmatureSignature => "not yet valid",
        ErrorKind::InvalidIssuer => "issuer",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "algorithm",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        _ => "malformed",
    }
}

/// The token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, Unauthorized> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Unauthorized::NoToken);
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|v| v.split_once(' '))
        .ok_or(Unauthorized::NoToken)?;
    match scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        true => Ok(token),
        false => Err(Unauthorized::NoToken),
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;

    const PRIVATE: &str = include_str!("../tests/keys/clerk-test.pem");
    const PUBLIC: &str = include_str!("../tests/keys/clerk-test.pub.pem");
    const FOREIGN: &str = include_str!("../tests/keys/other.pem");
    const ISSUER: &str = "https://clerk.test";
    const ORIGIN: &str = "https://app.test";

    fn auth() -> Auth {
        let clerk = Clerk {
            jwt_key: PUBLIC.to_owned(),
            issuer: ISSUER.to_owned(),
            authorized_parties: vec![ORIGIN.to_owned()],
        };
        Auth::new(Mode::Production, Some(&clerk)).unwrap()
    }

    fn claims() -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        json!({"sub": "user_2abcDEF9", "iss": ISSUER, "azp": ORIGIN, "iat": now, "nbf": now, "exp": now + 60})
    }

    fn sign(claims: &Value, header: &Header, key: &EncodingKey) -> String {
        jsonwebtoken::encode(header, claims, key).unwrap()
    }

    fn rs256(claims: &Value) -> String {
        sign(
            claims,
            &Header::new(Algorithm::RS256),
            &EncodingKey::from_rsa_pem(PRIVATE.as_bytes()).unwrap(),
        )
    }

    fn ask(authorization: &str) -> Result<User, Unauthorized> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        auth().user(&headers)
    }

    #[test]
    fn a_freshly_signed_token_names_its_subject() {
        let user = ask(&format!("Bearer {}", rs256(&claims()))).unwrap();
        assert_eq!(user.id().as_str(), "user_2abcDEF9");
    }

    #[test]
    fn a_token_with_any_one_claim_wrong_is_nobody() {
        let now = jsonwebtoken::get_current_timestamp();
        for (claim, value) in [
            ("sub", json!("local")),
            ("sub", json!("user_2abcDEF9#KEY")),
            ("sub", Value::Null),
            ("iss", json!("https://evil.test")),
            ("iss", Value::Null),
            ("azp", json!("https://evil.test")),
            ("azp", Value::Null),
            ("exp", json!(now - 60)),
            ("exp", Value::Null),
            ("nbf", json!(now + 60)),
        ] {
            let mut bad = claims();
            bad[claim] = value.clone();
            assert!(
                ask(&format!("Bearer {}", rs256(&bad))).is_err(),
                "{claim} = {value}"
            );
        }
    }

    #[test]
    fn a_token_of_another_key_or_algorithm_is_nobody() {
        let foreign = EncodingKey::from_rsa_pem(FOREIGN.as_bytes()).unwrap();
        let hs256 = EncodingKey::from_secret(PUBLIC.as_bytes());
        for token in [
            sign(&claims(), &Header::new(Algorithm::RS256), &foreign),
            sign(&claims(), &Header::new(Algorithm::HS256), &hs256),
        ] {
            assert!(ask(&format!("Bearer {token}")).is_err());
        }
    }

    #[test]
    fn no_single_bearer_header_is_no_token() {
        for authorization in ["", "Bearer", "Bearer ", "Basic abc", "Bearer a, Bearer b"] {
            assert!(ask(authorization).is_err(), "{authorization:?}");
        }
        assert!(matches!(
            auth().user(&HeaderMap::new()),
            Err(Unauthorized::NoToken)
        ));
        let mut twice = HeaderMap::new();
        for _ in 0..2 {
            twice.append(
                AUTHORIZATION,
                format!("Bearer {}", rs256(&claims())).parse().unwrap(),
            );
        }
        assert!(matches!(auth().user(&twice), Err(Unauthorized::NoToken)));
    }
}

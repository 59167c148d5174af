//! Clerk-shaped session tokens of a test instance, for trying Production mode without Clerk.
//!
//! The private key is published with this project, so whoever trusts its public half trusts
//! everybody: it is for loopback only.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// `CLERK_JWT_KEY` of the test instance.
pub const PUBLIC_KEY: &str = include_str!("../../shared/tests/keys/clerk-test.pub.pem");
/// `CLERK_ISSUER` of the test instance.
pub const ISSUER: &str = "https://clerk.test";
/// `CLERK_AUTHORIZED_PARTIES` of the test instance.
pub const PARTY: &str = "https://app.test";
const PRIVATE_KEY: &str = include_str!("../../shared/tests/keys/clerk-test.pem");
/// As long as Clerk's own.
pub const LIFETIME_S: u64 = 60;

/// A token for `user_id`, valid from now for a minute.
///
/// # Errors
/// When it cannot be signed.
pub fn sign(user_id: &str) -> Result<String, jsonwebtoken::errors::Error> {
    sign_for(user_id, LIFETIME_S)
}

/// A token for `user_id`, valid from now for `lifetime_s` seconds.
///
/// # Errors
/// When it cannot be signed.
pub fn sign_for(user_id: &str, lifetime_s: u64) -> Result<String, jsonwebtoken::errors::Error> {
    signed(user_id, None, lifetime_s)
}

/// A token for `user_id` that `actor` holds in their place, as Clerk's impersonation makes them.
///
/// # Errors
/// When it cannot be signed.
pub fn sign_as(user_id: &str, actor: &str) -> Result<String, jsonwebtoken::errors::Error> {
    signed(user_id, Some(actor), LIFETIME_S)
}

fn signed(
    user_id: &str,
    actor: Option<&str>,
    lifetime_s: u64,
) -> Result<String, jsonwebtoken::errors::Error> {
    let now = jsonwebtoken::get_current_timestamp();
    let mut claims = json!({
        "sub": user_id, "iss": ISSUER, "azp": PARTY, "sid": "sess_test",
        "iat": now, "nbf": now, "exp": now + lifetime_s,
    });
    if let Some(actor) = actor {
        claims["act"] = json!({ "sub": actor });
    }
    let key = EncodingKey::from_rsa_pem(PRIVATE_KEY.as_bytes())?;
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key)
}

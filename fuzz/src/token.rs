//! Whatever somebody sends as a token: only what the test instance signed, with every claim as it should
//! be, names a person.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use local::token::{ISSUER, PARTY, PUBLIC_KEY};
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    auth::Auth,
    config::{Clerk, ClerkKeys},
    mode::Mode,
};

/// The seeds' tokens live around it.
const NOW: i64 = 1_800_000_000;
const PRIVATE_KEY: &[u8] = include_bytes!("../../shared/tests/keys/clerk-test.pem");

static AUTH: LazyLock<Auth> = LazyLock::new(|| {
    let clerk = Clerk {
        keys: ClerkKeys::Pem(PUBLIC_KEY.to_owned()),
        issuer: ISSUER.to_owned(),
        authorized_parties: vec![PARTY.to_owned()],
        audience: None,
        only_user: None,
    };
    Auth::new(Mode::Production, Some(&clerk)).unwrap()
});
static KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_rsa_pem(PRIVATE_KEY).unwrap());

fn names(token: &str) -> Option<String> {
    let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
    let user = AUTH.user_of_token(token, now);
    let user = futures_util::FutureExt::now_or_never(user).expect("a PEM needs no network");
    user.ok().map(|user| user.id().as_str().to_owned())
}

/// The rules, said once more and in other words.
fn may_pass(header: &[u8], claims: &[u8]) -> Option<String> {
    let header: Value = serde_json::from_slice(header).ok()?;
    let claims: Value = serde_json::from_slice(claims).ok()?;
    let sub = claims["sub"].as_str()?;
    let rest = sub.strip_prefix("user_")?;
    let id = (8..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric());
    let (exp, nbf) = (
        claims["exp"].as_f64()?,
        claims["nbf"].as_f64().unwrap_or(0.0),
    );
    // A few seconds of other clocks are allowed.
    let lives = exp > (NOW - 30) as f64 && nbf < (NOW + 30) as f64;
    let right = header["alg"] == "RS256" && claims["iss"] == ISSUER && claims["azp"] == PARTY;
    (id && lives && right).then(|| sub.to_owned())
}

/// One input.
pub fn run(data: &[u8]) {
    // As it comes: nobody can sign, so nobody gets in.
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(names(text), None);
    }
    // Header and claims, a line each, signed by the test instance.
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (header, claims) = (&data[..end], &data[end + 1..]);
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature = sign(message.as_bytes(), &KEY, Algorithm::RS256).unwrap();
    if let Some(named) = names(&format!("{message}.{signature}")) {
        assert_eq!(Some(named), may_pass(header, claims));
    }
}

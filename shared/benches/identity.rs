//! What it costs to know who is calling: the whole decision about a token against the bare RS256
//! signature in it, in one run. `cargo bench -p user-api-keys`
//!
//! The signature is most of it, and cannot be less; what breaks a rule before it is cheaper still.

#![expect(clippy::unwrap_used, reason = "a benchmark without its input is none")]

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use divan::Bencher;
use futures_util::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lambda_http::http::HeaderMap;
use serde_json::json;
use time::OffsetDateTime;
use user_api_keys::{
    auth::Auth,
    config::{Clerk, ClerkKeys},
    mode::Mode,
};

const PUBLIC: &str = include_str!("../tests/keys/clerk-test.pub.pem");

fn main() {
    divan::main();
}

/// A session token as Clerk makes them, for an hour so that no run outlives it.
fn token(party: &str) -> String {
    let now = jsonwebtoken::get_current_timestamp();
    let claims = json!({"sub": "user_2abcDEFGHIJKLMNOPQRSTUVWXYZ", "iss": "https://clerk.test",
        "azp": party, "sid": "sess_2abcDEFGHIJKLMNOPQRSTUVWXYZ", "sts": "active",
        "fva": [12, -1], "iat": now, "nbf": now - 10, "exp": now + 3_600});
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some("ins_2abcDEFGHIJKLMNOPQRSTUVWXYZ".to_owned());
    let key = EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/clerk-test.pem")).unwrap();
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

fn auth() -> Auth {
    let clerk = Clerk {
        keys: ClerkKeys::Pem(PUBLIC.to_owned()),
        issuer: "https://clerk.test".to_owned(),
        authorized_parties: vec!["https://app.test".to_owned()],
        audience: None,
        only_user: None,
    };
    Auth::new(Mode::Production, Some(&clerk)).unwrap()
}

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers
}

fn decide(bencher: Bencher<'_, '_>, token: &str, admitted: bool) {
    let (auth, headers) = (auth(), headers(token));
    let now = OffsetDateTime::now_utc();
    bencher.bench_local(|| {
        let user = auth.user(&headers, now).now_or_never().unwrap();
        assert_eq!(user.is_ok(), admitted);
    });
}

#[divan::bench]
fn a_bare_rs256_signature(bencher: Bencher<'_, '_>) {
    let token = token("https://app.test");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let block = pem::parse(PUBLIC).unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, block.contents());
    bencher.bench_local(|| key.verify(message.as_bytes(), &signature).unwrap());
}

#[divan::bench]
fn a_good_token(bencher: Bencher<'_, '_>) {
    decide(bencher, &token("https://app.test"), true);
}

#[divan::bench]
fn a_token_of_another_party(bencher: Bencher<'_, '_>) {
    decide(bencher, &token("https://evil.test"), false);
}

#[divan::bench]
fn a_text_that_is_no_token(bencher: Bencher<'_, '_>) {
    decide(bencher, "x", false);
}

//! Good and bad `Authorization` values, each rule from both sides.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

/// `CLERK_JWT_KEY` the corpus is made for.
pub(crate) const PUBLIC: &str = include_str!("../keys/clerk-test.pub.pem");
/// `CLERK_ISSUER`.
pub(crate) const ISSUER: &str = "https://clerk.test";
/// `CLERK_AUTHORIZED_PARTIES`.
pub(crate) const PARTY: &str = "https://app.test";
const SESSION: &str = "cl_B7d4PD111AAA";

/// One value and the right decision about it.
pub(crate) struct Case {
    /// What is special about it.
    pub(crate) name: String,
    /// The header's value.
    pub(crate) authorization: String,
    /// Whether it names a person.
    pub(crate) admitted: bool,
}

fn part(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signed with the right key, whatever it says.
fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_rsa_pem(include_bytes!("../keys/clerk-test.pem"));
    let signature = key.and_then(|key| crypto::sign(message.as_bytes(), &key, Algorithm::RS256));
    format!("{message}.{}", signature.expect("the test key signs"))
}

fn header() -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": "ins_test", "cat": SESSION})
}

fn claims(now: u64) -> Value {
    json!({"sub": "user_2abcDEF9", "iss": ISSUER, "azp": PARTY, "sid": "sess_2abc", "sts": "active",
        "iat": now, "nbf": now, "exp": now + 60})
}

/// `of` with `name` set, or taken away where `value` is `None`.
fn with(of: &Value, name: &str, value: Option<Value>) -> Vec<u8> {
    let mut map = of.as_object().cloned().unwrap_or_default();
    match value {
        Some(value) => drop(map.insert(name.to_owned(), value)),
        None => drop(map.remove(name)),
    }
    Value::Object(map).to_string().into_bytes()
}

/// The corpus at Unix time `now`.
pub(crate) fn corpus(now: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |admitted: bool, name: String, authorization: String| {
        cases.push(Case {
            name,
            authorization,
            admitted,
        });
    };
    let (header, claims) = (header(), claims(now));
    let (header_bytes, claim_bytes) = (
        header.to_string().into_bytes(),
        claims.to_string().into_bytes(),
    );
    let good = signed(&header_bytes, &claim_bytes);

    for (admitted, name, value) in header_cases() {
        let token = signed(&with(&header, name, value.clone()), &claim_bytes);
        add(
            admitted,
            format!("header {name} = {}", shown(&value)),
            format!("Bearer {token}"),
        );
    }
    for (admitted, name, value) in claim_cases(now) {
        let token = signed(&header_bytes, &with(&claims, name, value.clone()));
        add(
            admitted,
            format!("claim {name} = {}", shown(&value)),
            format!("Bearer {token}"),
        );
    }
    for (name, authorization) in forms(&good) {
        let admitted =
            ["as it is", "scheme in small letters", "scheme in capitals"].contains(&name);
        add(admitted, name.to_owned(), authorization);
    }
    for (name, bytes) in odd_payloads(&claims) {
        add(
            false,
            format!("payload: {name}"),
            format!("Bearer {}", signed(&header_bytes, &bytes)),
        );
    }
    for (admitted, longest) in [(true, 8_192), (false, 8_196)] {
        let authorization = format!("Bearer {}", of_length(&header_bytes, &claims, longest));
        add(
            admitted,
            format!("{longest} characters at most"),
            authorization,
        );
    }
    let twice = header.to_string().replacen('{', "{\"alg\":\"RS256\",", 1);
    let token = signed(twice.as_bytes(), &claim_bytes);
    add(
        false,
        "header: a duplicate alg".to_owned(),
        format!("Bearer {token}"),
    );
    for (name, token) in foreign(&good, &header, &claim_bytes) {
        add(false, name, format!("Bearer {token}"));
    }
    cases
}

/// A signed token padded to within four characters of `longest`.
fn of_length(header: &[u8], claims: &Value, longest: usize) -> String {
    let padded =
        |bytes: usize| signed(header, &with(claims, "pad", Some(json!("x".repeat(bytes)))));
    let missing = longest - padded(0).len();
    padded(missing / 4 * 3)
}

fn shown(value: &Option<Value>) -> String {
    let text = value.as_ref().map_or("absent".to_owned(), Value::to_string);
    text.chars().take(60).collect()
}

fn header_cases() -> Vec<(bool, &'static str, Option<Value>)> {
    vec![
        (true, "typ", None),
        (false, "typ", Some(json!("jwt"))),
        (false, "typ", Some(json!("at+jwt"))),
        (false, "typ", Some(Value::Null)),
        (true, "kid", None),
        (true, "cat", None),
        (false, "cat", Some(json!("cl_B7d4PD222AAA"))),
        (false, "cat", Some(json!(7))),
        (false, "cat", Some(Value::Null)),
        (false, "alg", Some(json!("none"))),
        (false, "alg", Some(json!("RS384"))),
        (false, "alg", Some(json!("PS256"))),
        (false, "alg", Some(json!("HS256"))),
        (false, "alg", Some(json!("rs256"))),
        (false, "alg", None),
        (false, "crit", Some(json!(["exp"]))),
        (false, "crit", Some(json!([]))),
        (true, "jku", Some(json!("https://evil.test/jwks"))),
        (true, "x5u", Some(json!("https://evil.test/cert"))),
        (true, "x5c", Some(json!(["AAAA"]))),
        (true, "jwk", Some(json!({"kty": "oct", "k": "AAAA"}))),
    ]
}

fn claim_cases(now: u64) -> Vec<(bool, &'static str, Option<Value>)> {
    let soon = now as f64 + 60.5;
    vec![
        (false, "iss", None),
        (false, "iss", Some(json!("https://evil.test"))),
        (false, "iss", Some(json!("https://clerk.test/"))),
        (false, "iss", Some(json!("HTTPS://clerk.test"))),
        (false, "iss", Some(json!([ISSUER]))),
        (false, "azp", None),
        (false, "azp", Some(json!(""))),
        (false, "azp", Some(json!("https://evil.test"))),
        (false, "azp", Some(json!("https://app.test.evil.test"))),
        (false, "azp", Some(json!("https://app.test/"))),
        (false, "azp", Some(json!([PARTY]))),
        (false, "sub", None),
        (false, "sub", Some(json!(""))),
        (false, "sub", Some(json!("local"))),
        (false, "sub", Some(json!("user_"))),
        (false, "sub", Some(json!("user_2abcDE"))),
        (true, "sub", Some(json!("user_2abcDEFG"))),
        (true, "sub", Some(json!(format!("user_{}", "a".repeat(64))))),
        (
            false,
            "sub",
            Some(json!(format!("user_{}", "a".repeat(65)))),
        ),
        (false, "sub", Some(json!("user_2abcDEF9#KEY"))),
        (false, "sub", Some(json!("user_2abcDEF9\n"))),
        (false, "sub", Some(json!(" user_2abcDEF9"))),
        (false, "sub", Some(json!("USER_2abcDEF9"))),
        (false, "sub", Some(json!("user_2abcDEFé"))),
        (false, "sub", Some(json!(7))),
        (false, "sid", None),
        (false, "sid", Some(json!("ses_2abc"))),
        (false, "sid", Some(json!(7))),
        (true, "sts", None),
        (false, "sts", Some(json!("pending"))),
        (false, "sts", Some(json!("expired"))),
        (false, "sts", Some(json!("Active"))),
        (false, "sts", Some(Value::Null)),
        (false, "exp", None),
        (false, "exp", Some(json!(now - 60))),
        (false, "exp", Some(json!(now - 6))),
        (false, "exp", Some(json!((now + 60).to_string()))),
        (false, "exp", Some(json!(1e300))),
        (false, "exp", Some(json!(-1))),
        (false, "exp", Some(json!(now + 90_000))),
        (false, "exp", Some(json!([now + 60]))),
        (false, "exp", Some(json!(true))),
        (true, "exp", Some(json!(soon))),
        (true, "exp", Some(json!(now + 86_400))),
        (false, "iat", None),
        (false, "iat", Some(json!(now + 30))),
        (false, "iat", Some(json!(now.to_string()))),
        (false, "iat", Some(json!(now - 90_000))),
        (true, "iat", Some(json!(now - 30))),
        (true, "iat", Some(json!(now + 3))),
        (false, "iat", Some(json!(1e300))),
        (false, "iat", Some(json!(-1e300))),
        (false, "iat", Some(Value::Null)),
        (true, "nbf", None),
        (false, "nbf", Some(json!(now + 30))),
        (false, "nbf", Some(json!("now"))),
        (false, "nbf", Some(Value::Null)),
        (true, "nbf", Some(json!(now - 30))),
        (true, "nbf", Some(json!(now + 3))),
        (false, "nbf", Some(json!(1e300))),
        (true, "act", Some(json!({"sub": "user_support01"}))),
        (true, "aud", Some(json!("anybody"))),
        (true, "fva", Some(json!([1, -1]))),
    ]
}

fn forms(good: &str) -> Vec<(&'static str, String)> {
    let (start, signature) = good.rsplit_once('.').unwrap_or_default();
    vec![
        ("as it is", format!("Bearer {good}")),
        ("scheme in small letters", format!("bearer {good}")),
        ("scheme in capitals", format!("BEARER {good}")),
        ("two spaces", format!("Bearer  {good}")),
        ("a tab", format!("Bearer\t{good}")),
        ("no scheme", good.to_owned()),
        ("another scheme", format!("Basic {good}")),
        ("no token", "Bearer ".to_owned()),
        ("nothing", String::new()),
        ("a comma list", format!("Bearer {good}, Bearer {good}")),
        ("a trailing space", format!("Bearer {good} ")),
        ("padding", format!("Bearer {good}==")),
        ("a fourth part", format!("Bearer {good}.x")),
        ("two parts", format!("Bearer {start}")),
        ("no signature", format!("Bearer {start}.")),
        (
            "no payload",
            format!(
                "Bearer {}..{signature}",
                start.split('.').next().unwrap_or_default()
            ),
        ),
        ("no header", format!("Bearer .{good}")),
        ("a quoted token", format!("Bearer \"{good}\"")),
        ("too long", format!("Bearer {good}{}", "A".repeat(8_192))),
        (
            "standard base64",
            format!("Bearer {}+/", &good[..good.len() - 2]),
        ),
    ]
}

fn odd_payloads(claims: &Value) -> Vec<(&'static str, Vec<u8>)> {
    let text = claims.to_string();
    let inner = &text[1..text.len() - 1];
    let with_end = |end: &[u8]| [text.as_bytes(), end].concat();
    let mut bad_utf8 = format!("{{\"x\":\"?\",{inner}}}").into_bytes();
    if let Some(byte) = bad_utf8.iter_mut().find(|byte| **byte == b'?') {
        *byte = 0xff;
    }
    vec![
        (
            "a duplicate sub",
            format!("{{\"sub\":\"user_evilEVIL1\",{inner}}}").into_bytes(),
        ),
        (
            "a duplicate exp",
            format!("{{{inner},\"exp\":9999999999}}").into_bytes(),
        ),
        (
            "a duplicate unknown name",
            format!("{{\"x\":1,\"x\":1,{inner}}}").into_bytes(),
        ),
        (
            "a duplicate inside a claim",
            format!("{{\"act\":{{\"sub\":\"user_a\",\"sub\":\"user_b\"}},{inner}}}").into_bytes(),
        ),
        (
            "an escaped duplicate",
            format!("{{\"\\u0073ub\":\"user_evilEVIL1\",{inner}}}").into_bytes(),
        ),
        (
            "a byte order mark",
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        ),
        ("bad UTF-8", bad_utf8),
        ("an array", format!("[{text}]").into_bytes()),
        ("a text", b"\"user_2abcDEF9\"".to_vec()),
        ("two objects", with_end(text.as_bytes())),
        ("a NUL behind", with_end(b"\0")),
        ("nothing in it", b"{}".to_vec()),
        ("not JSON", b"sub=user_2abcDEF9".to_vec()),
    ]
}

fn foreign(good: &str, header: &Value, claims: &[u8]) -> Vec<(String, String)> {
    let mut tokens = Vec::new();
    let sign = |name: &str, header: &[u8], key: Result<EncodingKey, _>, algorithm| {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = key.and_then(|key| crypto::sign(message.as_bytes(), &key, algorithm));
        let signature: Result<String, jsonwebtoken::errors::Error> = signature;
        (
            name.to_owned(),
            format!("{message}.{}", signature.expect("it signs")),
        )
    };
    let other = || EncodingKey::from_rsa_pem(include_bytes!("../keys/other.pem"));
    let rs256 = header.to_string().into_bytes();
    let hs256 = with(header, "alg", Some(json!("HS256")));
    let none = with(header, "alg", Some(json!("none")));
    tokens.push(sign("another key", &rs256, other(), Algorithm::RS256));
    tokens.push(sign(
        "another algorithm under the right name",
        &rs256,
        other(),
        Algorithm::RS512,
    ));
    let pem = || Ok(EncodingKey::from_secret(PUBLIC.as_bytes()));
    tokens.push(sign("HS256 with the PEM", &hs256, pem(), Algorithm::HS256));
    tokens.push(sign(
        "HS256 that says RS256",
        &rs256,
        pem(),
        Algorithm::HS256,
    ));
    tokens.push((
        "alg none".to_owned(),
        format!("{}.{}.", part(&none), part(claims)),
    ));
    tokens.push((
        "alg none with a signature".to_owned(),
        format!("{}.{}.AAAA", part(&none), part(claims)),
    ));
    // One flipped character in each of ten places of each part.
    for (n, character) in good.char_indices().step_by(good.len() / 30) {
        if character != '.' {
            let flipped = if character == 'A' { 'B' } else { 'A' };
            let token = format!("{}{flipped}{}", &good[..n], &good[n + 1..]);
            tokens.push((format!("character {n} flipped"), token));
        }
    }
    tokens
}

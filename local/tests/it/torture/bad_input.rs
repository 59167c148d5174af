//! Requests that nobody means well with: each has its status and its code, none is a defect of ours, and
//! none hears its secret again.

use std::{collections::BTreeSet, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local::token;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{CANARY, KEYS, Place, key, unlimited};
use crate::harness::{PERSON, Server, clerk, command, start};

const JSON: &str = "application/json";

/// One request as bytes, and what it is answered with; several codes where HTTP's own limits may speak first.
struct Case {
    name: String,
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
}

impl Case {
    fn new(name: impl Into<String>, method: &'static str, target: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            method,
            target: target.into(),
            headers: Vec::new(),
            body: Vec::new(),
            status: 400,
            code: "invalid_request",
        }
    }

    fn header(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn signed(self) -> Self {
        let token = token::sign_for(PERSON, 3_600).unwrap();
        self.header("Authorization", format!("Bearer {token}"))
    }

    fn json(self, body: impl Into<Vec<u8>>) -> Self {
        let mut case = self.header("Content-Type", JSON);
        case.body = body.into();
        case
    }

    fn is(mut self, status: u16, code: &'static str) -> Self {
        (self.status, self.code) = (status, code);
        self
    }
}

fn saves(name: impl Into<String>, body: impl Into<Vec<u8>>) -> Case {
    Case::new(name, "POST", KEYS).signed().json(body)
}

fn saving(name: &str, provider: Value, api_key: Value) -> Case {
    let body = json!({"provider": provider, "api_key": api_key});
    saves(name, body.to_string())
}

/// A token with `claims` over those that are right.
fn token_with(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    let now = jsonwebtoken::get_current_timestamp();
    let mut all = json!({"sub": PERSON, "iss": token::ISSUER, "azp": token::PARTY, "sid": "sess_test",
        "iat": now, "nbf": now, "exp": now + 3_600});
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    jsonwebtoken::encode(header, &all, key).unwrap()
}

const PRIVATE_KEY: &[u8] = include_bytes!("../../../../shared/tests/keys/clerk-test.pem");

fn with_claims(claims: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(PRIVATE_KEY).unwrap();
    token_with(&Header::new(Algorithm::RS256), claims, &key)
}

/// Who is calling: everybody is nobody.
fn identity() -> Vec<Case> {
    let now = jsonwebtoken::get_current_timestamp();
    let mut tokens: Vec<(String, Vec<u8>)> = Vec::new();
    let long = format!("user_{}", "a".repeat(65));
    for sub in [
        "",
        "user_",
        "user_short",
        "user_a1b2c3d",
        &long,
        "user_aaaaaaaa1 ",
        " user_aaaaaaaa1",
        "USER_aaaaaaaa1",
        "User_aaaaaaaa1",
        "user_aaaaaaaa1\0",
        "user_aaaa#aaa1",
        "user_aaaa/aaa1",
        "user_aaaa:aaa1",
        "user_aaaa aaa1",
        "user_aaaaaaaa1\n",
        "user_aaaaaaaa1\r\nX: y",
        "user_\u{202e}aaaaaaaa1",
        "user_ааааaaaa1",
        "user_cafe\u{301}aaa1",
        "user_caf\u{e9}aaaa1",
        "user_aaaaaaaa1\u{200b}",
        "user_ａａａａａａａａ1",
        "local",
        "default_user",
        "USER#user_aaaaaaaa1",
        "user_aaaaaaaa1,user_bbbbbbbb2",
        "org_aaaaaaaa1",
        "../user_aaaaaaaa1",
        "user_%61aaaaaaa1",
        "*",
        "user_*aaaaaaa",
    ] {
        tokens.push((
            format!("sub {sub:?}"),
            with_claims(&json!({"sub": sub})).into(),
        ));
    }
    for (name, claims) in [
        ("sub is a number", json!({"sub": 7})),
        ("sub is null", json!({"sub": null})),
        ("sub is a list", json!({"sub": [PERSON]})),
        ("sub is an object", json!({"sub": {"id": PERSON}})),
        ("over for a minute", json!({"exp": now - 60})),
        ("over for a year", json!({"exp": now - 31_536_000})),
        ("ends in words", json!({"exp": "never"})),
        ("ends never", json!({"exp": null})),
        ("ends at infinity", json!({"exp": 1e300})),
        ("begins tomorrow", json!({"nbf": now + 86_400})),
        ("another issuer", json!({"iss": "https://evil.test"})),
        ("issuer with a slash", json!({"iss": "https://clerk.test/"})),
        ("issuer in capitals", json!({"iss": "HTTPS://CLERK.TEST"})),
        ("no issuer", json!({"iss": null})),
        ("several issuers", json!({"iss": [token::ISSUER]})),
        ("another party", json!({"azp": "https://evil.test"})),
        ("party with a port", json!({"azp": "https://app.test:443"})),
        (
            "another party's prefix",
            json!({"azp": "https://app.test.evil.test"}),
        ),
        ("pending session", json!({"sts": "pending"})),
    ] {
        tokens.push((name.to_owned(), with_claims(&claims).into()));
    }
    let secret = EncodingKey::from_secret(token::PUBLIC_KEY.as_bytes());
    let none = json!({});
    tokens.push((
        "signed with the public key as a secret".into(),
        token_with(&Header::new(Algorithm::HS256), &none, &secret).into(),
    ));
    tokens.push((
        "another algorithm of the same key".into(),
        token_with(
            &Header::new(Algorithm::RS512),
            &none,
            &EncodingKey::from_rsa_pem(PRIVATE_KEY).unwrap(),
        )
        .into(),
    ));
    let good = with_claims(&none);
    let parts: Vec<&str> = good.split('.').collect();
    let alg_none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for (name, token) in [
        ("alg none", format!("{alg_none}.{}.", parts[1])),
        (
            "alg none with its signature",
            format!("{alg_none}.{}.{}", parts[1], parts[2]),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("padded", format!("{good}==")),
        ("cut", good[..good.len() - 4].to_owned()),
        ("a letter changed", format!("{}x", &good[..good.len() - 1])),
        (
            "claims of another",
            format!(
                "{}.{}.{}",
                parts[0], "eyJzdWIiOiJ1c2VyX2JiYmJiYmJiMiJ9", parts[2]
            ),
        ),
        ("the key itself", key("as-a-token")),
        ("a cookie", format!("__session={good}")),
        ("twice", format!("{good} {good}")),
        ("a comma", format!("{good},{good}")),
        ("10 KB", "e".repeat(10_240)),
        ("null", "null".to_owned()),
        ("undefined", "undefined".to_owned()),
    ] {
        tokens.push((name.to_owned(), token.into()));
    }
    let refused = |(name, token): (String, Vec<u8>)| {
        let value = [b"Bearer ".as_slice(), &token].concat();
        Case::new(format!("token: {name}"), "GET", KEYS)
            .header("Authorization", value)
            .is(401, "unauthorized")
    };
    let mut cases: Vec<_> = tokens.into_iter().map(refused).collect();
    for (name, value) in [
        ("Basic", b"Basic dXNlcjpwYXNz".to_vec()),
        ("bearer without a token", b"Bearer ".to_vec()),
        ("another scheme", format!("Token {good}").into()),
        ("no scheme", good.clone().into()),
        ("bytes that are no text", b"Bearer \xff\xfe".to_vec()),
        ("a tab", format!("Bearer\t{good}").into()),
    ] {
        cases.push(
            Case::new(format!("authorization: {name}"), "GET", KEYS)
                .header("Authorization", value)
                .is(401, "unauthorized"),
        );
    }
    cases.push(
        Case::new("two tokens", "GET", KEYS)
            .signed()
            .signed()
            .is(401, "unauthorized"),
    );
    cases.push(
        Case::new(
            "a token in the query",
            "GET",
            format!("{KEYS}?token={good}"),
        )
        .is(401, "unauthorized"),
    );
    cases.push(
        Case::new("a session cookie", "GET", KEYS)
            .header("Cookie", format!("__session={good}"))
            .is(401, "unauthorized"),
    );
    cases.push(
        Case::new("a gateway's word for it", "GET", KEYS)
            .header("X-User-Id", PERSON)
            .header("X-Amzn-Oidc-Identity", PERSON)
            .is(401, "unauthorized"),
    );
    for route in local::app::routes() {
        let target = route
            .path
            .replace("{provider}", "gemini")
            .replace("{n}", "1");
        let method: &'static str = Box::leak(route.method.to_string().into_boxed_str());
        cases.push(
            Case::new(format!("nobody at {method} {target}"), method, target)
                .json("{}")
                .is(401, "unauthorized"),
        );
    }
    cases
}

/// Which provider.
fn providers() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "",
        " ",
        "Gemini",
        "GEMINI",
        "gemini ",
        " gemini",
        "gemini\n",
        "gemini\0",
        "gеmini",
        "ɡemini",
        "gemini\u{200b}",
        "\u{feff}gemini",
        "ｇemini",
        "gemini#exa",
        "gemini/exa",
        "gemini,exa",
        "../gemini",
        "KEY#gemini",
        "__proto__",
        "constructor",
        "toString",
        "hasOwnProperty",
        "null",
        "*",
        "gemini;DROP TABLE",
        "${jndi:ldap://x}",
        "huggingface",
        CANARY,
        "user_bbbbbbbb2",
        "audit",
        "onboarding",
    ] {
        cases.push(
            saving(&format!("provider {name:?}"), json!(name), json!(key("p")))
                .is(400, "unknown_provider"),
        );
    }
    for (name, value) in [
        ("a number", json!(7)),
        ("null", json!(null)),
        ("true", json!(true)),
        ("a list", json!(["gemini"])),
        ("an object", json!({"gemini": 1})),
    ] {
        cases.push(saving(
            &format!("provider is {name}"),
            value,
            json!(key("p")),
        ));
    }
    cases.push(
        saving(
            "provider of 1 MB",
            json!("g".repeat(1 << 20)),
            json!(key("p")),
        )
        .is(413, "invalid_request"),
    );
    for segment in [
        "Gemini",
        "gemini%20",
        "gemini%00",
        "g%D0%B5mini",
        "__proto__",
        "gemini%23exa",
        "%2A",
        "gemini;x=1",
        "huggingface",
    ] {
        for (method, rest) in [("DELETE", ""), ("PATCH", ""), ("POST", "/restore")] {
            let case = Case::new(
                format!("{method} {segment}{rest}"),
                method,
                format!("{KEYS}/{segment}{rest}"),
            );
            cases.push(case.signed().json("{}").is(400, "unknown_provider"));
        }
        let target = format!("/api/onboarding/providers/{segment}/setup");
        cases.push(
            Case::new(format!("setup of {segment}"), "GET", target)
                .signed()
                .is(400, "unknown_provider"),
        );
    }
    cases
}

/// What is no JSON of ours.
fn bodies() -> Vec<Case> {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(4_000), close.repeat(4_000));
    let utf16: Vec<u8> =
        r#"{"provider":"gemini"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a\x28\xca\x2f\xcb\x4c".to_vec();
    let k = key("b");
    let texts: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", b"".to_vec()),
        ("a space", b" ".to_vec()),
        ("null", b"null".to_vec()),
        ("true", b"true".to_vec()),
        ("a number", b"7".to_vec()),
        ("a string", br#""x""#.to_vec()),
        ("a list", b"[]".to_vec()),
        (
            "a list of it",
            format!(r#"[{{"provider":"gemini","api_key":"{k}"}}]"#).into(),
        ),
        (
            "an unknown field",
            format!(r#"{{"provider":"gemini","api_key":"{k}","user_id":"user_bbbbbbbb2"}}"#).into(),
        ),
        (
            "a field twice",
            format!(r#"{{"provider":"gemini","api_key":"{k}","api_key":"{k}2"}}"#).into(),
        ),
        (
            "a provider twice",
            format!(r#"{{"provider":"gemini","provider":"exa","api_key":"{k}"}}"#).into(),
        ),
        (
            "a field twice, once escaped",
            format!(r#"{{"provider":"gemini","api_key":"{k}","api\u005fkey":"{k}2"}}"#).into(),
        ),
        (
            "__proto__",
            format!(r#"{{"provider":"gemini","api_key":"{k}","__proto__":{{"admin":true}}}}"#)
                .into(),
        ),
        ("deep lists", deep("[", "]").into()),
        ("deep objects", deep(r#"{"a":"#, "}")[..16_000].into()),
        ("deep and open", "[".repeat(10_000).into()),
        (
            "a lone surrogate",
            br#"{"provider":"gemini","api_key":"\ud800"}"#.to_vec(),
        ),
        (
            "half an escape",
            br#"{"provider":"gemini","api_key":"\u12"}"#.to_vec(),
        ),
        (
            "1e999",
            br#"{"provider":"gemini","api_key":"AQ.x","expires_in_days":1e999}"#.to_vec(),
        ),
        (
            "NaN",
            br#"{"provider":"gemini","api_key":"AQ.x","expires_in_days":NaN}"#.to_vec(),
        ),
        (
            "a byte order mark",
            [
                b"\xef\xbb\xbf".as_slice(),
                format!(r#"{{"provider":"gemini","api_key":"{k}"}}"#).as_bytes(),
            ]
            .concat(),
        ),
        ("UTF-16", utf16),
        ("gzip", gzip),
        (
            "bytes that are no text",
            b"{\"provider\":\"gemini\",\"api_key\":\"\xff\xfe\xfd\"}".to_vec(),
        ),
        (
            "bytes behind it",
            format!(r#"{{"provider":"gemini","api_key":"{k}"}} x"#).into(),
        ),
        (
            "another behind it",
            format!(
                r#"{{"provider":"gemini","api_key":"{k}"}}{{"provider":"exa","api_key":"{k}"}}"#
            )
            .into(),
        ),
        (
            "a comment",
            format!(r#"{{"provider":"gemini",/* */"api_key":"{k}"}}"#).into(),
        ),
        (
            "single quotes",
            format!("{{'provider':'gemini','api_key':'{k}'}}").into(),
        ),
        (
            "a comma too many",
            format!(r#"{{"provider":"gemini","api_key":"{k}",}}"#).into(),
        ),
        (
            "cut",
            format!(r#"{{"provider":"gemini","api_key":"{k}"#).into(),
        ),
        ("a form", format!("provider=gemini&api_key={k}").into()),
        (
            "XML",
            format!("<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><k>&e;{k}</k>").into(),
        ),
        (
            "a NUL behind it",
            format!("{{\"provider\":\"gemini\",\"api_key\":\"{k}\"}}\0").into(),
        ),
        ("no key", br#"{"provider":"gemini"}"#.to_vec()),
        ("no provider", format!(r#"{{"api_key":"{k}"}}"#).into()),
        (
            "names in capitals",
            format!(r#"{{"Provider":"gemini","API_KEY":"{k}"}}"#).into(),
        ),
    ];
    let mut cases: Vec<_> = texts
        .iter()
        .map(|(name, body)| saves(format!("save {name}"), body.clone()))
        .collect();
    for (name, body) in &texts {
        let case = Case::new(format!("generate {name}"), "POST", "/api/generate");
        cases.push(case.signed().json(body.clone()));
    }
    for (name, value) in [
        ("key is a number", json!(7)),
        ("key is null", json!(null)),
        ("key is a list", json!([k])),
        ("key is an object", json!({"k": k})),
        ("key is true", json!(true)),
    ] {
        cases.push(saving(name, json!("gemini"), value));
    }
    for days in [
        "-1",
        "0",
        "1.5",
        "\"7\"",
        "1e10",
        "99999999999999999999",
        "true",
        "[]",
        "36500",
    ] {
        let body = format!(r#"{{"provider":"gemini","api_key":"{k}","expires_in_days":{days}}}"#);
        cases.push(saves(format!("expires in {days} days"), body));
    }
    cases.push(saves(
        "a description of 10,000",
        json!({"provider": "gemini", "api_key": k, "description": "d".repeat(10_000)}).to_string(),
    ));
    cases.push(saves(
        "a description that is a list",
        json!({"provider": "gemini", "api_key": k, "description": [k]}).to_string(),
    ));
    cases.push(
        saves(
            "20 KB",
            json!({"provider": "gemini", "api_key": "k".repeat(20_000)}).to_string(),
        )
        .is(413, "invalid_request"),
    );
    cases.push(saves("1 MB", vec![b'x'; 1 << 20]).is(413, "invalid_request"));
    for (name, body) in [
        ("enabled is a word", r#"{"enabled":"yes"}"#),
        ("enabled is a number", r#"{"enabled":1}"#),
        ("expires_at is no time", r#"{"expires_at":"tomorrow"}"#),
        (
            "expires_at has no zone",
            r#"{"expires_at":"2031-01-01T00:00:00"}"#,
        ),
        ("expires_at is a number", r#"{"expires_at":4102444800}"#),
        (
            "expires_at is 30 February",
            r#"{"expires_at":"2031-02-30T00:00:00Z"}"#,
        ),
        ("a key", r#"{"api_key":"AQ.x"}"#),
        ("a hint", r#"{"hint":"0000"}"#),
        ("a version", r#"{"ver":9}"#),
    ] {
        cases.push(
            Case::new(format!("change: {name}"), "PATCH", format!("{KEYS}/gemini"))
                .signed()
                .json(body),
        );
    }
    for (name, body) in [
        ("temperature is hot", r#"{"prompt":"x","temperature":99}"#),
        ("temperature is cold", r#"{"prompt":"x","temperature":-1}"#),
        ("no tokens", r#"{"prompt":"x","max_output_tokens":0}"#),
        (
            "negative tokens",
            r#"{"prompt":"x","max_output_tokens":-5}"#,
        ),
        ("an empty prompt", r#"{"prompt":""}"#),
        ("a prompt that is a list", r#"{"prompt":["x"]}"#),
        (
            "a model with a path",
            r#"{"prompt":"x","model":"../../v1/keys"}"#,
        ),
        (
            "a model with a query",
            r#"{"prompt":"x","model":"gemini?key=1"}"#,
        ),
        ("a model in capitals", r#"{"prompt":"x","model":"GEMINI"}"#),
        (
            "a provider that writes nothing",
            r#"{"prompt":"x","provider":"exa"}"#,
        ),
        (
            "a fallback that is a word",
            r#"{"prompt":"x","fallback":"openai"}"#,
        ),
        ("research is false", r#"{"prompt":"x","research":7}"#),
        ("stream is a word", r#"{"prompt":"x","stream":"yes"}"#),
        (
            "a base URL",
            r#"{"prompt":"x","base_url":"https://evil.test"}"#,
        ),
    ] {
        cases.push(
            Case::new(format!("generate: {name}"), "POST", "/api/generate")
                .signed()
                .json(body),
        );
    }
    cases.push(
        Case::new("generate: a provider nobody knows", "POST", "/api/generate")
            .signed()
            .json(r#"{"prompt":"x","provider":"Gemini"}"#)
            .is(400, "unknown_provider"),
    );
    for n in [
        "0",
        "7",
        "-1",
        "1.0",
        "one",
        "%31%32",
        "1%00",
        "99999999999999999999",
    ] {
        cases.push(
            Case::new(
                format!("step {n}"),
                "POST",
                format!("/api/onboarding/step/{n}/complete"),
            )
            .signed()
            .json("{}"),
        );
    }
    cases
}

/// What can be no key.
fn keys() -> Vec<Case> {
    let k = key("k");
    let mut cases = Vec::new();
    for (name, text) in [
        ("empty", String::new()),
        ("a space", " ".to_owned()),
        ("CR and LF", format!("{k}\r\nX-Evil: 1")),
        ("LF at the end", format!("{k}\n")),
        ("a tab", format!("{k}\tx")),
        ("a space inside", format!("{k} x")),
        ("a space before", format!(" {k}")),
        ("a NUL", format!("{k}\0")),
        ("an escape", format!("{k}\u{1b}[2J")),
        ("a DEL", format!("{k}\u{7f}")),
        ("zero width", format!("{k}\u{200b}")),
        ("a byte order mark", format!("\u{feff}{k}")),
        ("from right to left", format!("\u{202e}{k}")),
        ("umlauts", format!("{k}ä")),
        ("Cyrillic", format!("{k}а")),
        ("an emoji", format!("{k}🔑")),
        ("no-break space", format!("{k}\u{a0}")),
        ("curly quotes", format!("“{k}”")),
        ("a mask", "************0001".to_owned()),
        ("dots", "••••••••0001".to_owned()),
        ("the list's mask", "************".to_owned()),
        ("a placeholder", "your_api_key".to_owned()),
        ("another placeholder", "your_api_key_here".to_owned()),
        ("1,025 bytes", "k".repeat(1_025)),
        ("10,000 bytes", "k".repeat(10_000)),
    ] {
        cases.push(
            saving(&format!("key: {name}"), json!("gemini"), json!(text))
                .is(400, "invalid_api_key"),
        );
    }
    cases
}

/// Headers, paths and methods.
fn http() -> Vec<Case> {
    let good = json!({"provider": "gemini", "api_key": key("h")}).to_string();
    let mut cases = Vec::new();
    for media_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "json",
        "application/json5",
        "text/json",
        "application/xml",
        "*/*",
        "application/json, text/plain",
    ] {
        let mut case = Case::new(format!("content type {media_type:?}"), "POST", KEYS)
            .signed()
            .header("Content-Type", media_type);
        case.body = good.clone().into();
        cases.push(case.is(415, "invalid_request"));
    }
    let mut case = Case::new("no content type", "POST", KEYS).signed();
    case.body = good.clone().into();
    cases.push(case.is(415, "invalid_request"));
    cases.push(
        saves("content type twice", good.clone())
            .header("Content-Type", "text/plain")
            .is(415, "invalid_request"),
    );
    cases.push(
        saves("gzip that is none", good.clone())
            .header("Content-Encoding", "gzip")
            .is(415, "invalid_request"),
    );
    for version in [
        "",
        "*",
        "1",
        "W/\"1\"",
        "\"one\"",
        "\"-1\"",
        "\"1",
        "\"1\", \"2\"",
        "\"99999999999999999999\"",
        "null",
    ] {
        cases
            .push(saves(format!("if-match {version:?}"), good.clone()).header("If-Match", version));
    }
    cases.push(
        saves("a version that is not there", good.clone())
            .header("If-Match", "\"9\"")
            .is(412, "version_conflict"),
    );
    for check in ["LIVE", "none", "", "live%00", "format,live"] {
        let case = Case::new(
            format!("check={check}"),
            "POST",
            format!("{KEYS}?check={check}"),
        );
        cases.push(case.signed().json(good.clone()));
    }
    for target in [
        "/",
        "//",
        "/api",
        "/api/",
        "//api/onboarding/api-keys",
        "/api//onboarding/api-keys",
        "/api/onboarding/api-keys/",
        "/api/onboarding//api-keys",
        "/API/onboarding/api-keys",
        "/api/onboarding/api-keys%2f",
        "/api/onboarding%2fapi-keys",
        "/api/onboarding/api-keys;x",
        "/%61pi/onboarding/api-keys",
        "/api/onboarding/../onboarding/api-keys",
        "/api/onboarding/%2e%2e/onboarding/api-keys",
        "/api/./onboarding/api-keys",
        "/prod/api/onboarding/api-keys",
        "/Prod/api/onboarding/api-keys",
        "/api/onboarding/api-keys%00",
        "/api/onboarding/api-keys%23",
        "/api/onboarding/api-keys/gemini/restore/x",
        "/api/onboarding/step//validate",
        "/api/onboarding/step/1/2/validate",
        "/.env",
        "/.git/config",
        "/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/api/generate/",
        "/api/generate%20",
        "/2015-03-31/functions/save-keys/invocations",
        "/2015-03-31/functions//invocations",
        "/metrics",
        "/kms.json",
    ] {
        // The page is at the root.
        let case = Case::new(format!("path {target}"), "GET", target).signed();
        cases.push(if target == "/" {
            case.is(200, "")
        } else {
            case.is(404, "not_found")
        });
    }
    for (method, target) in [
        ("PUT", KEYS),
        ("TRACE", KEYS),
        ("HEAD", "/api/generate"),
        ("GET", "/api/generate"),
        ("DELETE", "/api/generate"),
        ("PATCH", KEYS),
        ("post", KEYS),
        ("FOO", KEYS),
        ("PROPFIND", KEYS),
        ("POST", "/api/onboarding/status"),
        ("GET", "/api/onboarding/start"),
        ("PUT", "/api/onboarding/api-keys/gemini"),
    ] {
        cases.push(
            Case::new(format!("{method} {target}"), method, target)
                .signed()
                .is(405, "method_not_allowed"),
        );
    }
    let long = |length| vec![b'a'; length];
    cases.push(
        Case::new("a header of 10 KB", "GET", KEYS)
            .signed()
            .header("X-Long", long(10_240))
            .is(200, ""),
    );
    cases.push(
        Case::new("an origin that may not", "GET", KEYS)
            .signed()
            .header("Origin", "https://evil.test")
            .is(200, ""),
    );
    cases.push(
        Case::new("origin null", "GET", KEYS)
            .signed()
            .header("Origin", "null")
            .is(200, ""),
    );
    cases.push(
        Case::new("another's method", "POST", KEYS)
            .signed()
            .header("X-HTTP-Method-Override", "DELETE")
            .json("{}"),
    );
    cases.push(
        Case::new(
            "a page that invokes",
            "POST",
            "/2015-03-31/functions/open-keys/invocations",
        )
        .header("Origin", "https://evil.test")
        .json("{}")
        .is(403, "forbidden"),
    );
    cases.push(
        Case::new(
            "the file of a front end",
            "POST",
            "/api/frontend-env/update",
        )
        .signed()
        .json(r#"{"key":"X","value":"y"}"#)
        .is(404, "not_found"),
    );
    for (query, status, code) in [
        ("limit=0", 400, "invalid_request"),
        ("limit=-1", 400, "invalid_request"),
        ("limit=1e9", 400, "invalid_request"),
        ("limit=all", 400, "invalid_request"),
        ("cursor=x", 400, "invalid_request"),
        (
            "cursor=AUDIT%2300000000000000000000000000",
            400,
            "invalid_request",
        ),
        ("cursor=USER%23user_bbbbbbbb2", 400, "invalid_request"),
        ("limit=5&limit=6", 200, ""),
        ("user_id=user_bbbbbbbb2", 200, ""),
    ] {
        cases.push(
            Case::new(
                format!("audit?{query}"),
                "GET",
                format!("{KEYS}/audit?{query}"),
            )
            .signed()
            .is(status, code),
        );
    }
    cases
}

async fn send(server: &Server, case: &Case) -> (u16, String) {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!(
        "{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n",
        case.method, case.target
    )
    .into_bytes();
    for (name, value) in &case.headers {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    request.extend(format!("Content-Length: {}\r\n\r\n", case.body.len()).bytes());
    request.extend(&case.body);
    let (mut from, mut to) = stream.split();
    let mut answer = Vec::new();
    let reads = async {
        let mut chunk = vec![0; 65_536];
        // An answer before the end of a body may be followed by a reset.
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            answer.extend(&chunk[..read]);
        }
    };
    let both = async { tokio::join!(reads, async { to.write_all(&request).await.ok() }) };
    timeout(Duration::from_secs(20), both)
        .await
        .expect(&case.name);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_has_its_answer_and_none_hears_a_secret_again() {
    let place = Place::new("bad-input");
    let mut command = command(
        place.path(),
        &["--port", "0", "--in-memory", "--production", "--stand-in"],
    );
    let server = start(clerk(unlimited(&mut command)));
    let cases: Vec<_> = [identity(), providers(), bodies(), keys(), http()]
        .into_iter()
        .flatten()
        .collect();
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "every case has a name of its own");
    assert!(cases.len() >= 300, "{}", cases.len());
    let (mut wrong, mut said) = (Vec::new(), String::new());
    for case in &cases {
        let (status, answer) = send(&server, case).await;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let problem: Value = serde_json::from_str(body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default();
        if (status, code)
            != (
                case.status,
                if case.status == 200 || case.method == "HEAD" {
                    code
                } else {
                    case.code
                },
            )
        {
            wrong.push(format!(
                "{}: {status} {code}, not {} {}",
                case.name, case.status, case.code
            ));
        }
        if answer.contains(CANARY) || answer.contains("eyJ") {
            wrong.push(format!("{}: it hears its secret: {answer}", case.name));
        }
        said.push_str(&answer);
    }
    place.keep("answers", &said);
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    // All of it changed nothing.
    let (_, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(list["configured_providers"], json!([]));
    let log = std::fs::read_to_string(place.path().join("log")).unwrap();
    assert!(
        !log.contains(CANARY) && !log.contains("eyJ"),
        "a secret is in the log"
    );
}

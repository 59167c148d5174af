//! Clerk's keys from its JWKS address: when they are asked for, which are taken, how long they last.

use std::{
    sync::{Arc, Mutex},
    time::Duration as StdDuration,
};

use axum::extract::State;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use lambda_http::http::{HeaderMap, Response};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls};
use user_api_keys::{
    auth::{Auth, Unauthorized},
    config::{Clerk, ClerkKeys},
    mode::Mode,
};

use crate::harness::{PERSON, Server, command, folder, start};

const OURS: &[u8] = include_bytes!("../../../shared/tests/keys/clerk-test.pem");
const NEXT: &[u8] = include_bytes!("../../../shared/tests/keys/other.pem");

/// The public half, as Clerk lists it.
fn jwk(pem: &[u8], kid: &str) -> Value {
    let key = EncodingKey::from_rsa_pem(pem).unwrap();
    let mut jwk =
        serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
    jwk["kid"] = json!(kid);
    jwk["use"] = json!("sig");
    jwk
}

/// A session token of `kid`, signed at `now` with `pem`.
fn token(pem: &[u8], kid: Option<&str>, now: OffsetDateTime) -> String {
    let now = now.unix_timestamp();
    let claims = json!({"sub": PERSON, "iss": "https://clerk.test", "azp": "https://app.test",
        "sid": "sess_test", "iat": now, "nbf": now, "exp": now + 60});
    let mut header = Header::new(Algorithm::RS256);
    header.kid = kid.map(str::to_owned);
    let key = EncodingKey::from_rsa_pem(pem).unwrap();
    jsonwebtoken::encode(&header, &claims, &key).unwrap()
}

/// What the address answers, and how often it was asked.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<(u16, String, usize)>>);

impl Answers {
    fn say(&self, status: u16, body: impl ToString) {
        let mut state = self.0.lock().unwrap();
        (state.0, state.1) = (status, body.to_string());
    }

    fn keys(&self, keys: &[Value]) {
        self.say(200, json!({"keys": keys}));
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().2
    }
}

struct Clock {
    auth: Auth,
    answers: Answers,
    start: OffsetDateTime,
}

impl Clock {
    async fn new() -> Self {
        let answers = Answers::default();
        let answer = async |State(answers): State<Answers>| {
            let mut state = answers.0.lock().unwrap();
            state.2 += 1;
            let response = Response::builder().status(state.0);
            // Only a 3xx makes anything of it.
            let response = response.header("location", "/elsewhere");
            response.body(state.1.clone()).unwrap()
        };
        let router = axum::Router::new()
            .route("/jwks", axum::routing::get(answer))
            .with_state(answers.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Configuration takes https alone; here the question is what happens behind it.
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        Self {
            auth: auth(&url),
            answers,
            start: OffsetDateTime::now_utc(),
        }
    }

    async fn ask(
        &self,
        pem: &[u8],
        kid: Option<&str>,
        after: Duration,
    ) -> Result<(), Unauthorized> {
        let now = self.start + after;
        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", token(pem, kid, now));
        headers.insert("authorization", bearer.parse().unwrap());
        self.auth.user(&headers, now).await.map(|_| ())
    }
}

fn auth(url: &str) -> Auth {
    let clerk = Clerk {
        keys: ClerkKeys::Jwks(url.to_owned()),
        issuer: "https://clerk.test".to_owned(),
        authorized_parties: vec!["https://app.test".to_owned()],
        audience: None,
        only_user: None,
    };
    Auth::new(Mode::Production, Some(&clerk)).unwrap()
}

const NOW: Duration = Duration::ZERO;

#[tokio::test]
async fn keys_are_asked_for_once_in_ten_minutes_by_the_wall_clock() {
    let clock = Clock::new().await;
    clock.answers.keys(&[jwk(OURS, "ins_1")]);
    for (after, asked) in [
        (Duration::ZERO, 1),
        (Duration::seconds(599), 1),
        (Duration::seconds(601), 2),
        // The clock went back: how old the keys are nobody knows.
        (Duration::seconds(-60), 3),
    ] {
        assert_eq!(
            clock.ask(OURS, Some("ins_1"), after).await,
            Ok(()),
            "{after}"
        );
        assert_eq!(clock.answers.asked(), asked, "{after}");
    }
}

#[tokio::test]
async fn a_new_key_is_found_at_once_and_unknown_ones_ask_once_a_minute_at_most() {
    let clock = Clock::new().await;
    clock.answers.keys(&[jwk(OURS, "ins_1")]);
    assert_eq!(clock.ask(OURS, Some("ins_1"), NOW).await, Ok(()));
    let unknown = Err(Unauthorized::Token("unknown key"));
    for second in 0..50 {
        let after = Duration::seconds(second);
        assert_eq!(
            clock
                .ask(NEXT, Some(&format!("ins_{second}x")), after)
                .await,
            unknown
        );
    }
    assert_eq!(clock.answers.asked(), 1);
    clock
        .answers
        .keys(&[jwk(OURS, "ins_1"), jwk(NEXT, "ins_2")]);
    assert_eq!(
        clock.ask(NEXT, Some("ins_2"), Duration::seconds(61)).await,
        Ok(())
    );
    assert_eq!(
        clock.ask(OURS, Some("ins_1"), Duration::seconds(61)).await,
        Ok(())
    );
    assert_eq!(clock.answers.asked(), 2);
    // A key that the instance no longer lists is no key.
    clock.answers.keys(&[jwk(NEXT, "ins_2")]);
    assert_eq!(
        clock.ask(NEXT, Some("ins_2"), Duration::seconds(700)).await,
        Ok(())
    );
    assert_eq!(
        clock.ask(OURS, Some("ins_1"), Duration::seconds(700)).await,
        unknown
    );
}

#[tokio::test]
async fn a_kid_names_one_key_and_no_other_key_signs_for_it() {
    let clock = Clock::new().await;
    clock
        .answers
        .keys(&[jwk(OURS, "ins_1"), jwk(NEXT, "ins_2")]);
    assert_eq!(clock.ask(OURS, Some("ins_1"), NOW).await, Ok(()));
    assert_eq!(
        clock.ask(OURS, Some("ins_2"), NOW).await,
        Err(Unauthorized::Token("signature"))
    );
    assert_eq!(
        clock.ask(OURS, None, NOW).await,
        Err(Unauthorized::Token("key id is missing"))
    );
}

#[tokio::test]
async fn when_clerk_does_not_answer_old_keys_last_an_hour_and_then_it_is_not_the_callers_fault() {
    let clock = Clock::new().await;
    clock.answers.keys(&[jwk(OURS, "ins_1")]);
    assert_eq!(clock.ask(OURS, Some("ins_1"), NOW).await, Ok(()));
    clock.answers.say(500, "down");
    assert_eq!(
        clock.ask(OURS, Some("ins_1"), Duration::minutes(59)).await,
        Ok(())
    );
    assert_eq!(clock.answers.asked(), 2);
    assert_eq!(
        clock.ask(OURS, Some("ins_1"), Duration::minutes(59)).await,
        Ok(())
    );
    assert_eq!(clock.answers.asked(), 2, "not at every request");
    assert_eq!(
        clock.ask(OURS, Some("ins_1"), Duration::minutes(61)).await,
        Err(Unauthorized::KeysUnavailable)
    );
    clock.answers.keys(&[jwk(OURS, "ins_1")]);
    assert_eq!(
        clock.ask(OURS, Some("ins_1"), Duration::minutes(62)).await,
        Ok(())
    );
}

#[tokio::test]
async fn an_answer_that_is_no_key_set_is_no_answer() {
    let mut short = jwk(OURS, "ins_1");
    short["n"] = json!("AQAB".repeat(64));
    let with = |name: &str, value: Value| {
        let mut jwk = jwk(OURS, "ins_1");
        jwk[name] = value;
        json!({ "keys": [jwk] }).to_string()
    };
    for (what, status, body) in [
        (
            "another status",
            404,
            json!({"keys": [jwk(OURS, "ins_1")]}).to_string(),
        ),
        (
            "a redirect",
            307,
            json!({"keys": [jwk(OURS, "ins_1")]}).to_string(),
        ),
        ("not JSON", 200, "keys".to_owned()),
        ("no list", 200, "{}".to_owned()),
        ("nothing in it", 200, json!({"keys": []}).to_string()),
        ("a short key", 200, json!({"keys": [short]}).to_string()),
        ("a key for encryption", 200, with("use", json!("enc"))),
        ("another algorithm", 200, with("alg", json!("RS512"))),
        ("another kind", 200, with("kty", json!("EC"))),
        (
            "a shared secret",
            200,
            json!({"keys": [{"kty": "oct", "kid": "ins_1", "k": "AAAA"}]}).to_string(),
        ),
        ("no name", 200, with("kid", Value::Null)),
        ("an odd modulus", 200, with("n", json!("!!"))),
        (
            "more than 64 KiB",
            200,
            with("x5c", json!("x".repeat(64 * 1024))),
        ),
    ] {
        let clock = Clock::new().await;
        clock.answers.say(status, body);
        let decided = clock.ask(OURS, Some("ins_1"), NOW).await;
        assert_eq!(decided, Err(Unauthorized::KeysUnavailable), "{what}");
        assert_eq!(clock.answers.asked(), 1, "{what}");
        clock
            .answers
            .keys(&[json!({"kty": "EC"}), jwk(OURS, "ins_1")]);
        let later = clock.ask(OURS, Some("ins_1"), Duration::seconds(3)).await;
        assert_eq!(
            later,
            Ok(()),
            "{what}: others beside a good key are passed over"
        );
    }
}

#[tokio::test]
async fn an_address_that_hangs_holds_nobody_up_for_long() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let auth = auth(&format!("http://{}/jwks", hangs.local_addr().unwrap()));
    let now = OffsetDateTime::now_utc();
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", token(OURS, Some("ins_1"), now));
    headers.insert("authorization", bearer.parse().unwrap());
    // Many at once wait for the one question, not for one each.
    let asks = (0..20).map(|_| auth.user(&headers, now));
    let all = futures_util::future::join_all(asks);
    let decided = tokio::time::timeout(StdDuration::from_secs(20), all).await;
    for one in decided.expect("within the limit") {
        assert_eq!(one.err(), Some(Unauthorized::KeysUnavailable));
    }
}

/// An https server that answers every request with our keys; and its certificate.
async fn https() -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = json!({"keys": [jwk(OURS, "ins_1")]}).to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, body) = (acceptor.clone(), body.clone());
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    (port, made.cert.pem())
}

async fn status(server: &Server, kid: &str) -> (u16, Value) {
    let token = token(OURS, Some(kid), OffsetDateTime::now_utc());
    let request = reqwest::Client::new().get(format!("{}/api/onboarding/api-keys", server.url));
    let response = request.bearer_auth(token).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_keys_over_https_from_whom_the_certificate_names_and_from_nobody_else() {
    let folder = folder();
    let (port, certificate) = https().await;
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, certificate).unwrap();
    let args = ["--port", "0", "--in-memory", "--production"];
    let server = |host: &str, trusted: bool| {
        let mut command = command(folder.path(), &args);
        command
            .env(
                "CLERK_JWKS_URL",
                format!("https://{host}:{port}/.well-known/jwks.json"),
            )
            .env("CLERK_ISSUER", "https://clerk.test")
            .env("CLERK_AUTHORIZED_PARTIES", "https://app.test");
        if trusted {
            command.env("SSL_CERT_FILE", &authority);
        }
        start(&mut command)
    };
    let right = server("localhost", true);
    assert_eq!(status(&right, "ins_1").await.0, 200);
    let (unknown, answer) = status(&right, "ins_2").await;
    assert_eq!((unknown, &answer["code"]), (401, &json!("unauthorized")));
    for wrong in [server("localhost", false), server("127.0.0.1", true)] {
        let (unavailable, answer) = status(&wrong, "ins_1").await;
        assert_eq!(
            (unavailable, &answer["code"]),
            (503, &json!("temporarily_unavailable"))
        );
    }
}

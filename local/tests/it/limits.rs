//! What is limited besides calls a minute: open streams, keys handed out, keys tried out, and what a
//! refused call may cost.

use std::sync::Arc;

use embedded::Embedded;
use http_body_util::BodyExt as _;
use local::{app::App, stand_in::StandIn, token};
use reqwest::Client;
use serde_json::{Value, json};
use user_api_keys::{aws::Aws, events::AnyBody};

use crate::harness::{InProcess, PERSON, call, clerk, command, folder, production, request, start};

const KEYS: &str = "/api/onboarding/api-keys";
const UNCHECKED: &str = "/api/onboarding/api-keys?check=format";
const GENERATE: &str = "/api/generate";

/// The functions with `more` settings.
async fn functions(more: &[(&str, &str)]) -> InProcess {
    let services = Embedded::in_memory().await.unwrap();
    let stand_in = StandIn::start().await.unwrap();
    let aws = Aws::new(&services.dynamodb, &services.kms);
    let app = App::new(&production(&services, &stand_in, more), &aws).unwrap();
    InProcess {
        app: Arc::new(app),
        services,
        stand_in,
    }
}

async fn save(functions: &InProcess, path: &str, provider: &str, key: &str) -> (u16, Value) {
    let body = json!({"provider": provider, "api_key": key});
    functions.call("POST", path, PERSON, &[], Some(body)).await
}

async fn ask(functions: &InProcess, body: Value) -> (u16, Value) {
    functions
        .call("POST", GENERATE, PERSON, &[], Some(body))
        .await
}

/// A streamed answer that has begun.
async fn stream(functions: &InProcess, user: &str) -> (u16, AnyBody) {
    let body = json!({"prompt": "a few words", "stream": true});
    let request = request("POST", GENERATE, user, &[], Some(body));
    let answer = functions.app.answer(request).await;
    let (parts, body) = answer.into_parts();
    (parts.status.as_u16(), body)
}

async fn text(body: AnyBody) -> String {
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_sixth_stream_is_429_until_one_of_the_five_ends() {
    let functions = functions(&[]).await;
    save(&functions, KEYS, "gemini", "AQ.a-key-that-works-0001").await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let (status, body) = stream(&functions, PERSON).await;
        assert_eq!(status, 200);
        open.push(body);
    }
    let (status, body) = stream(&functions, PERSON).await;
    let said = text(body).await;
    assert_eq!(status, 429, "{said}");
    let problem: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")));
    assert!(problem["retry_after"].as_u64().unwrap() >= 1);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("5 answers streaming")
    );
    // A whole answer is no stream.
    assert_eq!(ask(&functions, json!({"prompt": "x"})).await.0, 200);
    let ended = text(open.pop().unwrap()).await;
    assert!(ended.contains("event: done"), "{ended}");
    let (status, body) = stream(&functions, PERSON).await;
    assert_eq!(status, 200, "its place is free when `done` has come");
    assert!(text(body).await.contains("event: done"));
}

#[tokio::test]
async fn a_stream_that_fails_or_is_refused_takes_no_place() {
    let functions = functions(&[("STREAMS_PER_USER", "1")]).await;
    let failing = json!({"prompt": "x", "stream": true});
    for _ in 0..3 {
        assert_eq!(ask(&functions, failing.clone()).await.0, 409, "no key yet");
    }
    save(&functions, UNCHECKED, "gemini", "AQ.a-bad-key-00000001").await;
    for _ in 0..3 {
        assert_eq!(ask(&functions, failing.clone()).await.0, 422, "a bad key");
    }
    save(&functions, KEYS, "gemini", "AQ.a-key-that-works-0001").await;
    for _ in 0..3 {
        let (status, body) = stream(&functions, PERSON).await;
        assert_eq!(status, 200);
        assert!(text(body).await.contains("event: done"));
    }
}

#[tokio::test]
async fn streams_per_user_is_1_to_10() {
    let folder = folder();
    for (value, said) in [
        ("0", "STREAMS_PER_USER"),
        ("11", "STREAMS_PER_USER is 11"),
        ("x", "STREAMS_PER_USER"),
    ] {
        let mut command = command(folder.path(), &["--port", "0", "--in-memory"]);
        let error = crate::harness::fails(command.env("STREAMS_PER_USER", value));
        assert!(error.contains(said), "{value}: {error}");
    }
}

#[tokio::test]
async fn keys_saved_unchecked_are_tried_out_no_more_often_than_checked_ones() {
    for (provider, research) in [
        ("gemini", false),
        ("openai", false),
        ("anthropic", false),
        ("mistral", false),
        ("exa", true),
    ] {
        let functions = functions(&[]).await;
        if research {
            save(&functions, KEYS, "gemini", "AQ.a-key-that-works-0001").await;
        }
        let checked = usize::from(research);
        let mut told = 0;
        for n in 0..14 {
            let bad = if n % 2 == 0 { "bad" } else { "fine" };
            save(
                &functions,
                UNCHECKED,
                provider,
                &format!("a-{bad}-stolen-key-{n:04}"),
            )
            .await;
            let body = match research {
                true => json!({"prompt": "x", "research": {"required": true}}),
                false => json!({"prompt": "x", "provider": provider, "max_output_tokens": 1}),
            };
            let (status, answer) = ask(&functions, body).await;
            match status {
                200 | 422 => told += 1,
                429 => assert_eq!(answer["code"], "rate_limited", "{answer}"),
                _ => panic!("{status} {answer}"),
            }
        }
        assert_eq!(told + checked, 10, "{provider}");
    }
}

#[tokio::test]
async fn a_fallback_tries_out_no_more_keys_either() {
    // Nobody listens there: the first provider is down.
    let functions = functions(&[("GEMINI_BASE_URL", "http://127.0.0.1:9")]).await;
    save(&functions, KEYS, "gemini", "AQ.nobody-can-say-0001").await;
    let mut told = 0;
    for n in 0..7 {
        save(
            &functions,
            UNCHECKED,
            "openai",
            &format!("a-bad-stolen-key-{n:04}"),
        )
        .await;
        let body = json!({"prompt": "x", "fallback": [{"provider": "openai"}]});
        let (status, _) = ask(&functions, body).await;
        told += usize::from(status == 422);
    }
    // Ten in all: one when Gemini's was saved, and two for each answer.
    assert_eq!(told, 4);
}

#[tokio::test]
async fn a_key_that_was_seen_to_work_is_used_without_a_check_and_shown_as_active() {
    let functions = functions(&[("RATE_LIMIT_CHECK_PER_HOUR", "1")]).await;
    save(&functions, UNCHECKED, "gemini", "AQ.a-key-that-works-0001").await;
    for _ in 0..4 {
        let (status, answer) = ask(&functions, json!({"prompt": "x"})).await;
        assert_eq!(status, 200, "{answer}");
    }
    let (_, list) = functions.call("GET", KEYS, PERSON, &[], None).await;
    let key = &list["keys"][0];
    assert_eq!(
        (&key["status"], &key["last_check"]),
        (&json!("active"), &json!("valid"))
    );
}

#[tokio::test]
async fn a_key_that_stops_working_counts_as_a_check_when_it_is_refused() {
    let functions = functions(&[("RATE_LIMIT_CHECK_PER_HOUR", "2")]).await;
    // Good when it was saved: a check.
    save(&functions, KEYS, "gemini", "AQ.a-key-that-works-0001").await;
    save(&functions, UNCHECKED, "gemini", "AQ.a-bad-key-00000002").await;
    let refused = async || ask(&functions, json!({"prompt": "x"})).await;
    assert_eq!(refused().await.0, 422, "the second check");
    let (status, problem) = refused().await;
    assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")));
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("Google Gemini"),
        "{problem}"
    );
    assert!(problem["retry_after"].as_u64().unwrap() >= 1);
}

#[tokio::test]
async fn open_keys_is_limited_for_each_user_and_opens_nothing_beyond_it() {
    let folder = folder();
    let mut command = command(
        folder.path(),
        &["--port", "0", "--in-memory", "--production"],
    );
    command
        .env("RATE_LIMIT_OPEN_PER_MINUTE", "3")
        .env("RATE_LIMIT_OPEN_PER_DAY", "100");
    let server = start(clerk(&mut command));
    let users = [PERSON, "user_bbbbbbbb2"];
    for user in users {
        server
            .save(Some(user), "gemini", "AQ.a-key-of-theirs-0001")
            .await;
    }
    let open = async |user: &str| {
        let event =
            json!({"token": token::sign(user).unwrap(), "providers": ["gemini"], "purpose": "x"});
        let url = format!("{}/2015-03-31/functions/open-keys/invocations", server.url);
        let answer = Client::new().post(url).json(&event).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    let mut opened = 0;
    for _ in 0..8 {
        let answer = open(PERSON).await;
        match answer["keys"]["gemini"]["api_key"].is_string() {
            true => opened += 1,
            false => assert_eq!(answer["errorType"], "rate_limited", "{answer}"),
        }
    }
    // A minute may have ended meanwhile.
    assert!((3..=6).contains(&opened), "{opened}");
    assert!(open(users[1]).await["keys"]["gemini"].is_object());
    let path = format!("{KEYS}/audit?limit=100");
    let (_, page) = server.call("GET", &path, Some(PERSON), None).await;
    let records = page["records"].as_array().unwrap();
    let exports = records
        .iter()
        .filter(|record| record["action"] == "export")
        .count();
    assert_eq!(exports, opened, "what was refused opened nothing");
}

#[tokio::test]
async fn a_save_over_the_limit_asks_neither_kms_nor_the_provider() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    let mut command = command(folder.path(), &args);
    command.env("RATE_LIMIT_SAVE_PER_DAY", "2");
    let server = start(clerk(&mut command));
    for n in 0..6 {
        let (status, _) = server
            .save(
                Some(PERSON),
                "gemini",
                &format!("AQ.a-key-of-theirs-{n:04}"),
            )
            .await;
        assert_eq!(status, if n < 2 { 200 } else { 429 });
    }
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let refused: Vec<_> = lines
        .filter(|line| line["message"] == "request" && line["status"] == 429)
        .collect();
    assert_eq!(refused.len(), 4, "{log}");
    assert!(refused.iter().all(|line| line["kms"] == 0), "{refused:?}");
}

#[tokio::test]
async fn calls_at_once_are_counted_exactly() {
    let functions = functions(&[("RATE_LIMIT_CHECK_PER_HOUR", "3")]).await;
    for n in 0..8 {
        let user = format!("user_checking{n}");
        let body = json!({"provider": "gemini", "api_key": "AQ.a-bad-key-00000001"});
        call(&functions.app, "POST", UNCHECKED, &user, &[], Some(body)).await;
        let asks = (0..6).map(|_| {
            let body = Some(json!({"prompt": "x"}));
            call(&functions.app, "POST", GENERATE, &user, &[], body)
        });
        let answers = futures_util::future::join_all(asks).await;
        let told = answers.iter().filter(|(status, _)| *status == 422).count();
        assert_eq!(told, 3, "{answers:?}");
    }
}

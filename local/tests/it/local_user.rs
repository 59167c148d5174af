//! Local mode is one user, whoever signs in.

use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{PERSON, clerk, command, fails, folder, start};

const OTHER: &str = "user_bbbbbbbb2";
const ARGS: [&str; 4] = ["--port", "0", "--in-memory", "--stand-in"];
const KEYS: &str = "/api/onboarding/api-keys";
const KEY: &str = "AQ.the-local-users-key-0001";

#[test]
fn sign_in_without_local_user_id_does_not_start() {
    let folder = folder();
    for (value, said) in [
        (None, "LOCAL_USER_ID is missing"),
        (Some(""), "LOCAL_USER_ID is missing"),
        (Some("ann"), "LOCAL_USER_ID is \"ann\""),
        (
            Some("user_aaaaaaaa1 "),
            "LOCAL_USER_ID is \"user_aaaaaaaa1 \"",
        ),
        (Some("*"), "LOCAL_USER_ID is \"*\""),
    ] {
        let mut command = command(folder.path(), &ARGS);
        clerk(&mut command);
        command.envs(value.map(|value| ("LOCAL_USER_ID", value)));
        let error = fails(&mut command);
        assert!(error.contains(said), "{value:?}: {error}");
    }
}

#[tokio::test]
async fn another_user_is_refused_everywhere_and_the_local_user_is_not() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("backend")).unwrap();
    let mut command = command(folder.path(), &ARGS);
    let server = start(clerk(&mut command).env("LOCAL_USER_ID", PERSON));
    assert_eq!(server.save(Some(PERSON), "gemini", KEY).await.0, 200);
    for (method, path, body) in [
        ("GET", KEYS, Value::Null),
        ("GET", "/api/onboarding/api-keys/onboarding", Value::Null),
        ("GET", "/api/onboarding/status", Value::Null),
        (
            "POST",
            KEYS,
            json!({"provider": "gemini", "api_key": "AQ.the-key-of-another-0002"}),
        ),
        ("POST", "/api/generate", json!({"prompt": "x"})),
        (
            "PATCH",
            "/api/onboarding/api-keys/gemini",
            json!({"enabled": false}),
        ),
        ("DELETE", "/api/onboarding/api-keys/gemini", Value::Null),
        (
            "POST",
            "/api/frontend-env/update",
            json!({"key": "REACT_APP_COPILOTKIT_API_KEY", "value": "ck_pub_0123456789abcdef"}),
        ),
    ] {
        let body = (!body.is_null()).then_some(body);
        let (status, answer) = server.call(method, path, Some(OTHER), body).await;
        assert_eq!(status, 403, "{method} {path}: {answer}");
        assert_eq!(answer["code"], "forbidden");
        assert!(answer["detail"].as_str().unwrap().contains("LOCAL_USER_ID"));
        assert!(!answer.to_string().contains("0001"), "{answer}");
        assert_eq!(
            server.call(method, path, None, None).await.0,
            401,
            "{method} {path}"
        );
    }
    let (_, written) = server
        .call(
            "POST",
            "/api/generate",
            Some(PERSON),
            Some(json!({"prompt": "x"})),
        )
        .await;
    assert_eq!(written["credential"]["hint"], "0001", "{written}");
}

#[tokio::test]
async fn a_trusted_caller_names_the_local_user_and_nobody_else() {
    let named = async |with_clerk: bool, user: &str| {
        let folder = folder();
        std::fs::create_dir(folder.path().join("backend")).unwrap();
        let mut command = command(folder.path(), &ARGS);
        command
            .env("OPEN_KEYS_TRUST_CALLER", "true")
            .env("GEMINI_API_KEY", KEY);
        if with_clerk {
            clerk(&mut command).env("LOCAL_USER_ID", PERSON);
        }
        let server = start(&mut command);
        let event = json!({"user_id": user, "providers": ["gemini"], "purpose": "x"});
        let url = format!("{}/2015-03-31/functions/open-keys/invocations", server.url);
        let answer = Client::new().post(url).json(&event).send().await.unwrap();
        answer.json::<Value>().await.unwrap()
    };
    assert_eq!(named(true, PERSON).await["keys"]["gemini"]["api_key"], KEY);
    let refused = named(true, OTHER).await;
    assert_eq!(refused["errorType"], "forbidden", "{refused}");
    // Without sign-in everybody on this machine is the one user.
    assert_eq!(named(false, OTHER).await["keys"]["gemini"]["api_key"], KEY);
}

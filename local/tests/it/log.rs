//! What a run says of itself: one line per request, metrics beside it, and nobody's name in either.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::harness::{PERSON, clerk, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const KEY: &str = "AQ.key-of-person-a-0001";

fn lines(folder: &tempfile::TempDir) -> Vec<Value> {
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let parsed = log.lines().map(serde_json::from_str::<Value>);
    parsed
        .map(|line| line.expect("every line is JSON"))
        .collect()
}

#[tokio::test]
async fn every_request_leaves_one_line_that_counts_its_calls() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    let server = start(clerk(&mut command(folder.path(), &args)));
    let gemini = format!("{KEYS}/gemini");
    let prompt = json!({"prompt": "Hello"});
    let body = json!({"provider": "gemini", "api_key": KEY});
    let live = format!("{KEYS}?check=live");
    // (method, path, body) and (function, route, status, code, DynamoDB calls, KMS calls).
    let calls = [
        // count, row, save with its record · Encrypt
        (
            ("POST", KEYS, Some(body.clone())),
            ("save-keys", KEYS, 200, "ok", 3, 1),
        ),
        // two counts, row, the check's record, save with its own · Encrypt
        (
            ("POST", &live, Some(body)),
            ("save-keys", KEYS, 200, "ok", 5, 1),
        ),
        // count, Query
        (("GET", KEYS, None), ("fetch-keys", KEYS, 200, "ok", 2, 0)),
        // two counts, row, record, day, usage · Decrypt
        (
            ("POST", "/api/generate", Some(prompt.clone())),
            ("generate-content", "/api/generate", 200, "ok", 6, 1),
        ),
        // the same day again
        (
            ("POST", "/api/generate", Some(prompt)),
            ("generate-content", "/api/generate", 200, "ok", 5, 1),
        ),
        (
            ("GET", "/api/onboarding/status", None),
            ("onboarding", "/api/onboarding/status", 200, "ok", 2, 0),
        ),
        // Nothing is asked of anybody for what cannot be.
        (
            ("GET", "/api/nothing/user_aaaaaaaa1", None),
            ("local", "-", 404, "not_found", 0, 0),
        ),
        // count, record, change
        (
            ("PATCH", gemini.as_str(), Some(json!({"enabled": false}))),
            (
                "save-keys",
                "/api/onboarding/api-keys/{provider}",
                200,
                "ok",
                3,
                0,
            ),
        ),
    ];
    for ((method, path, body), _) in &calls {
        server.call(method, path, Some(PERSON), body.clone()).await;
    }
    let all = lines(&folder);
    let requests: Vec<_> = all
        .iter()
        .filter(|line| line["message"] == "request")
        .collect();
    assert_eq!(requests.len(), calls.len());
    for (line, ((method, ..), (function, route, status, code, dynamodb, kms))) in
        requests.iter().zip(&calls)
    {
        for (name, value) in [
            ("method", json!(method)),
            ("function", json!(function)),
            ("route", json!(route)),
            ("status", json!(status)),
            ("code", json!(code)),
            ("dynamodb", json!(dynamodb)),
            ("kms", json!(kms)),
        ] {
            assert_eq!(line[name], value, "{name} of {line}");
        }
        assert!(
            line["ms"].is_u64() && line["request_id"].is_string(),
            "{line}"
        );
        let named = *status != 404;
        assert_eq!(
            line["user"].as_str().map(str::len),
            named.then_some(16),
            "{line}"
        );
    }
    let text = all.iter().map(Value::to_string).collect::<String>();
    assert!(!text.contains(PERSON) && !text.contains(KEY));
}

#[tokio::test]
async fn metrics_have_functions_codes_and_providers_for_dimensions_and_never_a_person() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    let server = start(clerk(&mut command(folder.path(), &args)));
    server.save(Some(PERSON), "gemini", KEY).await;
    server.save(Some(PERSON), "gemini", "not a key").await;
    let prompt = json!({"prompt": "Hello"});
    server
        .call("POST", "/api/generate", Some(PERSON), Some(prompt))
        .await;
    server.call("GET", KEYS, None, None).await;
    let mut names = BTreeSet::new();
    for line in lines(&folder)
        .iter()
        .filter(|line| line["_aws"].is_object())
    {
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Namespace"], "user-api-keys/production");
        let known = ["function", "route", "code", "reason", "provider"];
        for dimension in directive["Dimensions"][0].as_array().unwrap() {
            let dimension = dimension.as_str().unwrap();
            assert!(known.contains(&dimension), "{dimension}");
            assert!(line[dimension].is_string(), "{line}");
        }
        for metric in directive["Metrics"].as_array().unwrap() {
            let name = metric["Name"].as_str().unwrap();
            assert!(!line[name].is_null(), "{line}");
            names.insert(format!(
                "{name} {} {} {} {}",
                line["function"].as_str().unwrap_or_default(),
                line["code"].as_str().unwrap_or_default(),
                line["reason"].as_str().unwrap_or_default(),
                line["provider"].as_str().unwrap_or_default(),
            ));
        }
        let text = line.to_string();
        assert!(
            !text.contains(PERSON) && !text.contains("user\":"),
            "{line}"
        );
    }
    for metric in [
        "latency save-keys   ",
        "failures save-keys invalid_api_key  ",
        "opens generate-content   gemini",
        "keys_opened    ",
        "failures fetch-keys unauthorized  ",
        "unauthorized fetch-keys  no bearer token ",
    ] {
        assert!(names.contains(metric), "{metric:?} is not in {names:#?}");
    }
}

#[tokio::test]
async fn local_mode_writes_no_metrics_and_the_log_level_is_obeyed() {
    let folder = folder();
    let mut command = command(folder.path(), &["--port", "0", "--in-memory"]);
    let server = start(command.env("LOG_LEVEL", "warn"));
    server.call("GET", KEYS, None, None).await;
    assert_eq!(lines(&folder), [Value::Null; 0]);
}

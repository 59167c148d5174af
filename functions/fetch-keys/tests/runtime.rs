//! fetch-keys as Lambda runs it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "../../lambda.rs"]
mod lambda;

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use axum::{Router, http::StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use user_api_keys::provider::Provider;

use crate::lambda::{Lambda, PERSON, REQUEST, TRACE, bearer};

const PUBLIC_KEY: &str = "ck_pub_0123456789abcdef";

/// Puts other bytes where the ciphertext is.
async fn spoil(lambda: &Lambda) {
    let bytes = AttributeValue::B(Blob::new(*b"not a ciphertext of this key"));
    let update = lambda.services.dynamodb.update_item();
    update
        .table_name(&lambda.services.table_name)
        .key("pk", AttributeValue::S(format!("USER#{PERSON}")))
        .key("sk", AttributeValue::S("KEY#copilotkit".to_owned()))
        .update_expression("SET ct = :ct")
        .expression_attribute_values(":ct", bytes)
        .send()
        .await
        .unwrap();
}

async fn get(lambda: &mut Lambda, event: &str, authorization: &str) -> (u64, Value) {
    let (_, answer) = lambda.send(event, authorization).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let headers = &answer["multiValueHeaders"];
    assert_eq!(headers["cache-control"][0], "no-store");
    assert_eq!(
        headers["access-control-allow-origin"][0],
        "https://app.test"
    );
    let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    (answer["statusCode"].as_u64().unwrap(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_throttled_attempt_is_counted_and_the_answer_is_503() {
    let throttling = || async {
        let body = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
        let json = [("content-type", "application/x-amz-json-1.1")];
        (StatusCode::BAD_REQUEST, json, body)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kms = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(throttling)).await });
    let mut lambda = Lambda::start("throttled", &[("AWS_ENDPOINT_URL_KMS", &kms)]).await;
    lambda.save(Provider::CopilotKit, PUBLIC_KEY).await;
    let in_clear = "fetch-keys/in-clear";
    let (status, answer) = get(&mut lambda, in_clear, &bearer()).await;
    assert_eq!(
        (status, &answer["code"]),
        (503, &json!("temporarily_unavailable"))
    );
    assert_eq!(answer["retry_after"], 2);
    let (_, lines) = lambda.said().await;
    let attempts = lines.iter().find_map(|line| line["kms"].as_u64());
    let throttles = lines.iter().find(|line| !line["throttles"].is_null());
    let throttles = throttles.unwrap();
    assert_eq!((attempts, &throttles["throttles"]), (Some(3), &json!(3)));
    assert_eq!(throttles["service"], "kms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_answers_logs_its_invocation_and_trace_and_raises_the_alarm_of_a_spoiled_key() {
    let mut lambda = Lambda::start("alarm", &[]).await;
    lambda.save(Provider::CopilotKit, PUBLIC_KEY).await;
    let (status, list) = get(&mut lambda, "fetch-keys/list", &bearer()).await;
    assert_eq!(
        (status, &list["configured_providers"]),
        (200, &json!(["copilotkit"]))
    );
    let in_clear = "fetch-keys/in-clear";
    let (status, shown) = get(&mut lambda, in_clear, &bearer()).await;
    assert_eq!(
        (status, &shown["api_keys"]["copilotkit"]),
        (200, &json!(PUBLIC_KEY))
    );
    let (status, refused) = get(&mut lambda, in_clear, "Bearer x").await;
    assert_eq!((status, &refused["code"]), (401, &json!("unauthorized")));
    spoil(&lambda).await;
    let (status, broken) = get(&mut lambda, in_clear, &bearer()).await;
    assert_eq!((status, &broken["code"]), (500, &json!("internal")));
    assert!(
        !broken.to_string().contains("ciphertext"),
        "the caller learns nothing of why"
    );

    let (text, lines) = lambda.said().await;
    let requests: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request")
        .collect();
    assert_eq!(requests.len(), 4);
    for line in &requests {
        assert_eq!(
            (&line["request_id"], &line["trace_id"]),
            (&json!(REQUEST), &json!(TRACE))
        );
    }
    // Count, Query, GetItem, record, day · Decrypt; later a second record when it did not open.
    let calls = |n: usize| (requests[n]["dynamodb"].clone(), requests[n]["kms"].clone());
    assert_eq!(calls(1), (json!(5), json!(1)));
    assert_eq!(calls(3), (json!(5), json!(1)));
    assert_eq!(requests[3]["event"], "ciphertext_does_not_open");
    let alarms = lines.iter().filter(|line| line["sealing_failures"] == 1);
    let kinds: Vec<_> = alarms.map(|line| line["kind"].clone()).collect();
    assert_eq!(kinds, ["ciphertext_does_not_open"]);
    assert!(!text.contains(PUBLIC_KEY) && !text.contains(PERSON) && !text.contains("arn:aws"));
}

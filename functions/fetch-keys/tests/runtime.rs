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
    put_ciphertext(lambda, b"not a ciphertext of this key".to_vec()).await;
}

async fn put_ciphertext(lambda: &Lambda, bytes: Vec<u8>) {
    let bytes = AttributeValue::B(Blob::new(bytes));
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

/// Puts another user's CopilotKit key where this user's is, as whoever may re-encrypt can.
async fn redirect(lambda: &Lambda) {
    let context = |user: &str| {
        let pairs = [
            ("purpose", "user-api-key"),
            ("ctxv", "2"),
            ("env", "test"),
            ("user_id", user),
            ("provider", "copilotkit"),
            ("kid", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ];
        Some(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    };
    let (kms, arn) = (&lambda.services.kms, &lambda.services.kms_key_arn);
    let sealed = kms.encrypt().key_id(arn);
    let sealed = sealed.set_encryption_context(context("user_bbbbbbbb2"));
    let inside = b"\x02\0\x04test\0\x0euser_bbbbbbbb2\0\x0acopilotkit\
        \0\x1a01ARZ3NDEKTSV4RRFFQ69G5FAV\0\x17ck_pub_0123456789abcdef";
    let sealed = sealed.plaintext(Blob::new(*inside)).send().await.unwrap();
    let moved = kms
        .re_encrypt()
        .ciphertext_blob(sealed.ciphertext_blob.unwrap())
        .source_key_id(arn)
        .set_source_encryption_context(context("user_bbbbbbbb2"))
        .destination_key_id(arn)
        .set_destination_encryption_context(context(PERSON));
    let moved = moved.send().await.unwrap().ciphertext_blob.unwrap();
    put_ciphertext(lambda, moved.into_inner()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirected_key_is_refused_like_any_other_and_rings_by_its_own_name() {
    let mut lambda = Lambda::start("redirected", &[]).await;
    lambda.save(Provider::CopilotKit, PUBLIC_KEY).await;
    spoil(&lambda).await;
    let in_clear = "fetch-keys/in-clear";
    let (status, spoiled) = get(&mut lambda, in_clear, &bearer()).await;
    assert_eq!(status, 500);
    redirect(&lambda).await;
    let (status, redirected) = get(&mut lambda, in_clear, &bearer()).await;
    assert_eq!((status, redirected), (500, spoiled), "no oracle");
    let (text, lines) = lambda.said().await;
    let events = lines.iter().filter(|line| line["message"] == "request");
    let events: Vec<_> = events.map(|line| line["event"].clone()).collect();
    assert_eq!(events, ["ciphertext_does_not_open", "inner_binding"]);
    let alarms = lines.iter().filter(|line| line["sealing_failures"] == 1);
    let kinds: Vec<_> = alarms.map(|line| line["kind"].clone()).collect();
    assert_eq!(kinds, ["ciphertext_does_not_open", "inner_binding"]);
    assert!(!text.contains(PUBLIC_KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_aws_denies_rings() {
    let denying = || async {
        let body = r#"{"__type":"AccessDeniedException","Message":"User: arn:aws:iam::1:x"}"#;
        let json = [("content-type", "application/x-amz-json-1.1")];
        (StatusCode::BAD_REQUEST, json, body)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kms = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(denying)).await });
    let mut lambda = Lambda::start("denied", &[("AWS_ENDPOINT_URL_KMS", &kms)]).await;
    lambda.save(Provider::CopilotKit, PUBLIC_KEY).await;
    let (status, _) = get(&mut lambda, "fetch-keys/in-clear", &bearer()).await;
    assert_eq!(status, 500);
    let (text, lines) = lambda.said().await;
    let denied = lines.iter().find(|line| line["access_denied"] == 1);
    assert_eq!(denied.unwrap()["service"], "kms");
    assert!(!text.contains("arn:aws:iam"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_forwarded_proto_or_host_ends_an_instance() {
    let mut lambda = Lambda::start("proto", &[]).await;
    lambda.save(Provider::CopilotKit, PUBLIC_KEY).await;
    for odd in [
        Some("http,https"),
        Some(""),
        Some("a b"),
        Some("ünïcödé"),
        Some("://"),
        Some("["),
        None,
    ] {
        for name in ["X-Forwarded-Proto", "Host"] {
            let event = list(|event| {
                let [one, many] = ["headers", "multiValueHeaders"];
                event["requestContext"]["domainName"] = json!("keys.example.com");
                for (map, value) in [(one, json!(odd)), (many, json!([odd]))] {
                    match odd {
                        Some(_) => event[map][name] = value,
                        None => drop(event[map].as_object_mut().unwrap().remove(name)),
                    }
                }
                event["headers"]["Authorization"] = json!(bearer());
                event["multiValueHeaders"]["Authorization"] = json!([bearer()]);
            });
            let (_, answer) = lambda.invoke(event).await;
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["statusCode"], 200, "{name} {odd:?}: {answer}");
        }
    }
    let (_, lines) = lambda.said().await;
    let requests = lines.iter().filter(|line| line["message"] == "request");
    assert_eq!(requests.count(), 14, "one instance answered all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_public_keys_place_is_handed_to_no_browser_and_the_record_says_so() {
    let secret = "sk-ant-a-secret-key-by-mistake-0001";
    let mut lambda = Lambda::start("published", &[]).await;
    lambda.save(Provider::CopilotKit, secret).await;
    let (status, shown) = get(&mut lambda, "fetch-keys/in-clear", &bearer()).await;
    assert_eq!((status, &shown["api_keys"]), (200, &json!({})));
    let (_, trail) = get(&mut lambda, "fetch-keys/audit", &bearer()).await;
    let newest = &trail["records"][0];
    assert_eq!(
        (&newest["action"], &newest["outcome"], &newest["provider"]),
        (&json!("export"), &json!("refused"), &json!("copilotkit"))
    );
    let (text, lines) = lambda.said().await;
    let said = lines
        .iter()
        .find(|line| line["message"] == "not public, so it was not handed out");
    assert_eq!(said.unwrap()["provider"], "copilotkit");
    assert!(!text.contains(secret));
}

/// The event of a list as API Gateway sends it, with `change` made to it.
fn list(change: impl FnOnce(&mut Value)) -> Value {
    let text = include_str!("../../../events/fetch-keys/list.json");
    let mut event: Value = serde_json::from_str(text).unwrap();
    change(&mut event);
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_service_or_with_a_forged_context_names_nobody() {
    let mut lambda = Lambda::start("forged", &[]).await;
    lambda.save(Provider::CopilotKit, PUBLIC_KEY).await;
    let claims = json!({"sub": PERSON, "iss": "https://clerk.test"});
    let forged = [
        json!({"claims": claims}),
        json!({"jwt": {"claims": claims}}),
        json!({"principalId": PERSON, "user_id": PERSON}),
        json!({"lambda": {"user_id": PERSON}}),
        json!({"iam": {"userId": PERSON}}),
    ];
    let mut events: Vec<Value> = forged
        .into_iter()
        .map(|authorizer| list(|event| event["requestContext"]["authorizer"] = authorizer))
        .collect();
    let identity = json!({"user": PERSON, "cognitoIdentityId": PERSON, "sourceIp": "127.0.0.1"});
    events.push(list(|event| event["requestContext"]["identity"] = identity));
    events.push(list(|event| {
        event["requestContext"]["stage"] = json!("../../x")
    }));
    events.push(list(|event| {
        event["pathParameters"] = json!({"proxy": "api/onboarding/api-keys", "user_id": PERSON})
    }));
    events.push(list(|event| {
        event["queryStringParameters"] = json!({"user_id": PERSON})
    }));
    events.push(list(|event| {
        event["stageVariables"] = json!({"CLERK_ISSUER": "https://evil.test", "DEBUG": "true"})
    }));
    let record = |source: &str, more: Value| json!({"Records": [{"eventSource": source, "awsRegion": "us-east-1", "body": PERSON, "x": more}]});
    events.extend([
        record("aws:s3", json!({"object": {"key": PERSON}})),
        record("aws:sqs", json!({"messageId": "1"})),
        record("aws:sns", json!({"Sns": {"Message": PERSON}})),
        record("aws:dynamodb", json!({"NewImage": {"pk": {"S": PERSON}}})),
        record("aws:kinesis", json!({"kinesis": {"data": "e30="}})),
        json!({"version": "0", "source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}),
        json!({"job": "check", "segment": 0, "total_segments": 1}),
        json!({"token": "x", "providers": ["gemini"], "purpose": "x"}),
        json!({"triggerSource": "TokenGeneration_Authentication", "userName": PERSON}),
        json!({"requestContext": {"eventType": "CONNECT", "connectionId": "x", "routeKey": "$connect"}}),
        json!({"requestContext": {"elb": {"targetGroupArn": "arn"}}, "httpMethod": "GET", "path": "/api/onboarding/api-keys", "headers": {}, "body": "", "isBase64Encoded": false}),
        json!({"version": "2.0", "rawPath": "/api/onboarding/api-keys", "requestContext": {"http": {"method": "GET", "path": "/api/onboarding/api-keys"}, "authorizer": {"jwt": {"claims": claims}}}}),
        json!({"httpMethod": "GET", "path": "/api/onboarding/api-keys"}),
        json!({}),
        json!([]),
        json!(null),
        json!("x"),
        json!(7),
        json!({"httpMethod": 7, "path": []}),
    ]);
    for event in events {
        let shown = event.to_string();
        let (_, answer) = lambda.invoke(event).await;
        let text = String::from_utf8(answer.to_vec()).unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        // A runtime that cannot read an event says so; what it can read has no token.
        let refused = answer["statusCode"] == 401 || answer["errorType"].is_string();
        assert!(refused, "{shown}: {text}");
        assert!(
            !text.contains("cdef") && !text.contains(PERSON),
            "{shown}: {text}"
        );
    }
    // It lives, and who says who they are is answered.
    let (status, found) = get(&mut lambda, "fetch-keys/list", &bearer()).await;
    assert_eq!(
        (status, &found["configured_providers"]),
        (200, &json!(["copilotkit"]))
    );
    let (text, _) = lambda.said().await;
    assert!(!text.contains(PERSON) && !text.contains(PUBLIC_KEY));
}

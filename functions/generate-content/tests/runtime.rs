//! generate-content as Lambda runs it: in pieces, and whole where the gateway cannot pass on pieces.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

#[path = "../../lambda.rs"]
mod lambda;

use axum::Router;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use user_api_keys::provider::Provider;

use crate::lambda::{Lambda, PERSON, REQUEST, TRACE, bearer};

const KEY: &str = "key-of-person-a-0001";
const STREAM: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hel\"}]}}]}\n\n\
                      data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"lo\"}]},\"finishReason\":\"STOP\"}]}\n\n";

/// The head and the body of the streaming response format: JSON, eight NULs, the body.
fn decoded(body: &[u8]) -> (Value, String) {
    let end = body.windows(8).position(|bytes| bytes == [0; 8]).unwrap();
    let head = serde_json::from_slice(&body[..end]).unwrap();
    (head, String::from_utf8(body[end + 8..].to_vec()).unwrap())
}

/// On a real Lambda no provider can be put in another's place, so here nobody is asked for text.
#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_answers_in_the_streaming_format() {
    let mut lambda = Lambda::start("streaming", &[]).await;
    let (headers, body) = lambda.send("generate-content/stream", &bearer()).await;
    assert_eq!(
        headers["lambda-runtime-function-response-mode"],
        "streaming"
    );
    let media_type = "application/vnd.awslambda.http-integration-response";
    assert_eq!(headers["content-type"], media_type);
    let (head, body) = decoded(&body);
    assert_eq!(head["statusCode"], 409);
    assert_eq!(head["headers"]["cache-control"], "no-store");
    assert_eq!(
        head["headers"]["access-control-allow-origin"],
        "https://app.test"
    );
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&problem["code"], &problem["request_id"]),
        (&json!("no_api_key"), &json!(REQUEST))
    );
    let (_, lines) = lambda.said().await;
    let line = lines
        .iter()
        .find(|line| line["message"] == "request")
        .unwrap();
    // Two counts, row, a stream's place taken and given back.
    assert_eq!(
        (&line["trace_id"], &line["dynamodb"]),
        (&json!(TRACE), &json!(5))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn under_sam_local_events_arrive_as_one_answer() {
    let answer = || async { ([("content-type", "text/event-stream")], STREAM) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gemini = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let more = [
        ("GEMINI_BASE_URL", gemini.as_str()),
        ("AWS_SAM_LOCAL", "true"),
    ];
    let mut lambda = Lambda::start("whole", &more).await;
    lambda.save(Provider::Gemini, KEY).await;
    let (headers, body) = lambda.send("generate-content/stream", &bearer()).await;
    assert!(
        headers
            .get("lambda-runtime-function-response-mode")
            .is_none()
    );
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer["statusCode"], 200);
    assert_eq!(
        answer["multiValueHeaders"]["content-type"][0],
        "text/event-stream"
    );
    let events = answer["body"].as_str().unwrap();
    let deltas = "event: delta\ndata: {\"text\":\"Hel\"}\n\nevent: delta\ndata: {\"text\":\"lo\"}\n\nevent: done\n";
    assert!(events.contains(deltas), "{events}");
    let (text, lines) = lambda.said().await;
    // Two counts, row, record, day, usage; a stream's place taken and given back; and since nobody has seen
    // the key work, the count of checks and the mark that it does.
    let line = lines
        .iter()
        .find(|line| line["message"] == "request")
        .unwrap();
    assert_eq!((&line["dynamodb"], &line["kms"]), (&json!(10), &json!(1)));
    assert!(!text.contains(KEY) && !text.contains(PERSON));
}

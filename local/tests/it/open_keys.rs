//! Plaintext keys for the app's other back ends, through Lambda's invoke path.

use reqwest::{Client, Response};
use serde_json::{Value, json};
use user_api_keys::provider::Provider;

use crate::harness::{PERSON, Server, clerk, command, folder, key_for, start};

const OTHER: &str = "user_bbbbbbbb2";
const KEY: &str = "AQ.key-of-person-a-0001";
const ARGS: [&str; 4] = ["--port", "0", "--in-memory", "--production"];

async fn send(server: &Server, event: &Value, origin: Option<&str>) -> Response {
    let path = "/2015-03-31/functions/open-keys/invocations";
    let mut request = Client::new()
        .post(format!("{}{path}", server.url))
        .json(event);
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    request.send().await.unwrap()
}

async fn invoke(server: &Server, event: Value) -> Value {
    send(server, &event, None).await.json().await.unwrap()
}

fn token(user: &str) -> String {
    local::token::sign(user).unwrap()
}

#[tokio::test]
async fn a_persons_token_opens_their_own_keys_and_the_purpose_is_on_their_trail() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    server.save(Some(PERSON), "gemini", KEY).await;
    server
        .save(Some(OTHER), "exa", "key-of-person-b-7777")
        .await;
    let event = json!({"token": token(PERSON), "providers": ["gemini", "exa", "gemini"], "purpose": "nightly report"});
    let answer = invoke(&server, event).await;
    assert_eq!(
        (&answer["keys"]["gemini"]["api_key"], &answer["missing"]),
        (&json!(KEY), &json!(["exa"]))
    );
    let path = "/api/onboarding/api-keys/audit?limit=1";
    let (_, trail) = server.call("GET", path, Some(PERSON), None).await;
    let record = &trail["records"][0];
    assert_eq!(
        (&record["function"], &record["purpose"]),
        (&json!("open-keys"), &json!("nightly report"))
    );
    assert_eq!(record["kid"], answer["keys"]["gemini"]["kid"]);
}

#[tokio::test]
async fn a_key_of_every_provider_is_handed_out() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    let names: Vec<_> = Provider::ALL
        .iter()
        .map(|provider| provider.name())
        .collect();
    let key_of = |name: &str| key_for(name, &format!("key-of-{name}-0001"));
    for name in &names {
        let (status, _) = server.save(Some(PERSON), name, &key_of(name)).await;
        assert_eq!(status, 200, "{name}");
    }
    let event = json!({"token": token(PERSON), "providers": names, "purpose": "everything"});
    let answer = invoke(&server, event).await;
    for name in &names {
        let key = &answer["keys"][name]["api_key"];
        assert_eq!(key, &json!(key_of(name)));
    }
}

#[tokio::test]
async fn nobody_without_a_token_gets_a_key_and_every_refusal_is_an_error_without_it() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    server.save(Some(PERSON), "gemini", KEY).await;
    let acting = local::token::sign_as(PERSON, "user_support01").unwrap();
    for (event, kind) in [
        (
            json!({"user_id": PERSON, "providers": ["gemini"], "purpose": "x"}),
            "unauthorized",
        ),
        (
            json!({"token": "a.b.c", "providers": ["gemini"], "purpose": "x"}),
            "unauthorized",
        ),
        (
            json!({"token": format!("{}\n", token(PERSON)), "providers": ["gemini"], "purpose": "x"}),
            "unauthorized",
        ),
        (
            json!({"token": format!("Bearer {}", token(PERSON)), "providers": ["gemini"], "purpose": "x"}),
            "unauthorized",
        ),
        (
            json!({"token": acting, "providers": ["gemini"], "purpose": "x"}),
            "forbidden",
        ),
        (
            json!({"token": token(PERSON), "user_id": OTHER, "providers": [], "purpose": "x"}),
            "invalid_request",
        ),
        (
            json!({"token": token(PERSON), "providers": ["gemini"], "purpose": ""}),
            "invalid_request",
        ),
        (
            json!({"token": token(PERSON), "providers": ["gemini"]}),
            "invalid_request",
        ),
        (
            json!({"token": token(PERSON), "providers": ["nobody"], "purpose": "x"}),
            "unknown_provider",
        ),
        (
            json!({"token": token(PERSON), "providers": "gemini", "purpose": "x"}),
            "invalid_request",
        ),
        (
            json!({"httpMethod": "POST", "body": "{}", "token": token(PERSON)}),
            "forbidden",
        ),
        (json!({"requestContext": {}, "rawPath": "/"}), "forbidden"),
        (json!([]), "invalid_request"),
        (
            json!([token(PERSON), null, ["gemini"], "in order"]),
            "invalid_request",
        ),
    ] {
        let response = send(&server, &event, None).await;
        assert_eq!(
            response.headers()["x-amz-function-error"],
            "Unhandled",
            "{event}"
        );
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["errorType"], kind, "{event}");
        assert!(!answer.to_string().contains("0001"));
    }
    let event = json!({"token": token(PERSON), "providers": ["gemini"], "purpose": "x"});
    assert_eq!(
        send(&server, &event, Some("https://evil.test"))
            .await
            .status(),
        403
    );
}

#[tokio::test]
async fn a_bare_user_id_is_enough_only_where_the_caller_is_trusted() {
    let folder = folder();
    let mut command = command(folder.path(), &ARGS);
    command.env("OPEN_KEYS_TRUST_CALLER", "true");
    let server = start(clerk(&mut command));
    server.save(Some(PERSON), "gemini", KEY).await;
    let event = |user: &str| json!({"user_id": user, "providers": ["gemini"], "purpose": "x"});
    assert_eq!(
        invoke(&server, event(PERSON)).await["keys"]["gemini"]["api_key"],
        KEY
    );
    assert_eq!(
        invoke(&server, event(OTHER)).await["missing"],
        json!(["gemini"])
    );
    for id in ["local", "user_aaaaaaaa1#KEY", ""] {
        assert_eq!(
            invoke(&server, event(id)).await["errorType"],
            "unauthorized",
            "{id}"
        );
    }
}

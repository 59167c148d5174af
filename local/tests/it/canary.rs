//! Planted keys and tokens are looked for in everything a run leaves behind.

use std::fs;

use local::token;
use reqwest::Client;

use crate::{
    harness::{PERSON, clerk, command, folder, start},
    torture::leaks::{files, forms},
};

#[tokio::test]
async fn no_planted_key_or_token_reaches_a_log_an_error_or_a_file() {
    let folder = folder();
    let mut command = command(
        folder.path(),
        &["--port", "0", "--production", "--stand-in"],
    );
    command.env("LOG_LEVEL", "trace").env("RUST_LOG", "trace");
    let server = start(clerk(&mut command));
    let token = token::sign(PERSON).unwrap();
    let keys = [
        "AQ.canary/good+key=0001",
        "AQ.canary/bad+key=0002",
        "AQ.canary not a key 0003",
    ];
    let mut answers = String::new();
    let mut send = async |method: &str, path: &str, token: &str, body: String| {
        let request =
            Client::new().request(method.parse().unwrap(), format!("{}{path}", server.url));
        let request = request
            .bearer_auth(token)
            .header("content-type", "application/json");
        let response = request.body(body).send().await.unwrap();
        answers.push_str(&response.text().await.unwrap());
    };
    let path = "/api/onboarding/api-keys";
    for key in keys {
        let url_encoded = key.replace('/', "%2F").replace(' ', "%20");
        for body in [
            format!(r#"{{"provider":"gemini","api_key":"{key}"}}"#),
            format!(r#"{{"provider":"{key}","api_key":"x"}}"#),
            format!(r#"{{"{key}":1}}"#),
            format!(r#"{{"provider":7,"api_key":"{key}"}}"#),
            format!(r#"{{"provider":"gemini","api_key":["{key}"]}}"#),
            format!("{key} is not JSON"),
        ] {
            send("POST", &format!("{path}?check=live"), &token, body.clone()).await;
            send("POST", path, &token, body).await;
            send(
                "POST",
                "/api/generate",
                &token,
                r#"{"prompt":"Hello"}"#.to_owned(),
            )
            .await;
        }
        send(
            "DELETE",
            &format!("{path}/{url_encoded}"),
            &token,
            String::new(),
        )
        .await;
        send(
            "GET",
            &format!("{path}?key={url_encoded}"),
            key,
            String::new(),
        )
        .await;
        send("GET", path, &format!("{token}x"), String::new()).await;
        send("GET", path, &token, String::new()).await;
    }
    let invoke = "/2015-03-31/functions/open-keys/invocations";
    let event = serde_json::json!({"token": token, "providers": ["gemini"], "purpose": "test"});
    // Its answer holds the key, and rightly so; its log line must not.
    let (status, opened) = server.call("POST", invoke, None, Some(event)).await;
    assert!(status == 200 && opened["keys"]["gemini"]["api_key"].is_string());
    drop(server);
    assert!(
        answers.contains("provider_rejected_key"),
        "the bad key was used, and refused on saving"
    );
    assert!(answers.contains("so it was not saved"));
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.lines().count() > 30, "the log was written");
    let mut places = vec![("answers".to_owned(), answers.into_bytes())];
    for file in files(folder.path()) {
        places.push((file.display().to_string(), fs::read(&file).unwrap()));
    }
    assert!(
        places.len() >= 4,
        "log, kms.json and the database were searched"
    );
    for secret in keys.into_iter().chain([token.as_str()]) {
        for (form, needle) in forms(secret) {
            for (place, bytes) in &places {
                let found = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{secret} is in {place} ({form})");
            }
        }
    }
}

//! What the audit log says of who did something, and how it was known.

use futures_util::future::join_all;
use local::token;
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{InProcess, PERSON, Server, clerk, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const KEY: &str = "AQ.a-key-of-theirs-0001";
const ACTOR: &str = "user_support01";
const ARGS: [&str; 4] = ["--port", "0", "--in-memory", "--production"];

async fn records(server: &Server) -> Vec<Value> {
    let path = format!("{KEYS}/audit?limit=100");
    let (_, page) = server.call("GET", &path, Some(PERSON), None).await;
    page["records"].as_array().unwrap().clone()
}

async fn acting(server: &Server, method: &str, path: &str, body: Option<Value>) -> u16 {
    let bearer = token::sign_as(PERSON, ACTOR).unwrap();
    let url = format!("{}{path}", server.url);
    let mut request = Client::new()
        .request(method.parse().unwrap(), url)
        .bearer_auth(bearer);
    if let Some(body) = body {
        request = request.json(&body);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn whoever_looks_on_a_users_behalf_is_on_that_users_log_and_hashed_in_ours() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    server.save(Some(PERSON), "gemini", KEY).await;
    let looks = [
        KEYS,
        "/api/onboarding/api-keys/validate",
        "/api/onboarding/api-keys/audit",
        "/api/onboarding/api-keys/usage?days=1",
        "/api/onboarding/status",
        "/api/onboarding/init",
    ];
    for path in looks {
        assert_eq!(acting(&server, "GET", path, None).await, 200, "{path}");
    }
    let tries = [
        ("POST", "/api/generate", Some(json!({"prompt": "x"}))),
        ("DELETE", "/api/onboarding/api-keys/gemini", None),
        ("POST", "/api/onboarding/reset", None),
    ];
    for (method, path, body) in tries.clone() {
        assert_eq!(acting(&server, method, path, body).await, 403, "{path}");
    }
    let invoke = format!("{}/2015-03-31/functions/open-keys/invocations", server.url);
    let token = token::sign_as(PERSON, ACTOR).unwrap();
    let event = json!({"token": token, "providers": ["gemini"], "purpose": "x"});
    Client::new()
        .post(invoke)
        .json(&event)
        .send()
        .await
        .unwrap();
    let records = records(&server).await;
    let theirs: Vec<_> = records
        .iter()
        .filter(|record| record["actor"] == ACTOR)
        .collect();
    let count = |outcome| {
        theirs
            .iter()
            .filter(|record| record["outcome"] == outcome)
            .count()
    };
    assert_eq!(count("ok"), looks.len(), "{theirs:?}");
    assert_eq!(count("refused"), tries.len() + 1, "{theirs:?}");
    assert!(
        theirs
            .iter()
            .any(|record| record["purpose"] == format!("GET {KEYS}"))
    );
    assert!(theirs.iter().any(|record| record["action"] == "export"));
    let own: Vec<_> = records
        .iter()
        .filter(|record| record["actor"].is_null())
        .collect();
    assert!(
        own.iter().all(|record| record["action"] != "look"),
        "{own:?}"
    );
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(
        log.contains("impersonation") && !log.contains(ACTOR),
        "{log}"
    );
}

#[tokio::test]
async fn a_record_names_the_session_by_its_hash_and_how_the_user_was_known() {
    let folder = folder();
    let mut command = command(folder.path(), &ARGS);
    let server = start(clerk(command.env("OPEN_KEYS_TRUST_CALLER", "true")));
    server.save(Some(PERSON), "gemini", KEY).await;
    let invoke = format!("{}/2015-03-31/functions/open-keys/invocations", server.url);
    for event in [
        json!({"user_id": PERSON, "providers": ["gemini"], "purpose": "by id"}),
        json!({"token": token::sign(PERSON).unwrap(), "providers": ["gemini"], "purpose": "by token"}),
    ] {
        Client::new()
            .post(&invoke)
            .json(&event)
            .send()
            .await
            .unwrap();
    }
    let records = records(&server).await;
    let one = |name: &str, value: &str| {
        let found = records.iter().find(|record| record[name] == value);
        found
            .unwrap_or_else(|| panic!("{name} {value}: {records:?}"))
            .clone()
    };
    let (save, by_id, by_token) = (
        one("action", "save"),
        one("purpose", "by id"),
        one("purpose", "by token"),
    );
    assert_eq!(save["via"], "session");
    assert_eq!(
        (&by_id["via"], &by_id["session"]),
        (&json!("trusted_caller"), &Value::Null)
    );
    assert_eq!(by_token["via"], "session");
    let session = save["session"].as_str().unwrap();
    assert_eq!(by_token["session"], session, "one session, one name");
    assert!(
        session.len() == 16 && session.bytes().all(|b| b.is_ascii_hexdigit()),
        "{session}"
    );
    assert!(
        records
            .iter()
            .all(|record| !record.to_string().contains("sess_"))
    );
}

#[tokio::test]
async fn a_change_of_the_front_ends_env_is_on_the_record() {
    let folder = folder();
    for name in ["backend", "frontend"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let server = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    let body = json!({"key": "REACT_APP_COPILOTKIT_API_KEY", "value": "ck_pub_0123456789abcdef"});
    let (status, answer) = server
        .call("POST", "/api/frontend-env/update", None, Some(body))
        .await;
    assert_eq!(status, 200, "{answer}");
    let (_, page) = server
        .call("GET", &format!("{KEYS}/audit"), None, None)
        .await;
    let record = &page["records"][0];
    assert_eq!(
        (
            &record["action"],
            &record["provider"],
            &record["outcome"],
            &record["via"]
        ),
        (
            &json!("frontend_env"),
            &json!("copilotkit"),
            &json!("ok"),
            &json!("local")
        )
    );
}

#[tokio::test]
async fn descriptions_and_purposes_hold_nothing_that_cannot_be_seen() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    server.save(Some(PERSON), "gemini", KEY).await;
    for hidden in [
        '\0', '\n', '\u{7f}', '\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{2028}', '\u{ad}',
    ] {
        let words = format!("my{hidden}key");
        let body = json!({"provider": "gemini", "api_key": KEY, "description": words});
        assert_eq!(
            server.call("POST", KEYS, Some(PERSON), Some(body)).await.0,
            400,
            "{hidden:?}"
        );
        let body = json!({"description": words});
        let path = format!("{KEYS}/gemini");
        assert_eq!(
            server
                .call("PATCH", &path, Some(PERSON), Some(body))
                .await
                .0,
            400,
            "{hidden:?}"
        );
        let event = json!({"token": token::sign(PERSON).unwrap(), "providers": ["gemini"], "purpose": words});
        let invoke = format!("{}/2015-03-31/functions/open-keys/invocations", server.url);
        let answer = Client::new()
            .post(invoke)
            .json(&event)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["errorType"], "invalid_request", "{hidden:?}");
    }
    let body = json!({"description": "Schlüssel 🔑 für zu Hause"});
    assert_eq!(
        server
            .call("PATCH", &format!("{KEYS}/gemini"), Some(PERSON), Some(body))
            .await
            .0,
        200
    );
}

async fn with_two_keys(functions: &InProcess, user: &str) {
    for key in ["AQ.the-first-key-0001", "AQ.the-second-key-0002"] {
        let body = json!({"provider": "gemini", "api_key": key});
        assert_eq!(
            functions.call("POST", KEYS, user, &[], Some(body)).await.0,
            200
        );
    }
}

#[tokio::test]
async fn of_concurrent_restores_of_one_version_one_is_done_and_recorded() {
    let functions = InProcess::production().await;
    for round in 0..4 {
        let user = format!("user_restoring{round}");
        with_two_keys(&functions, &user).await;
        let restore = format!("{KEYS}/gemini/restore");
        let version = [("if-match", "\"2\"")];
        let tries = (0..16).map(|_| functions.call("POST", &restore, &user, &version, None));
        let statuses: Vec<u16> = join_all(tries)
            .await
            .into_iter()
            .map(|(status, _)| status)
            .collect();
        assert_eq!(
            statuses.iter().filter(|status| **status == 200).count(),
            1,
            "{statuses:?}"
        );
        assert_eq!(
            statuses.iter().filter(|status| **status == 412).count(),
            15,
            "{statuses:?}"
        );
        let path = format!("{KEYS}/audit?limit=100");
        let (_, page) = functions.call("GET", &path, &user, &[], None).await;
        let records = page["records"].as_array().unwrap();
        let restored = records
            .iter()
            .filter(|record| record["action"] == "restore" && record["outcome"] == "ok");
        assert_eq!(restored.count(), 1, "{records:?}");
    }
}

#[tokio::test]
async fn a_change_or_a_delete_of_another_version_changes_nothing() {
    let functions = InProcess::production().await;
    with_two_keys(&functions, PERSON).await;
    let one = format!("{KEYS}/gemini");
    let pause = || Some(json!({"enabled": false}));
    for (method, body) in [("PATCH", pause()), ("DELETE", None)] {
        for version in ["\"1\"", "\"3\"", "\"0\""] {
            let named = [("if-match", version)];
            let (status, answer) = functions
                .call(method, &one, PERSON, &named, body.clone())
                .await;
            assert_eq!(
                (status, &answer["code"]),
                (412, &json!("version_conflict")),
                "{method} {version}"
            );
        }
        for odd in ["2", "\"two\"", "*", "\"2\", \"3\""] {
            let named = [("if-match", odd)];
            let (status, _) = functions
                .call(method, &one, PERSON, &named, body.clone())
                .await;
            assert_eq!(status, 400, "{method} {odd}");
        }
    }
    let (_, list) = functions.call("GET", KEYS, PERSON, &[], None).await;
    assert_eq!(
        (&list["keys"][0]["enabled"], &list["keys"][0]["version"]),
        (&json!(true), &json!(2))
    );
    let named = [("if-match", "\"2\"")];
    assert_eq!(
        functions.call("DELETE", KEYS, PERSON, &named, None).await.0,
        400,
        "all of them"
    );
    assert_eq!(
        functions
            .call("PATCH", &one, PERSON, &named, pause())
            .await
            .0,
        200
    );
    assert_eq!(
        functions.call("DELETE", &one, PERSON, &named, None).await.0,
        204
    );
    assert_eq!(
        functions.call("DELETE", &one, PERSON, &named, None).await.0,
        412,
        "it is gone"
    );
    assert_eq!(
        functions.call("DELETE", &one, PERSON, &[], None).await.0,
        204,
        "gone is fine"
    );
}

//! The front end's way through onboarding.

use serde_json::{Value, json};

use crate::harness::{PERSON, Server, clerk, command, folder, key_for, start};

const OTHER: &str = "user_bbbbbbbb2";

async fn walk(server: &Server, user: Option<&str>) {
    let call = async |method: &str, path: &str, body: Option<Value>| {
        let path = format!("/api/onboarding/{path}");
        let (status, answer) = server.call(method, &path, user, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    };
    let status = call("GET", "status", None).await;
    assert_eq!(
        (&status["current_step"], &status["started_at"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(call("POST", "start", None).await["current_step"], 1);
    let refused = server
        .call("POST", "/api/onboarding/complete", user, None)
        .await;
    assert_eq!((refused.0, &refused.1["code"]), (409, &json!("no_api_key")));
    let validated = call("GET", "step/1/validate", None).await;
    assert_eq!(
        (&validated["can_proceed"], &validated["step_status"]),
        (&json!(false), &json!("in_progress"))
    );
    for provider in ["gemini", "exa", "copilotkit"] {
        assert_eq!(
            server
                .save(
                    user,
                    provider,
                    &key_for(provider, "AQ.canary-of-a-person-0001")
                )
                .await
                .0,
            200
        );
    }
    let data =
        json!({"data": {"api_keys": {"gemini": "AQ.canary-of-a-person-0001"}, "seen": true}});
    let completed = call("POST", "step/1/complete", Some(data)).await;
    assert_eq!(
        (&completed["data"], &completed["warnings"]),
        (
            &json!({"seen": true}),
            &json!(["/data/api_keys is not kept here: save keys under API keys."])
        )
    );
    assert_eq!(
        call("GET", "step/1/validate", None).await["can_proceed"],
        true
    );
    assert_eq!(
        call("GET", "api-keys/validate", None).await["all_valid"],
        true
    );
    call(
        "POST",
        "step/2/complete",
        Some(json!({"data": {"website": "https://a.test"}})),
    )
    .await;
    call("POST", "step/3/skip", None).await;
    let status = call("GET", "status", None).await;
    assert_eq!(
        (&status["completion_percentage"], &status["next_step"]),
        (&json!(50), &json!(4))
    );
    let progress = call("GET", "progress", None).await;
    assert_eq!(
        progress["steps"][1]["data"],
        json!({"website": "https://a.test"})
    );
    assert_eq!(
        (&progress["steps"][2]["status"], &progress["total_steps"]),
        (&json!("skipped"), &json!(6))
    );
    assert!(!progress.to_string().contains("AQ.canary"));
    let completed = call("POST", "complete", None).await;
    assert_eq!(completed["completion_percentage"], 100);
    let init = call("GET", "init", None).await;
    assert_eq!(init["onboarding"]["is_completed"], true);
    assert_eq!(init["session"]["session_id"].as_str().unwrap().len(), 26);
    assert_eq!(call("POST", "reset", None).await["current_step"], 1);
    assert_eq!(
        call("POST", "reset?hard=true", None).await["current_step"],
        0
    );
    assert_eq!(call("GET", "status", None).await["started_at"], Value::Null);
    assert_eq!(
        call("GET", "api-keys/validate", None).await["all_valid"],
        true,
        "the keys stay"
    );
}

#[tokio::test]
async fn the_front_ends_sequence_passes_in_production_and_stays_ones_own() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production"];
    let server = start(clerk(&mut command(folder.path(), &args)));
    server
        .call("POST", "/api/onboarding/start", Some(OTHER), None)
        .await;
    walk(&server, Some(PERSON)).await;
    let (_, other) = server
        .call("GET", "/api/onboarding/init", Some(OTHER), None)
        .await;
    assert_eq!(other["user"], json!({"id": OTHER, "clerk_user_id": OTHER}));
    assert_eq!(other["onboarding"]["current_step"], 1);
}

#[tokio::test]
async fn the_front_ends_sequence_passes_in_local_mode() {
    let folder = folder();
    let server = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    walk(&server, None).await;
}

#[tokio::test]
async fn a_key_under_any_name_is_in_no_answer() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production"];
    let server = start(clerk(&mut command(folder.path(), &args)));
    for (n, name) in [
        "api_key",
        "API_KEYS",
        "apikeys",
        "keys",
        "gemini",
        "geminiKey",
        "client-secret",
    ]
    .iter()
    .enumerate()
    {
        let path = format!("/api/onboarding/step/{}/complete", n % 6 + 1);
        let body = json!({"data": {"deep": [{*name: "AQ.super-secret"}], "site": "a.test"},
            "validation_errors": ["AQ.super-secret is refused"]});
        let (status, answer) = server.call("POST", &path, Some(PERSON), Some(body)).await;
        assert_eq!(
            (status, &answer["data"]),
            (200, &json!({"deep": [{}], "site": "a.test"})),
            "{name}"
        );
        let warnings = answer["warnings"].to_string();
        assert!(
            warnings.contains(&format!("/data/deep/0/{name} is not kept")),
            "{warnings}"
        );
        for path in [
            path.trim_end_matches("/complete"),
            "/api/onboarding/progress",
            "/api/onboarding/init",
        ] {
            let (_, shown) = server.call("GET", path, Some(PERSON), None).await;
            assert!(
                shown.to_string().contains("a.test") && !shown.to_string().contains("super-secret"),
                "{shown}"
            );
        }
    }
}

#[tokio::test]
async fn odd_steps_and_too_much_data_are_refused_and_change_nothing() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production"];
    let server = start(clerk(&mut command(folder.path(), &args)));
    for path in ["step/0", "step/7", "step/x", "step/01"] {
        let path = format!("/api/onboarding/{path}");
        assert_eq!(
            server.call("GET", &path, Some(PERSON), None).await.0,
            400,
            "{path}"
        );
    }
    let data = |bytes: usize| Some(json!({"data": {"text": "x".repeat(bytes)}}));
    for step in 1..=4 {
        let path = format!("/api/onboarding/step/{step}/complete");
        assert_eq!(
            server
                .call("POST", &path, Some(PERSON), data(15_000))
                .await
                .0,
            200
        );
    }
    let path = "/api/onboarding/step/5/complete";
    assert_eq!(
        server
            .call("POST", path, Some(PERSON), data(15_000))
            .await
            .0,
        413
    );
    assert_eq!(
        server
            .call("POST", path, Some(PERSON), data(20_000))
            .await
            .0,
        413
    );
    assert_eq!(
        server
            .call("POST", path, Some(PERSON), Some(json!({"data": 7})))
            .await
            .0,
        400
    );
    let (_, step) = server
        .call("GET", "/api/onboarding/step/5", Some(PERSON), None)
        .await;
    assert_eq!(step["status"], "in_progress");
}

#[tokio::test]
async fn of_steps_ended_at_once_none_is_lost() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production"];
    let server = start(clerk(&mut command(folder.path(), &args)));
    let skip = async |step: u8| {
        let path = format!("/api/onboarding/step/{step}/skip");
        server.call("POST", &path, Some(PERSON), None).await.0
    };
    let ended = tokio::join!(skip(1), skip(2), skip(3));
    assert_eq!(ended, (200, 200, 200));
    let (_, status) = server
        .call("GET", "/api/onboarding/status", Some(PERSON), None)
        .await;
    assert_eq!(status["completion_percentage"], 50);
}

//! Whether a key works, asked of its provider when it is saved.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lambda_http::http::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{PERSON, Server, clerk, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const GOOD: &str = "AQ.good-key-of-person-0001";
const BAD: &str = "AQ.bad-key-of-person-a-0002";

fn asking(folder: &tempfile::TempDir) -> Server {
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    let mut command = command(folder.path(), &args);
    start(clerk(command.env_remove("CHECK_ON_SAVE")))
}

async fn record(server: &Server, provider: &str) -> Value {
    let (_, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    let keys = list["keys"].as_array().unwrap();
    let found = keys.iter().find(|key| key["provider"] == provider);
    found.cloned().unwrap_or(Value::Null)
}

#[tokio::test]
async fn a_key_that_its_provider_takes_is_active_and_one_it_refuses_is_not_stored() {
    let folder = folder();
    let server = asking(&folder);
    for provider in ["gemini", "openai", "anthropic", "mistral", "tavily"] {
        let (status, saved) = server.save(Some(PERSON), provider, GOOD).await;
        assert_eq!(
            (status, &saved["key"]["check"]),
            (200, &json!("valid")),
            "{provider}"
        );
        assert_eq!(saved["warnings"], Value::Null);
        let (status, refused) = server.save(Some(PERSON), provider, BAD).await;
        assert_eq!(
            (status, &refused["code"]),
            (422, &json!("provider_rejected_key")),
            "{provider}"
        );
        assert!(!refused.to_string().contains(BAD), "{refused}");
        let record = record(&server, provider).await;
        assert_eq!(
            (&record["hint"], &record["version"]),
            (&json!("0001"), &json!(1))
        );
        assert_eq!(record["status"], "active");
        assert!(record["checked_at"].is_string());
    }
}

#[tokio::test]
async fn without_a_free_check_a_key_is_saved_unverified() {
    let folder = folder();
    let server = asking(&folder);
    for provider in ["exa", "copilotkit", "serper", "stability", "wavespeed"] {
        // CopilotKit's place takes a public key alone.
        let key = match provider {
            "copilotkit" => format!("ck_pub_{BAD}"),
            _ => BAD.to_owned(),
        };
        let (status, saved) = server.save(Some(PERSON), provider, &key).await;
        assert_eq!(
            (status, &saved["key"]["check"]),
            (200, &json!("skipped")),
            "{provider}"
        );
        assert_eq!(record(&server, provider).await["status"], "unverified");
    }
}

#[tokio::test]
async fn a_request_can_choose_the_check_for_itself() {
    let folder = folder();
    let server = asking(&folder);
    let body = || Some(json!({"provider": "gemini", "api_key": BAD}));
    let format = format!("{KEYS}?check=format");
    let (status, saved) = server.call("POST", &format, Some(PERSON), body()).await;
    assert_eq!((status, &saved["key"]["check"]), (200, &json!("skipped")));
    let live = format!("{KEYS}?check=live");
    let (status, _) = server.call("POST", &live, Some(PERSON), body()).await;
    assert_eq!(status, 422);
    let odd = format!("{KEYS}?check=maybe");
    let (status, answer) = server.call("POST", &odd, Some(PERSON), body()).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn a_provider_that_is_down_or_hangs_never_blocks_a_save() {
    let folder = folder();
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = format!("http://{}", hangs.local_addr().unwrap());
    let down = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", gone.local_addr().unwrap())
    };
    let args = ["--port", "0", "--in-memory", "--production"];
    let mut command = command(folder.path(), &args);
    command
        .env_remove("CHECK_ON_SAVE")
        .env("GEMINI_BASE_URL", hanging)
        .env("OPENAI_BASE_URL", down);
    let server = start(clerk(&mut command));
    for provider in ["gemini", "openai"] {
        let started = Instant::now();
        let (status, saved) = server.save(Some(PERSON), provider, GOOD).await;
        assert_eq!(
            (status, &saved["key"]["check"]),
            (200, &json!("unknown")),
            "{provider}"
        );
        assert_eq!(saved["warnings"].as_array().unwrap().len(), 1);
        assert_eq!(record(&server, provider).await["status"], "unverified");
        // The budget is 3 s; far beyond it something waited that should not.
        assert!(started.elapsed() < Duration::from_secs(20), "{provider}");
    }
}

#[tokio::test]
async fn a_person_has_ten_checks_an_hour_on_the_record_before_each_and_saves_go_on_without() {
    let folder = folder();
    let server = asking(&folder);
    let mut checks = Vec::new();
    for _ in 0..12 {
        let (status, saved) = server.save(Some(PERSON), "gemini", GOOD).await;
        assert_eq!(status, 200);
        checks.push(saved["key"]["check"].clone());
    }
    // An hour may turn between two of them, and then there are more: never fewer.
    let asked = checks.iter().filter(|check| **check == "valid").count();
    assert!((10..=12).contains(&asked), "{asked}");
    if asked == 10 {
        assert_eq!(checks[10..], ["skipped", "skipped"]);
        // Over the limit a bad key is stored like a good one: nobody learns anything from us.
        let (status, saved) = server.save(Some(PERSON), "gemini", BAD).await;
        assert_eq!((status, &saved["key"]["check"]), (200, &json!("skipped")));
        assert!(
            saved["warnings"][0]
                .as_str()
                .unwrap()
                .contains("too many checks")
        );
    }
    let path = format!("{KEYS}/audit?limit=100");
    let (_, trail) = server.call("GET", &path, Some(PERSON), None).await;
    let records = trail["records"].as_array().unwrap();
    let of = |action| records.iter().filter(|r| r["action"] == action).count();
    assert_eq!(of("check"), asked);
    assert!(of("save") >= 12);
    let other = Some("user_bbbbbbbb2");
    let (_, saved) = server.save(other, "gemini", GOOD).await;
    assert_eq!(
        saved["key"]["check"], "valid",
        "another person has their own"
    );
}

#[tokio::test]
async fn a_refused_check_is_on_the_record_as_refused() {
    let folder = folder();
    let server = asking(&folder);
    server.save(Some(PERSON), "gemini", BAD).await;
    let path = format!("{KEYS}/audit");
    let (_, trail) = server.call("GET", &path, Some(PERSON), None).await;
    let records = trail["records"].as_array().unwrap();
    let outcomes: Vec<_> = records
        .iter()
        .map(|record| (record["action"].clone(), record["outcome"].clone()))
        .collect();
    let expected = [("check", "refused"), ("check", "ok")];
    assert_eq!(outcomes, expected.map(|(a, o)| (json!(a), json!(o))));
}

#[tokio::test]
async fn in_local_mode_a_refused_key_reaches_neither_the_table_nor_a_file() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--stand-in"];
    let server = start(command(folder.path(), &args).env_remove("CHECK_ON_SAVE"));
    assert_eq!(server.save(None, "gemini", BAD).await.0, 422);
    assert!(!folder.path().join("backend").exists());
    assert_eq!(server.save(None, "gemini", GOOD).await.0, 200);
    let file = std::fs::read_to_string(folder.path().join("backend/.env")).unwrap();
    assert_eq!(file, format!("GEMINI_API_KEY={GOOD}\n"));
    assert_eq!(server.save(None, "gemini", BAD).await.0, 422);
    let after = std::fs::read_to_string(folder.path().join("backend/.env")).unwrap();
    assert_eq!(after, file);
}

#[tokio::test]
async fn a_check_follows_no_redirect_and_no_proxy() {
    let folder = folder();
    let (thief, stolen) = counting(|| Response::new(String::new())).await;
    let there = format!("http://{thief}/v1/models");
    let (provider, asked) = counting(move || {
        let moved = Response::builder().status(307).header("location", &there);
        moved.body(String::new()).unwrap()
    })
    .await;
    let mut command = command(
        folder.path(),
        &["--port", "0", "--in-memory", "--production"],
    );
    command
        .env_remove("CHECK_ON_SAVE")
        .env("HTTP_PROXY", format!("http://{thief}"))
        // The embedded services are reached by address, the provider by name.
        .env("NO_PROXY", "127.0.0.1")
        .env(
            "OPENAI_BASE_URL",
            format!("http://localhost:{}", provider.port()),
        );
    let server = start(clerk(&mut command));
    let (_, saved) = server.save(Some(PERSON), "openai", GOOD).await;
    assert_eq!(saved["key"]["check"], "unknown");
    let calls = (asked.load(Ordering::SeqCst), stolen.load(Ordering::SeqCst));
    assert_eq!(calls, (1, 0));
}

/// A server that answers everything alike and counts what it is asked.
async fn counting(
    answer: impl Fn() -> Response<String> + Clone + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let router = axum::Router::new().fallback(move || async move {
        counted.fetch_add(1, Ordering::SeqCst);
        answer()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    (address, count)
}

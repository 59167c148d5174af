//! Everything of one person, shown to them or gone.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{PERSON, Server, clerk, command, folder, start};

const OTHER: &str = "user_bbbbbbbb2";
const KEY: &str = "AQ.key-of-person-a-0001";
const KEYS: &str = "/api/onboarding/api-keys";

/// What a command on the folder says, and whether it went well.
fn run(folder: &std::path::Path, args: &[&str]) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(folder, args).output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.success(), said)
}

fn server(folder: &std::path::Path) -> Server {
    let args = ["--port", "0", "--production", "--stand-in"];
    start(clerk(&mut command(folder, &args)))
}

#[tokio::test]
async fn an_export_is_the_whole_record_and_keys_are_in_it_only_when_asked_for() {
    let folder = folder();
    let running = server(folder.path());
    running.save(Some(PERSON), "gemini", KEY).await;
    running
        .save(Some(PERSON), "exa", "exa-key-of-person-a-0002")
        .await;
    running
        .save(Some(OTHER), "gemini", "AQ.key-of-person-b-7777")
        .await;
    running
        .call(
            "POST",
            "/api/onboarding/start",
            Some(PERSON),
            Some(json!({})),
        )
        .await;
    let prompt = json!({"prompt": "Hello"});
    running
        .call("POST", "/api/generate", Some(PERSON), Some(prompt))
        .await;
    let paused = json!({"enabled": false});
    let exa = format!("{KEYS}/exa");
    running
        .call("PATCH", &exa, Some(PERSON), Some(paused))
        .await;
    drop(running);
    let (well, said) = run(folder.path(), &["export", "--user", PERSON]);
    assert!(well, "{said}");
    assert!(
        !said.contains("key-of-person") && !said.contains(OTHER),
        "{said}"
    );
    let whole: Value = serde_json::from_str(&said).unwrap();
    let providers: Vec<_> = whole["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["provider"])
        .collect();
    assert_eq!(providers, ["exa", "gemini"]);
    assert_eq!(whole["onboarding"]["current_step"], 1);
    assert_eq!(whole["usage"][0]["calls"], 1);
    let actions: Vec<_> = whole["audit"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["change", "open", "save", "save"]);
    let (_, said) = run(folder.path(), &["export", "--user", PERSON, "--reveal"]);
    let whole: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&whole["keys"][0]["api_key"], &whole["keys"][1]["api_key"]),
        (&Value::Null, &json!(KEY))
    );
    let (_, said) = run(folder.path(), &["export", "--user", PERSON]);
    let whole: Value = serde_json::from_str(&said).unwrap();
    let newest = &whole["audit"][0];
    assert_eq!(
        (&newest["action"], &newest["function"]),
        (&json!("export"), &json!("export"))
    );
}

#[tokio::test]
async fn an_erased_person_leaves_no_row_and_nobody_else_loses_one() {
    let folder = folder();
    let running = server(folder.path());
    for user in [PERSON, OTHER] {
        running.save(Some(user), "gemini", KEY).await;
        running
            .save(Some(user), "gemini", "AQ.key-of-person-a-0003")
            .await;
        running
            .call("POST", "/api/onboarding/start", Some(user), Some(json!({})))
            .await;
    }
    drop(running);
    let (_, counted) = run(folder.path(), &["erase", "--user", PERSON]);
    assert!(
        counted.contains("rows would be erased; --yes does it"),
        "{counted}"
    );
    let (well, said) = run(folder.path(), &["erase", "--user", PERSON, "--yes"]);
    assert!(well && said.contains(" rows erased, 0 left"), "{said}");
    assert!(
        said.contains("35 days") && said.contains("revoke"),
        "{said}"
    );
    let (_, again) = run(folder.path(), &["erase", "--user", PERSON]);
    assert!(again.starts_with("0 rows"), "{again}");
    let running = server(folder.path());
    let (_, list) = running.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(list["configured_providers"], json!([]));
    let (_, list) = running.call("GET", KEYS, Some(OTHER), None).await;
    assert_eq!(list["configured_providers"], json!(["gemini"]));
    drop(running);
    let (well, said) = run(folder.path(), &["erase", "--user", "everybody", "--yes"]);
    assert!(!well && said.contains("no Clerk user id"), "{said}");
}

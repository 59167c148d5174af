//! `rotate`, as a developer runs it: the real binary on a data folder.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use embedded::Embedded;
use serde_json::json;

use crate::harness::{command, folder, start};

/// Its exit code and what it said.
fn run(command: &mut Command) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn rotate(folder: &Path, more: &[&str]) -> (i32, String) {
    run(&mut command(folder, &[&["rotate"], more].concat()))
}

#[tokio::test]
async fn saved_keys_open_after_a_rotation_and_the_old_kms_key_opens_nothing() {
    let folder = folder();
    let args = ["--port", "0", "--stand-in"];
    let key = "AQ.a-key-that-stays-0001";
    let server = start(&mut command(folder.path(), &args));
    assert_eq!(server.save(None, "gemini", key).await.0, 200);
    let (code, said) = rotate(folder.path(), &[]);
    assert_eq!(code, 1);
    assert!(said.contains("is in use by another server"), "{said}");
    drop(server);
    std::fs::remove_file(folder.path().join("backend/.env")).unwrap();
    let (code, said) = rotate(folder.path(), &["--dry-run"]);
    assert_eq!(code, 0);
    assert!(
        said.contains("a new KMS key would be made, and 1 keys moved to it"),
        "{said}"
    );
    for round in 1..=2 {
        let (code, said) = rotate(folder.path(), &[]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("1 of 1 keys moved"), "{said}");
        let (code, said) = rotate(folder.path(), &["--verify"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(said.matches(", disabled").count(), round, "{said}");
        assert!(said.contains("1 keys under the current KMS key"), "{said}");
    }
    let server = start(&mut command(folder.path(), &args));
    let prompt = Some(json!({"prompt": "hello"}));
    let (_, paid) = server.call("POST", "/api/generate", None, prompt).await;
    assert_eq!(paid["credential"]["hint"], "0001");
}

#[tokio::test]
async fn killed_five_times_it_ends_as_if_it_had_not_been() {
    let folder = folder();
    let mut keys = 1_500;
    let filling = |keys: u32| {
        let keys = keys.to_string();
        let args = ["rotate", "--keys", &keys, "--data-dir", "data"];
        command(folder.path(), &args)
    };
    for _ in 0..5 {
        let mut child = filling(keys).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(fastrand::u64(300..900)));
        while child.try_wait().unwrap().is_some() {
            // Too quick for this machine: with more of them it goes on, and can be killed.
            keys *= 2;
            child = filling(keys).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(300));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (code, said) = run(&mut filling(keys));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("; it is disabled now"), "{said}");
    let (code, said) = rotate(folder.path(), &["--verify", "--data-dir", "data"]);
    assert_eq!(code, 0, "{said}");
    let all = format!("{keys} keys under the current KMS key");
    assert!(said.contains(&all) && said.contains("zero left"), "{said}");
}

#[tokio::test]
async fn what_cannot_be_moved_is_named_and_the_exit_code_says_so() {
    let folder = folder();
    let data = folder.path().join("data");
    let args = ["--data-dir", "data"];
    let fill = [&["--keys", "22"], &args[..]].concat();
    assert_eq!(rotate(folder.path(), &fill).0, 0);
    let services = Embedded::in_folder(&data).await.unwrap();
    let poison = |ct| {
        let update = services.dynamodb.update_item();
        update
            .table_name(&services.table_name)
            .key(
                "pk",
                AttributeValue::S("USER#user_generated0000000001".to_owned()),
            )
            .key("sk", AttributeValue::S("KEY#exa".to_owned()))
            .update_expression("SET ct=:ct")
            .expression_attribute_values(":ct", ct)
    };
    let bad = AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new([1; 99]));
    poison(bad).send().await.unwrap();
    drop(services);
    for _ in 0..2 {
        let (code, said) = rotate(folder.path(), &args);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("failed: KEY#exa of user "), "{said}");
        assert!(said.contains("no older KMS key may be disabled"), "{said}");
        assert!(
            !said.contains("user_generated") && !said.contains("arn:"),
            "{said}"
        );
        let (code, said) = rotate(folder.path(), &[&["--verify"], &args[..]].concat());
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("1 left: no older KMS key may be disabled"),
            "{said}"
        );
        let (code, said) = rotate(folder.path(), &[&["--dry-run"], &args[..]].concat());
        assert_eq!(code, 2, "{said}");
        assert!(
            said.contains("1 keys would be moved, 21 are moved already"),
            "{said}"
        );
    }
    // Somebody's own data folder is never filled up: this one is not known as one that was.
    std::fs::create_dir(folder.path().join("own")).unwrap();
    for file in ["kms.json", "dynamodb.sqlite"] {
        std::fs::copy(data.join(file), folder.path().join("own").join(file)).unwrap();
    }
    let args = ["--data-dir", "own"];
    let (code, said) = rotate(folder.path(), &[&["--keys", "5"], &args[..]].concat());
    assert_eq!(code, 1);
    assert!(said.contains("--keys fills an empty folder"), "{said}");
}

#[tokio::test]
async fn ctrl_c_stops_it_and_says_how_to_go_on() {
    let folder = folder();
    let args = ["rotate", "--keys", "20000"];
    let child = command(folder.path(), &args).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(600));
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("stopped; run the same command again to go on"),
        "{said}"
    );
}

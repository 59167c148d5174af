//! Starting, stopping, files and modes.

use std::{fs, time::Duration};

use serde_json::json;

use crate::{
    harness::{PERSON, Server, clerk, command, fails, folder, start},
    torture::under,
};

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_right_after_an_acknowledged_save_loses_no_key_in_fifty_rounds() {
    let folder = folder();
    let mut saved = Vec::<(String, String)>::new();
    for round in 0..50_u64 {
        let server = start(clerk(&mut command(
            folder.path(),
            &["--port", "0", "--production"],
        )));
        for (user, key) in saved.iter().rev().take(6) {
            assert_eq!(server.copilotkit(user).await, json!(key), "round {round}");
        }
        // The moment differs from round to round: after one to four saves, one still under way.
        for n in 0..=round % 4 {
            let (user, key) = (
                format!("user_round{round:03}n{n}"),
                format!("ck_pub_{round}_{n}"),
            );
            assert_eq!(server.save(Some(&user), "copilotkit", &key).await.0, 200);
            saved.push((user, key));
        }
        let pause = Duration::from_micros(round * 7_919 % 3_000);
        let unfinished = server.save(Some(PERSON), "copilotkit", "ck_pub_under_way");
        tokio::time::timeout(pause, unfinished).await.ok();
        drop(server);
    }
    let server = start(clerk(&mut command(
        folder.path(),
        &["--port", "0", "--production"],
    )));
    for (user, key) in &saved {
        assert_eq!(server.copilotkit(user).await, json!(key));
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_says_so_and_stops() {
    let folder = folder();
    let first = start(&mut command(folder.path(), &["--port", "0"]));
    let said = fails(&mut command(folder.path(), &["--port", "0"]));
    assert!(
        said.contains(".local is in use by another server"),
        "{said}"
    );
    drop(first);
    start(&mut command(folder.path(), &["--port", "0"]));
}

#[tokio::test]
async fn damaged_data_is_named_and_not_touched() {
    for file in ["kms.json", "dynamodb.sqlite"] {
        let folder = folder();
        drop(start(&mut command(folder.path(), &["--port", "0"])));
        let path = folder.path().join(".local").join(file);
        fs::write(&path, "not what we wrote").unwrap();
        let said = fails(&mut command(folder.path(), &["--port", "0"]));
        assert!(
            said.contains(&format!(".local/{file} is damaged")),
            "{said}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "not what we wrote");
    }
}

#[tokio::test]
async fn a_missing_kms_key_beside_a_database_is_not_replaced() {
    let folder = folder();
    drop(start(&mut command(folder.path(), &["--port", "0"])));
    let path = folder.path().join(".local/kms.json");
    fs::remove_file(&path).unwrap();
    let said = fails(&mut command(folder.path(), &["--port", "0"]));
    assert!(said.contains("kms.json is missing"), "{said}");
    assert!(!path.exists());
}

#[tokio::test]
async fn the_kms_key_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    drop(start(&mut command(folder.path(), &["--port", "0"])));
    let mode = |name| {
        fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode(".local/kms.json"), mode(".local")), (0o600, 0o700));
}

#[tokio::test]
async fn debug_and_deploy_env_choose_the_mode() {
    for (debug, deploy_env, mode) in [
        ("false", "render", "Production"),
        ("true", "render", "Local"),
    ] {
        let folder = folder();
        let mut command = command(folder.path(), &["--port", "0", "--in-memory"]);
        command.env("DEBUG", debug).env("DEPLOY_ENV", deploy_env);
        command.env("LOCAL_USER_ID", PERSON);
        let server = start(clerk(&mut command));
        assert!(
            server.said.contains(&format!("mode   {mode}")),
            "{}",
            server.said
        );
        server
            .save(Some(PERSON), "gemini", "AQ.some-key-0123456789")
            .await;
        assert_eq!(folder.path().join("backend/.env").exists(), mode == "Local");
        let (status, _) = server
            .call("GET", "/api/onboarding/api-keys", None, None)
            .await;
        assert_eq!(status, 401, "Clerk is configured");
    }
}

#[tokio::test]
async fn backend_env_chooses_the_mode_where_the_environment_does_not() {
    for (file, more, mode) in [
        (
            "DEBUG=true\n",
            &[("DEPLOY_ENV", "render")][..],
            "Local, since DEBUG=true in backend/.env",
        ),
        (
            "DEPLOY_ENV=render\n",
            &[],
            "Production, since DEPLOY_ENV=render in backend/.env",
        ),
        (
            "DEPLOY_ENV=render\n",
            &[("DEPLOY_ENV", "local")],
            "Local, since DEPLOY_ENV=local in the environment",
        ),
        ("", &[], "Local, since DEPLOY_ENV is not set"),
    ] {
        let folder = folder();
        fs::create_dir(folder.path().join("backend")).unwrap();
        fs::write(folder.path().join("backend/.env"), file).unwrap();
        let mut command = command(folder.path(), &["--port", "0", "--in-memory"]);
        clerk(&mut command).envs(more.iter().copied());
        command.env("LOCAL_USER_ID", PERSON);
        let server = start(&mut command);
        assert!(
            server.said.contains(&format!("mode   {mode}")),
            "{}",
            server.said
        );
    }
}

#[tokio::test]
async fn nothing_is_open_to_other_users_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let serve = command(
        folder.path(),
        &["--port", "0", "--sam", "127.0.0.1", "--sam-port", "0"],
    );
    let mut serve = under(&["sh", "-c", "umask 0; exec \"$@\"", "sh"], &serve);
    let server = start(&mut serve);
    assert_eq!(
        server
            .save(None, "gemini", "AQ.some-key-0123456789")
            .await
            .0,
        200
    );
    let mut seen = Vec::new();
    let mut folders = vec![folder.path().join(".local"), folder.path().join("backend")];
    while let Some(path) = folders.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
            seen.push(file.file_name().unwrap().to_str().unwrap().to_owned());
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", path.display());
    }
    for name in [
        "lock",
        "kms.json",
        "dynamodb.sqlite",
        "dynamodb.sqlite-wal",
        ".env",
        "sam-env.json",
    ] {
        assert!(seen.iter().any(|seen| seen == name), "{name} is not there");
    }
}

#[tokio::test]
async fn production_without_clerk_names_every_missing_variable() {
    let said = fails(&mut command(
        folder().path(),
        &["--port", "0", "--in-memory", "--production"],
    ));
    for name in ["CLERK_JWT_KEY", "CLERK_ISSUER", "CLERK_AUTHORIZED_PARTIES"] {
        assert!(said.contains(name), "{said}");
    }
}

#[tokio::test]
async fn ctrl_c_stops_it_cleanly() {
    let folder = folder();
    let mut server = start(&mut command(folder.path(), &["--port", "0"]));
    server.signal("-INT");
    assert!(server.child.wait().unwrap().success());
}

#[tokio::test]
async fn local_mode_reads_the_environment_then_the_file_then_the_table() {
    let folder = folder();
    let serve = |environment: Option<&str>| {
        let mut command = command(folder.path(), &["--port", "0", "--stand-in"]);
        if let Some(key) = environment {
            command.env("GEMINI_API_KEY", key);
        }
        start(&mut command)
    };
    let hint = async |server: &Server| {
        let body = json!({"prompt": "Hello"});
        let (_, answer) = server.call("POST", "/api/generate", None, Some(body)).await;
        answer["credential"]["hint"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let env_file = folder.path().join("backend/.env");
    let server = serve(None);
    let (_, saved) = server
        .save(None, "gemini", "AQ.of-the-table-and-file")
        .await;
    assert_eq!(saved["env_files"], json!(["backend/.env"]));
    fs::write(&env_file, "GEMINI_API_KEY=AQ.edited-by-hand-0002\n").unwrap();
    assert_eq!(hint(&server).await, "0002");
    fs::write(&env_file, "GEMINI_API_KEY=your_gemini_api_key\n").unwrap();
    assert_eq!(hint(&server).await, "file");
    drop(server);
    let server = serve(Some("AQ.of-the-environment-0001"));
    assert_eq!(hint(&server).await, "0001");
    let (status, saved) = server
        .save(None, "gemini", "AQ.of-the-table-and-file")
        .await;
    assert_eq!(
        (status, &saved["code"]),
        (409, &json!("key_still_in_force"))
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_a_warning_and_the_save_succeeds() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("backend/.env")).unwrap();
    let server = start(&mut command(folder.path(), &["--port", "0", "--stand-in"]));
    let (status, saved) = server
        .save(None, "copilotkit", "ck_pub_0123456789abcdef")
        .await;
    assert_eq!((status, saved["env_files"].clone()), (200, json!([])));
    let warnings = saved["warnings"].as_array().unwrap();
    assert!(
        warnings[0]
            .as_str()
            .unwrap()
            .starts_with("backend/.env was not written")
    );
    assert!(
        warnings[1]
            .as_str()
            .unwrap()
            .starts_with("frontend/.env was not written")
    );
    assert!(!folder.path().join("frontend").exists());
    assert_eq!(
        server.copilotkit(PERSON).await,
        json!("ck_pub_0123456789abcdef")
    );
}

#[tokio::test]
async fn the_copilotkit_key_also_reaches_the_front_end_and_a_delete_takes_it_back() {
    let folder = folder();
    fs::create_dir(folder.path().join("frontend")).unwrap();
    let server = start(&mut command(folder.path(), &["--port", "0"]));
    let (_, saved) = server
        .save(None, "copilotkit", "ck_pub_0123456789abcdef")
        .await;
    assert_eq!(saved["env_files"], json!(["backend/.env", "frontend/.env"]));
    let file = |name| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(
        file("backend/.env"),
        "COPILOTKIT_API_KEY=ck_pub_0123456789abcdef\n"
    );
    assert_eq!(
        file("frontend/.env"),
        "REACT_APP_COPILOTKIT_API_KEY=ck_pub_0123456789abcdef\n"
    );
    let path = "/api/onboarding/api-keys/copilotkit";
    assert_eq!(server.call("DELETE", path, None, None).await.0, 204);
    assert_eq!(
        (file("backend/.env"), file("frontend/.env")),
        (String::new(), String::new())
    );
    let (_, list) = server
        .call("GET", "/api/onboarding/api-keys", None, None)
        .await;
    assert_eq!(list["configured_providers"], json!([]));
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_asked_for_the_embedded_services() {
    let folder = folder();
    let mut command = command(folder.path(), &["--port", "0", "--in-memory"]);
    let server = start(command.env("HTTP_PROXY", "http://127.0.0.1:1"));
    assert_eq!(
        server.save(None, "exa", "exa-key-of-mine-0001").await.0,
        200
    );
}

#[tokio::test]
async fn the_page_is_the_same_for_everybody_and_lets_in_no_script_but_its_own() {
    let folder = folder();
    let server = start(&mut command(folder.path(), &["--port", "0"]));
    server
        .save(None, "gemini", "AQ.planted-in-the-page-0001")
        .await;
    for (path, kind, holds) in [
        (
            "/",
            "text/html; charset=utf-8",
            "<title>Your API keys</title>",
        ),
        (
            "/page.js",
            "text/javascript; charset=utf-8",
            "copilotkit_api_key",
        ),
        (
            "/page.css",
            "text/css; charset=utf-8",
            "prefers-color-scheme",
        ),
    ] {
        let answer = reqwest::get(format!("{}{path}", server.url)).await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(
            (
                header("content-type").as_str(),
                header("cache-control").as_str()
            ),
            (kind, "no-store")
        );
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; connect-src 'self';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(policy.ends_with("frame-ancestors 'none'"), "{policy}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        let text = answer.text().await.unwrap();
        assert!(
            text.contains(holds) && !text.contains("AQ.planted"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_page_signs_people_in_with_clerk_where_its_public_key_is_known() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production"];
    let mut command = command(folder.path(), &args);
    clerk(&mut command).env("CLERK_PUBLISHABLE_KEY", "pk_test_</script>");
    let server = start(&mut command);
    let answer = reqwest::get(&server.url).await.unwrap();
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.contains("script-src 'self' https://clerk.test;"),
        "{policy}"
    );
    let text = answer.text().await.unwrap();
    assert!(
        text.contains(
            r#""frontendApi":"https://clerk.test","publishableKey":"pk_test_\u003c/script>""#
        ),
        "{text}"
    );
}

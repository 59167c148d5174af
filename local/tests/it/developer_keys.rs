//! Local mode: a key in the environment, in `.env` and in the table, and which of them is used.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    harness::{Server, command, folder, start},
    torture::{INVOKE, KEYS, open_gemini},
};

const GEMINI: &str = "/api/onboarding/api-keys/gemini";
const OLD: &str = "AQ.the-old-key-of-the-file-0001";
const NEW: &str = "AQ.the-new-key-that-is-saved-0002";

fn serving(folder: &Path) -> Command {
    command(folder, &["--port", "0", "--in-memory", "--stand-in"])
}

fn env_file(folder: &Path, text: &str) -> PathBuf {
    fs::create_dir_all(folder.join("backend")).unwrap();
    let file = folder.join("backend/.env");
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// What pays for a text: the last four of a key, or the code of the failure.
async fn paid(server: &Server) -> String {
    let prompt = Some(json!({"prompt": "Hello"}));
    let (_, answer) = server.call("POST", "/api/generate", None, prompt).await;
    let of = [&answer["credential"]["hint"], &answer["code"]];
    of.iter().find_map(|text| text.as_str()).unwrap().to_owned()
}

/// The Gemini key through each door that hands one out.
async fn shown(server: &Server) -> [Value; 2] {
    let (_, onboarding) = server
        .call("GET", &format!("{KEYS}/onboarding"), None, None)
        .await;
    let event = open_gemini("user_aaaaaaaa1");
    let (_, opened) = server.call("POST", INVOKE, None, Some(event)).await;
    [
        onboarding["api_keys"]["gemini"].clone(),
        opened["keys"]["gemini"]["api_key"].clone(),
    ]
}

async fn record(server: &Server) -> Value {
    let (_, list) = server.call("GET", KEYS, None, None).await;
    let keys = list["keys"].as_array().unwrap().iter();
    let mut keys = keys.filter(|key| key["provider"] == "gemini");
    keys.next().cloned().unwrap_or_default()
}

async fn change(server: &Server, body: Value) -> (u16, Value) {
    server.call("PATCH", GEMINI, None, Some(body)).await
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap()
}

/// A file that is a mount point, undone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this process may not mount.
    fn over(file: &Path, options: &str) -> Option<Self> {
        let mount = |args: &[&str]| {
            let done = Command::new("mount").args(args).arg(file).status();
            done.is_ok_and(|status| status.success())
        };
        let real = file.with_extension("real");
        fs::copy(file, &real).unwrap();
        if !mount(&["--bind", real.to_str().unwrap()]) {
            return None;
        }
        let mounted = Self(file.to_owned());
        mount(&["-o", options]).then_some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

/// Takes every change from a file: a read-only mount, or where that cannot be, for whom permissions count,
/// permissions. `None` where neither holds.
struct ReadOnly {
    _mounted: Option<Mounted>,
    folder: PathBuf,
}

impl ReadOnly {
    fn file(file: &Path) -> Option<Self> {
        let folder = file.parent().unwrap().to_owned();
        let mounted = Mounted::over(file, "remount,ro,bind");
        if mounted.is_none() {
            fs::set_permissions(file, fs::Permissions::from_mode(0o400)).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
        }
        let made = Self {
            _mounted: mounted,
            folder,
        };
        let writes = fs::File::options().append(true).open(file);
        writes.is_err().then_some(made)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700)).ok();
    }
}

#[tokio::test]
async fn a_pause_and_an_end_hold_for_a_key_of_the_file_and_of_the_environment() {
    for source in ["saved", "file", "environment"] {
        let folder = folder();
        let mut command = serving(folder.path());
        match source {
            "file" => {
                env_file(folder.path(), &format!("GEMINI_API_KEY={OLD}\n"));
            }
            "environment" => {
                command.env("GEMINI_API_KEY", OLD);
            }
            _ => {}
        }
        let server = start(&mut command);
        if source == "saved" {
            assert_eq!(server.save(None, "gemini", OLD).await.0, 200);
        }
        assert_eq!(paid(&server).await, "0001", "{source}");
        let (status, paused) = change(&server, json!({"enabled": false})).await;
        assert_eq!(
            (status, &paused["enabled"]),
            (200, &json!(false)),
            "{source}"
        );
        assert_eq!(paid(&server).await, "api_key_paused", "{source}");
        assert_eq!(shown(&server).await, [Value::Null, Value::Null], "{source}");
        let path = format!("{KEYS}/validate");
        let (_, valid) = server.call("GET", &path, None, None).await;
        assert_eq!(
            valid["validation_results"]["gemini"]["valid"], false,
            "{source}"
        );
        change(&server, json!({"enabled": true})).await;
        assert_eq!(paid(&server).await, "0001", "{source}");
        let soon = time::OffsetDateTime::now_utc() + time::Duration::seconds(1);
        let soon = soon.format(&time::format_description::well_known::Rfc3339);
        let (status, _) = change(&server, json!({"expires_at": soon.unwrap()})).await;
        assert_eq!(status, 200, "{source}");
        while paid(&server).await == "0001" {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(paid(&server).await, "api_key_expired", "{source}");
        assert_eq!(shown(&server).await, [Value::Null, Value::Null], "{source}");
    }
}

#[tokio::test]
async fn a_use_of_the_files_key_is_noted_on_its_row() {
    let folder = folder();
    let server = start(&mut serving(folder.path()));
    server.save(None, "gemini", OLD).await;
    assert_eq!(record(&server).await["last_used_at"], Value::Null);
    assert_eq!(paid(&server).await, "0001");
    assert!(record(&server).await["last_used_at"].is_string());
}

#[tokio::test]
async fn a_save_that_the_environments_key_would_win_over_is_refused() {
    let folder = folder();
    let server = start(serving(folder.path()).env("GEMINI_API_KEY", format!("{OLD}\n")));
    let (status, answer) = server.save(None, "gemini", NEW).await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("key_still_in_force"))
    );
    let detail = answer["detail"].as_str().unwrap();
    assert!(
        detail.contains("GEMINI_API_KEY is set in the server's environment"),
        "{detail}"
    );
    assert_eq!(record(&server).await, Value::default());
    assert!(!folder.path().join("backend/.env").exists());
    assert_eq!(paid(&server).await, "0001");
    // The same key is no other.
    let (status, saved) = server.save(None, "gemini", OLD).await;
    assert_eq!((status, &saved["warnings"]), (200, &Value::Null), "{saved}");
    // What was there before cannot come back either, nor can the environment's key be deleted.
    let (status, answer) = server.call("DELETE", GEMINI, None, None).await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("key_still_in_force"))
    );
    assert_eq!(paid(&server).await, "api_key_paused");
    assert_eq!(record(&server).await["enabled"], false);
    assert_eq!(
        fs::read_to_string(folder.path().join("backend/.env")).unwrap(),
        ""
    );
}

#[tokio::test]
async fn a_restore_that_the_environments_key_would_win_over_is_refused() {
    let folder = folder();
    let args = ["--port", "0", "--stand-in"];
    let server = start(&mut command(folder.path(), &args));
    for key in [OLD, NEW] {
        server.save(None, "gemini", key).await;
    }
    drop(server);
    let server = start(command(folder.path(), &args).env("GEMINI_API_KEY", NEW));
    let path = format!("{GEMINI}/restore");
    let (status, answer) = server.call("POST", &path, None, None).await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("key_still_in_force"))
    );
    assert_eq!(record(&server).await["version"], 2);
    let file = fs::read_to_string(folder.path().join("backend/.env")).unwrap();
    assert_eq!(file, format!("GEMINI_API_KEY={NEW}\n"));
}

#[tokio::test]
async fn a_key_that_no_quoting_holds_is_used_from_the_table_and_the_old_line_is_out() {
    for new in ["a'b\"c", "${HOME}", "\\\"a'", "x$'y\\"] {
        let folder = folder();
        let file = env_file(folder.path(), &format!("A=1\nGEMINI_API_KEY={OLD}\n"));
        let server = start(&mut serving(folder.path()));
        let (status, saved) = server.save(None, "gemini", new).await;
        assert_eq!((status, &saved["env_files"]), (200, &json!([])), "{saved}");
        let warning = saved["warnings"][0].as_str().unwrap();
        assert!(
            warning.contains("GEMINI_API_KEY was taken out of it"),
            "{warning}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "A=1\n");
        assert_eq!(shown(&server).await, [json!(new), json!(new)]);
    }
}

#[tokio::test]
async fn a_bind_mounted_file_takes_a_save_and_a_delete() {
    let folder = folder();
    let file = env_file(folder.path(), &format!("A=1\nGEMINI_API_KEY={OLD}\n"));
    let Some(_mounted) = Mounted::over(&file, "remount,rw,bind") else {
        // Needs root; the writer's own tests hold what it does.
        return;
    };
    let server = start(&mut serving(folder.path()));
    let (status, saved) = server.save(None, "gemini", NEW).await;
    assert_eq!(
        (status, &saved["env_files"]),
        (200, &json!(["backend/.env"])),
        "{saved}"
    );
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("A=1\nGEMINI_API_KEY={NEW}\n")
    );
    assert_eq!(paid(&server).await, "0002");
    assert_eq!(server.call("DELETE", GEMINI, None, None).await.0, 204);
    assert_eq!(fs::read_to_string(&file).unwrap(), "A=1\n");
    assert_eq!(paid(&server).await, "no_api_key");
}

#[tokio::test]
async fn a_file_that_takes_no_change_refuses_a_save_and_a_delete_pauses() {
    let folder = folder();
    let file = env_file(
        folder.path(),
        &format!("GEMINI_API_KEY={OLD}\nEXA_API_KEY=your_api_key\n"),
    );
    let Some(read_only) = ReadOnly::file(&file) else {
        return;
    };
    let server = start(&mut serving(folder.path()));
    let (status, answer) = server.save(None, "gemini", NEW).await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("key_still_in_force"))
    );
    assert_eq!(record(&server).await, Value::default(), "nothing was saved");
    assert_eq!(paid(&server).await, "0001");
    // What the file does not have it does not keep from being used.
    for (provider, key) in [
        ("openai", "sk-of-the-table-0003"),
        ("exa", "exa-of-the-table-0004"),
    ] {
        let (status, saved) = server.save(None, provider, key).await;
        assert_eq!(status, 200, "{saved}");
    }
    for path in [GEMINI, KEYS] {
        let (status, answer) = server.call("DELETE", path, None, None).await;
        assert_eq!(
            (status, &answer["code"]),
            (409, &json!("key_still_in_force"))
        );
        let detail = answer["detail"].as_str().unwrap();
        assert!(
            detail.contains("GEMINI_API_KEY cannot be taken out of backend/.env")
                && detail.contains("paused"),
            "{detail}"
        );
        assert_eq!(record(&server).await["enabled"], false);
        assert_eq!(paid(&server).await, "api_key_paused");
        assert_eq!(shown(&server).await, [Value::Null, Value::Null]);
    }
    let (_, list) = server.call("GET", KEYS, None, None).await;
    assert_eq!(
        list["keys"].as_array().unwrap().len(),
        1,
        "the others are deleted"
    );
    drop(read_only);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(server.call("DELETE", GEMINI, None, None).await.0, 204);
    assert_eq!(paid(&server).await, "no_api_key");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_leaves_a_save_to_the_table_and_a_delete_says_so() {
    let folder = folder();
    let file = env_file(folder.path(), "");
    let text = [b"# M\xfcller\nGEMINI_API_KEY=", OLD.as_bytes()].concat();
    fs::write(&file, &text).unwrap();
    let server = start(&mut serving(folder.path()));
    let (status, saved) = server.save(None, "gemini", NEW).await;
    assert_eq!((status, &saved["env_files"]), (200, &json!([])), "{saved}");
    let warning = saved["warnings"][0].as_str().unwrap();
    assert!(warning.contains("line 1 is not UTF-8 text"), "{warning}");
    assert_eq!(paid(&server).await, "0002");
    let (status, answer) = server.call("DELETE", GEMINI, None, None).await;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("key_still_in_force"))
    );
    // Mended, its key is there again, and paused.
    fs::write(&file, format!("GEMINI_API_KEY={OLD}")).unwrap();
    assert_eq!(paid(&server).await, "api_key_paused");
}

#[tokio::test]
async fn an_environment_key_is_used_without_what_is_around_it_and_never_an_older_one() {
    for around in ["{}\n", "{}\r\n", "\"{}\"", "'{}'", " \"{}\"\n"] {
        let folder = folder();
        env_file(folder.path(), &format!("GEMINI_API_KEY={OLD}\n"));
        let key = around.replace("{}", NEW);
        let server = start(serving(folder.path()).env("GEMINI_API_KEY", key));
        assert_eq!(paid(&server).await, "0002", "{around:?}");
        assert_eq!(shown(&server).await, [json!(NEW), json!(NEW)], "{around:?}");
        let log = log(folder.path());
        let said = "GEMINI_API_KEY in the environment has white space or quotes around it";
        assert_eq!(log.matches(said).count(), 1, "{log}");
    }
    let folder = folder();
    let server = start(serving(folder.path()).env("GEMINI_API_KEY", "not a key"));
    drop(server);
    let log = log(folder.path());
    assert_eq!(
        log.matches("GEMINI_API_KEY in the environment is no key")
            .count(),
        1,
        "{log}"
    );
    assert!(!log.contains("not a key"));
}

#[tokio::test]
async fn a_line_that_cannot_be_read_costs_itself_and_is_logged_once_for_each_state() {
    let folder = folder();
    let text = format!("APP=Bob's app\nsecret words\nB='open\nGEMINI_API_KEY={OLD}$x0001\n");
    let file = env_file(folder.path(), &text);
    let server = start(&mut serving(folder.path()));
    for _ in 0..3 {
        assert_eq!(shown(&server).await[0], json!(format!("{OLD}$x0001")));
        assert_eq!(paid(&server).await, "0001");
    }
    let said = |line: u8| {
        let log = log(folder.path());
        assert!(!log.contains("secret") && !log.contains("old-key"), "{log}");
        log.matches(&format!("line {line} cannot be read")).count()
    };
    assert_eq!((said(1), said(2), said(3), said(4)), (0, 1, 1, 0));
    fs::write(&file, format!("\n{text}")).unwrap();
    paid(&server).await;
    paid(&server).await;
    assert_eq!((said(2), said(3), said(4)), (1, 2, 1));
}

#[tokio::test]
async fn a_save_into_a_file_that_others_read_warns() {
    let folder = folder();
    let file = env_file(folder.path(), "A=1\n");
    let server = start(&mut serving(folder.path()));
    let (_, quiet) = server.save(None, "gemini", OLD).await;
    assert_eq!(quiet["warnings"], Value::Null);
    for mode in [0o640, 0o604] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let (_, saved) = server.save(None, "gemini", NEW).await;
        let warning = saved["warnings"][0].as_str().unwrap();
        assert!(warning.contains("chmod 600 backend/.env"), "{warning}");
        let kept = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(kept, mode);
    }
}

#[tokio::test]
async fn what_a_killed_save_left_is_gone_after_a_start_and_after_a_delete() {
    let folder = folder();
    env_file(folder.path(), &format!("GEMINI_API_KEY={NEW}\n"));
    let backend = folder.path().join("backend");
    let plant = || {
        fs::create_dir(backend.join(".env.user-api-keys")).unwrap();
        for name in [".env.user-api-keys/.env", ".env-hd7B7j", ".env-backup"] {
            fs::write(backend.join(name), format!("GEMINI_API_KEY={OLD}\n")).unwrap();
        }
    };
    let names = || {
        let entries = fs::read_dir(&backend).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    plant();
    let server = start(&mut serving(folder.path()));
    assert_eq!(names(), [".env", ".env-backup"]);
    plant();
    assert_eq!(server.call("DELETE", GEMINI, None, None).await.0, 204);
    assert_eq!(names(), [".env", ".env-backup"]);
    assert!(!log(folder.path()).contains("old-key"));
}

#[test]
fn an_import_takes_every_key_that_python_dotenv_reads_and_names_each_line_it_skips() {
    let folder = folder();
    fs::write(
        folder.path().join("old.env"),
        "\u{feff}GEMINI_API_KEY=AQ.abc$defghijklmnop-0001\nAPP_NAME=My App\nNAME=Bob's app\n\
         a note of mine\nEXA_API_KEY=older-exa-key-0002\nMISTRAL_API_KEY=<your key>\n\
         EXA_API_KEY='newer-exa-key-0003'\nOPENAI_API_KEY\nTAVILY_API_KEY='open\n\
         SERPER_API_KEY=\"serper\\\\key-0004\"\n",
    )
    .unwrap();
    let run = |more: &[&str]| {
        let mut args = vec!["import-env", "old.env", "--user", "user_aaaaaaaa1"];
        args.extend(more);
        let mut import = command(folder.path(), &args);
        let done = import.output().unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).unwrap()
    };
    let said = run(&[]);
    assert!(said.starts_with("3 keys imported\n"), "{said}");
    for skipped in [
        "old.env: line 1 begins with a byte order mark",
        "old.env: line 4 cannot be read",
        "EXA_API_KEY, line 5 of old.env",
        "MISTRAL_API_KEY, line 6 of old.env",
        "OPENAI_API_KEY, line 8 of old.env",
        "old.env: line 9 cannot be read",
    ] {
        assert!(said.contains(skipped), "{skipped}: {said}");
    }
    assert!(
        !said.contains("note") && !said.contains("key-000"),
        "{said}"
    );
    assert!(run(&["--verify"]).starts_with("3 keys open and are the same\n"));
    let mut export = command(
        folder.path(),
        &["export", "--user", "user_aaaaaaaa1", "--reveal"],
    );
    let shown = String::from_utf8(export.output().unwrap().stdout).unwrap();
    for key in [
        "AQ.abc$defghijklmnop-0001",
        "newer-exa-key-0003",
        "serper\\\\key-0004",
    ] {
        assert!(shown.contains(key), "{key}");
    }
}

//! What is wrong is found, with what mends it, and never with a key.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use aws_sdk_dynamodb::types::AttributeValue;
use embedded::{Embedded, Listening};
use local::stand_in::StandIn;
use serde_json::json;

use crate::harness::{PERSON, clerk, command, folder, start};

const KEY: &str = "AQ.key-of-person-a-0001";

/// Its exit code and all that it says, which is never a key.
fn said(command: &mut Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert!(!said.contains("key-of-person"), "{said}");
    (status.code(), said)
}

fn doctor(folder: &Path) -> Command {
    let mut doctor = command(folder, &["doctor", "--offline", "--port", "0"]);
    doctor.env_remove("CHECK_ON_SAVE");
    doctor
}

/// A key in `.env`, readable by its owner alone.
fn dotenv(folder: &Path, text: &str) {
    let file = folder.join("backend/.env");
    fs::create_dir_all(folder.join("backend")).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn where_all_is_well_nothing_is_wrong() {
    let folder = folder();
    dotenv(folder.path(), &format!("GEMINI_API_KEY={KEY}\n"));
    let (code, said) = said(&mut doctor(folder.path()));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.ends_with("nothing is wrong\n"), "{said}");
    assert!(!said.contains("odd") && !said.contains("WRONG"), "{said}");
}

/// Faults of settings and files: what is planted, and what must be said of it.
#[test]
fn every_planted_fault_of_settings_and_files_is_found_with_what_mends_it() {
    type Plant = fn(&Path, &mut Command);
    let faults: &[(Plant, &str, &str)] = &[
        (
            |_, doctor| {
                doctor.envs([("DEBUG", "true"), ("DEPLOY_ENV", "prod")]);
            },
            "odd    Local mode, since DEBUG is true",
            "take DEBUG away",
        ),
        (
            |_, doctor| {
                clerk(doctor)
                    .env("LOCAL_USER_ID", PERSON)
                    .env("CLERK_JWT_KEY", "-----BEGIN PUBLIC KEY-----");
            },
            "WRONG  CLERK_JWT_KEY must hold RSA public keys",
            "JWKS Public Key",
        ),
        (
            |_, doctor| {
                clerk(doctor)
                    .env("LOCAL_USER_ID", PERSON)
                    .env("CLERK_ISSUER", "https://clerk.test/");
            },
            "WRONG  CLERK_ISSUER is \"https://clerk.test/\": write it as tokens do",
            "README.md",
        ),
        (
            |_, doctor| {
                clerk(doctor).env("CLERK_AUTHORIZED_PARTIES", "app.test");
            },
            "WRONG  CLERK_AUTHORIZED_PARTIES has \"app.test\": write exact origins",
            "README.md",
        ),
        (
            |_, doctor| {
                clerk(doctor).env_remove("CLERK_ISSUER");
            },
            "WRONG  CLERK_ISSUER is missing",
            "README.md",
        ),
        (
            |_, doctor| {
                doctor.env("ALLOWED_ORIGINS", "https://*.vercel.app");
            },
            "WRONG  ALLOWED_ORIGINS has \"https://*.vercel.app\": write exact origins",
            "README.md",
        ),
        (
            |_, doctor| {
                clerk(doctor)
                    .arg("--production")
                    .env("ALLOWED_ORIGINS", "https://b.test");
            },
            "odd    people at https://b.test may call, and their tokens are refused",
            "CLERK_AUTHORIZED_PARTIES",
        ),
        (
            |folder, _| {
                dotenv(folder, "A=1\n");
                let open = fs::Permissions::from_mode(0o644);
                fs::set_permissions(folder.join("backend/.env"), open).unwrap();
            },
            "odd    backend/.env can be read by others",
            "chmod 600 backend/.env",
        ),
        (
            |folder, _| fs::create_dir_all(folder.join("backend/.env")).unwrap(),
            "WRONG  backend/.env: it is not a regular file",
            "mend or move the file",
        ),
        (
            |folder, _| dotenv(folder, "A=1\nNAME=Bob's app\nwords of mine\n"),
            "odd    backend/.env: line 3 cannot be read",
            "mend the line",
        ),
        (
            |folder, _| dotenv(folder, "\u{feff}A=1\n"),
            "odd    backend/.env: line 1 begins with a byte order mark",
            "mend the line",
        ),
        (
            |folder, _| {
                dotenv(folder, "");
                let utf16 = "\u{feff}A=1\n".encode_utf16().flat_map(u16::to_le_bytes);
                fs::write(folder.join("backend/.env"), utf16.collect::<Vec<_>>()).unwrap();
            },
            "WRONG  backend/.env: it is UTF-16 text",
            "save it as UTF-8",
        ),
        (
            |folder, _| dotenv(folder, "EXA_API_KEY=exa-${KEY}-of-mine\n"),
            "odd    EXA_API_KEY in backend/.env holds ${",
            "load_dotenv puts a variable in its place",
        ),
        (
            |folder, _| {
                dotenv(folder, "GEMINI_API_KEY=x\n");
                let left = folder.join("backend/.env-hd7B7j");
                fs::write(left, "GEMINI_API_KEY=old\n").unwrap();
            },
            "odd    backend/.env-hd7B7j: a save that was killed left it",
            "the next start of the server takes it away",
        ),
        (
            |_, doctor| {
                doctor.env("GEMINI_API_KEY", format!("{KEY}\n"));
            },
            "odd    GEMINI_API_KEY in the environment has white space or quotes around it",
            "used without them",
        ),
        (
            |folder, _| dotenv(folder, "EXA_API_KEY=your_api_key\n"),
            "odd    EXA_API_KEY in backend/.env is no key",
            "put the key there",
        ),
        (
            |folder, doctor| {
                dotenv(folder, &format!("GEMINI_API_KEY={KEY}\n"));
                doctor.env("GEMINI_API_KEY", "AQ.key-of-person-b-0002");
            },
            "odd    GEMINI_API_KEY in the environment is another key than in .env",
            "unset GEMINI_API_KEY",
        ),
        (
            |folder, _| {
                fs::create_dir_all(folder.join("frontend")).unwrap();
                dotenv(folder, "COPILOTKIT_API_KEY=ck_pub_0001\n");
                let line = "REACT_APP_COPILOTKIT_API_KEY=ck_pub_0002\n";
                fs::write(folder.join("frontend/.env"), line).unwrap();
            },
            "odd    REACT_APP_COPILOTKIT_API_KEY in frontend/.env is another key",
            "save the key once more",
        ),
        (
            |folder, _| {
                fs::create_dir_all(folder.join("frontend")).unwrap();
                let line = "REACT_APP_COPILOTKIT_API_KEY=ck_priv_0002\n";
                fs::write(folder.join("frontend/.env"), line).unwrap();
            },
            "WRONG  REACT_APP_COPILOTKIT_API_KEY in frontend/.env: this key is handed to browsers",
            "take the line out",
        ),
        (
            |folder, _| {
                fs::create_dir_all(folder.join(".local")).unwrap();
                fs::write(folder.join(".local/kms.json"), "{").unwrap();
            },
            "WRONG  .local/kms.json is damaged",
            "no saved key can be opened",
        ),
        (
            |folder, _| {
                fs::create_dir_all(folder.join(".local")).unwrap();
                fs::write(folder.join(".local/dynamodb.sqlite"), "").unwrap();
            },
            "WRONG  .local/kms.json is missing",
            "no saved key can be opened",
        ),
    ];
    for (plant, finding, mend) in faults {
        let folder = folder();
        let mut doctor = doctor(folder.path());
        plant(folder.path(), &mut doctor);
        let (code, said) = said(&mut doctor);
        let lines: Vec<_> = said.lines().collect();
        let at = lines.iter().position(|line| line.starts_with(finding));
        let at = at.unwrap_or_else(|| panic!("{finding}: {said}"));
        let below = lines[at..].iter().take(3).any(|line| line.contains(mend));
        assert!(below, "{mend}: {said}");
        assert_eq!(code, Some(finding.starts_with("WRONG").into()), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_not_there_and_a_server_that_is_are_named() {
    let folder = folder();
    let stand_in = StandIn::start().await.unwrap();
    let server = start(&mut command(folder.path(), &["--port", "0"]));
    let port = server.url.rsplit(':').next().unwrap();
    let mut doctor = command(folder.path(), &["doctor", "--port", port]);
    for name in [
        "OPENAI",
        "ANTHROPIC",
        "MISTRAL",
        "EXA",
        "COPILOTKIT",
        "TAVILY",
        "SERPER",
        "FIRECRAWL",
        "STABILITY",
        "WAVESPEED",
    ] {
        doctor.env(format!("{name}_BASE_URL"), stand_in.base_url());
    }
    doctor.env("GEMINI_BASE_URL", "http://127.0.0.1:1");
    let (_, said_beside) = said(&mut doctor);
    assert!(
        said_beside.contains("odd    .local is in use by another server"),
        "{said_beside}"
    );
    drop(server);
    let (code, said) = said(&mut doctor);
    assert!(
        said.contains("WRONG  Google Gemini cannot be reached at http://127.0.0.1:1"),
        "{said}"
    );
    assert!(said.contains("ok     Exa can be reached"), "{said}");
    assert!(said.contains("ok     the clock is right"), "{said}");
    assert_eq!(code, Some(1));
    // Providers whose clocks are two hours ahead: it is this machine's that is behind.
    let ahead = time::OffsetDateTime::now_utc() + time::Duration::hours(2);
    let ahead = ahead
        .format(&time::format_description::well_known::Rfc2822)
        .unwrap();
    let date = ahead.replace("+0000", "GMT");
    let answer = move || {
        let date = date.clone();
        async move { [("date", date)] }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async { axum::serve(listener, router).await });
    doctor
        .env("GEMINI_BASE_URL", &elsewhere)
        .env("EXA_BASE_URL", &elsewhere);
    for name in ["OPENAI", "ANTHROPIC", "MISTRAL", "COPILOTKIT"] {
        doctor.env(format!("{name}_BASE_URL"), &elsewhere);
    }
    let (_, said) = self::said(&mut doctor);
    assert!(said.contains("WRONG  this machine's clock is 7"), "{said}");
    assert!(said.contains("timedatectl"), "{said}");
}

#[tokio::test]
async fn what_a_person_has_is_shown_and_a_row_that_was_moved_is_found() {
    let folder = folder();
    let data = folder.path().join(".local");
    let server = start(clerk(&mut command(
        folder.path(),
        &["--port", "0", "--production"],
    )));
    server.save(Some(PERSON), "gemini", KEY).await;
    server
        .save(Some(PERSON), "exa", "exa-key-of-person-a-0002")
        .await;
    server
        .save(Some(PERSON), "openai", "openai-key-of-person-a-0003")
        .await;
    let paused = json!({"enabled": false});
    server
        .call(
            "PATCH",
            "/api/onboarding/api-keys/openai",
            Some(PERSON),
            Some(paused),
        )
        .await;
    drop(server);
    let ask = |user: &str| {
        let mut doctor = doctor(folder.path());
        clerk(&mut doctor).args(["--production", "--user", user]);
        said(&mut doctor)
    };
    let (_, fine) = ask(PERSON);
    assert!(
        fine.contains("ok     Google Gemini, …0001, unverified"),
        "{fine}"
    );
    assert!(fine.contains("odd    OpenAI, …0003: paused"), "{fine}");
    assert!(
        ask("user_bbbbbbbb2")
            .1
            .contains("odd    this person has no key in this stack")
    );
    assert!(
        ask("somebody")
            .1
            .contains("WRONG  --user is no Clerk user id")
    );
    let services = Embedded::in_folder(&data).await.unwrap();
    let table = &services.table_name;
    let key = |provider: &str| AttributeValue::S(format!("KEY#{provider}"));
    let person = AttributeValue::S(format!("USER#{PERSON}"));
    let get = services.dynamodb.get_item().table_name(table);
    let row = get
        .key("pk", person.clone())
        .key("sk", key("exa"))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    let put = services
        .dynamodb
        .put_item()
        .table_name(table)
        .set_item(Some(row));
    put.item("sk", key("gemini")).send().await.unwrap();
    drop(services);
    // The embedded services' tasks hold the folder's database until the runtime has dropped them.
    let (code, moved) = ask(PERSON);
    assert!(
        moved.contains("WRONG  Google Gemini: ciphertext does not open here"),
        "{moved}"
    );
    assert!(
        moved.contains("somebody moved or changed the row"),
        "{moved}"
    );
    assert_eq!(code, Some(1));
}

/// The SDK's own settings, as they would be for AWS; here they lead to the embedded services.
fn on_aws<'a>(
    command: &'a mut Command,
    services: &Embedded,
    listening: &Listening,
) -> &'a mut Command {
    clerk(command).envs(listening.settings(listening.address));
    command.envs([
        ("DEPLOY_ENV", "keys-prod"),
        ("ALLOWED_ORIGINS", local::token::PARTY),
        ("TABLE_NAME", &services.table_name),
        ("KMS_KEY_ARN", &services.kms_key_arn),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_on_aws_is_looked_at_with_ordinary_credentials_and_keys_are_imported_into_it() {
    let folder = folder();
    let services = Embedded::in_memory().await.unwrap();
    let listening = services.listen_on_loopback().await.unwrap();
    let ask = |more: &[(&str, &str)]| {
        let mut doctor = doctor(folder.path());
        on_aws(&mut doctor, &services, &listening).envs(more.iter().copied());
        said(doctor.args(["--production", "--user", PERSON]))
    };
    let (code, fine) = ask(&[]);
    assert_eq!(code, Some(0), "{fine}");
    assert!(
        fine.contains("ok     Production mode, stack keys-prod"),
        "{fine}"
    );
    assert!(
        fine.contains("this person has no key in this stack"),
        "{fine}"
    );
    fs::write(
        folder.path().join("old.env"),
        format!("GEMINI_API_KEY={KEY}\n"),
    )
    .unwrap();
    for (more, done) in [
        (&[][..], "1 keys imported"),
        (&["--verify"], "1 keys open and are the same"),
    ] {
        let mut import = command(
            folder.path(),
            &["import-env", "old.env", "--user", PERSON, "--aws"],
        );
        let (code, said) = said(on_aws(&mut import, &services, &listening).args(more));
        assert_eq!((code, said.trim_end()), (Some(0), done));
    }
    assert!(
        !folder.path().join(".local").exists(),
        "the embedded services were begun"
    );
    let (_, there) = ask(&[]);
    assert!(
        there.contains("ok     Google Gemini, …0001, unverified; last used never"),
        "{there}"
    );
    let (code, other) = ask(&[("DEPLOY_ENV", "keys-dev")]);
    assert_eq!(code, Some(1));
    assert!(other.contains("is DEPLOY_ENV the stack's name"), "{other}");
    let (_, table) = ask(&[("TABLE_NAME", "another-table")]);
    assert!(table.contains("TABLE_NAME names no table"), "{table}");
    let unknown = "arn:aws:kms:us-east-1:000000000000:key/ffffffff-0000-4000-8000-000000000000";
    let (_, kms) = ask(&[("KMS_KEY_ARN", unknown)]);
    assert!(
        kms.contains("WRONG  KMS refuses the KMS key (not found)"),
        "{kms}"
    );
    assert!(!kms.contains("ffffffff-0000"), "{kms}");
    let (_, nobody) = ask(&[
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]);
    assert!(
        nobody.contains("are there credentials and a region?"),
        "{nobody}"
    );
}

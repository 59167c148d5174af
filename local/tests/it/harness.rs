//! One running `local` and what the tests ask of it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use local::token;
use reqwest::Client;
use serde_json::{Value, json};

pub(crate) const PERSON: &str = "user_aaaaaaaa1";

/// One running `local`, killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) said: String,
}

/// A command on `folder` that inherits nothing it could confuse with the developer's own settings.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        // Without a stand-in a check would leave this machine.
        .env("CHECK_ON_SAVE", "format")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn clerk(command: &mut Command) -> &mut Command {
    command
        .env("CLERK_JWT_KEY", token::PUBLIC_KEY)
        .env("CLERK_ISSUER", token::ISSUER)
        .env("CLERK_AUTHORIZED_PARTIES", token::PARTY)
}

pub(crate) fn start(command: &mut Command) -> Server {
    let log = fs::File::options()
        .append(true)
        .create(true)
        .open(command.get_current_dir().unwrap().join("log"))
        .unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("stop ") {
        assert!(out.read_line(&mut said).unwrap() > 0, "it stopped: {said}");
    }
    let url = said
        .split_whitespace()
        .find(|word| word.starts_with("http://"));
    let url = url.unwrap().trim_end_matches('/').to_owned();
    std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    Server { child, url, said }
}

impl Server {
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        user: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("{}{path}", self.url);
        let mut request = Client::new().request(method.parse().unwrap(), url);
        if let Some(user) = user {
            request = request.bearer_auth(token::sign(user).unwrap());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    pub(crate) async fn save(&self, user: Option<&str>, provider: &str, key: &str) -> (u16, Value) {
        let body = json!({"provider": provider, "api_key": key});
        self.call("POST", "/api/onboarding/api-keys", user, Some(body))
            .await
    }

    /// The public key, after a real `Decrypt`.
    pub(crate) async fn copilotkit(&self, user: &str) -> Value {
        let path = "/api/onboarding/api-keys/onboarding";
        self.call("GET", path, Some(user), None).await.1["api_keys"]["copilotkit"].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn fails(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

//! One running `local` and what the tests ask of it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_dynamodb::types::AttributeValue;
use embedded::Embedded;
use lambda_http::{Body, http::Request};
use local::{app::App, stack::embedded_setting, stand_in::StandIn, token};
use reqwest::Client;
use serde_json::{Value, json};
use user_api_keys::{aws::Aws, config::Config, events::buffered};

pub(crate) const PERSON: &str = "user_aaaaaaaa1";

/// One running `local`, killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// Until it was ready.
    pub(crate) said: String,
    since: Arc<Mutex<String>>,
}

/// A command on `folder` that inherits nothing it could confuse with the developer's own settings.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "RECORD_CALLS"))
        // Without a stand-in a check would leave this machine.
        .env("CHECK_ON_SAVE", "format")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A key that `provider` can be given: CopilotKit's is public and begins accordingly.
pub(crate) fn key_for(provider: &str, key: &str) -> String {
    match provider {
        "copilotkit" => format!("ck_pub_{key}"),
        _ => key.to_owned(),
    }
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
    let since: Arc<Mutex<String>> = Arc::default();
    let saying = Arc::clone(&since);
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            saying.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    Server {
        child,
        url,
        said,
        since,
    }
}

impl Server {
    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        Command::new("kill").args([name, &pid]).status().unwrap();
    }

    /// Whether it says this within a while, now that it runs.
    pub(crate) fn says(&self, text: &str) -> bool {
        (0..300).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            self.since.lock().unwrap().contains(text)
        })
    }

    /// Host and port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().unwrap()
    }

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

/// The functions in this process, on services of their own.
pub(crate) struct InProcess {
    pub(crate) app: Arc<App>,
    pub(crate) services: Embedded,
    pub(crate) stand_in: StandIn,
}

impl InProcess {
    /// Production mode with the test Clerk instance.
    pub(crate) async fn production() -> Self {
        let services = Embedded::in_memory().await.unwrap();
        let aws = Aws::new(&services.dynamodb, &services.kms);
        Self::on(services, &aws).await
    }

    /// The same, where the functions reach the services through `aws`.
    pub(crate) async fn on(services: Embedded, aws: &Aws) -> Self {
        let stand_in = StandIn::start().await.unwrap();
        let config = production(&services, &stand_in, &[]);
        let app = App::new(&config, aws).unwrap();
        Self {
            app: Arc::new(app),
            services,
            stand_in,
        }
    }

    /// A call as the gateway would make it, and its answer.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        user: &str,
        headers: &[(&'static str, &str)],
        body: Option<Value>,
    ) -> (u16, Value) {
        call(&self.app, method, path, user, headers, body).await
    }

    /// What one person's partition holds, every item as text, in order.
    pub(crate) async fn rows(&self, user: &str) -> Vec<String> {
        let answer = self
            .services
            .dynamodb
            .query()
            .table_name(&self.services.table_name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(format!("USER#{user}")))
            .consistent_read(true)
            .send()
            .await
            .unwrap();
        let items = answer.items.unwrap().into_iter();
        let shown = |item| format!("{:?}", BTreeMap::from_iter(item));
        items.map(shown).collect()
    }
}

/// Settings of functions in Production mode on `services`; `more` comes before.
pub(crate) fn production(services: &Embedded, stand_in: &StandIn, more: &[(&str, &str)]) -> Config {
    let base_url = stand_in.base_url();
    let config = Config::from_lookup(|name| {
        if let Some((_, value)) = more.iter().find(|(n, _)| *n == name) {
            return Some((*value).to_owned());
        }
        let value = match name {
            "DEPLOY_ENV" => "test",
            "RATE_LIMIT_SAVE_PER_MINUTE" | "RATE_LIMIT_READ_PER_MINUTE" => "100000",
            "RATE_LIMIT_GENERATE_PER_MINUTE" => "100000",
            name => return embedded_setting(name, services, &base_url),
        };
        Some(value.to_owned())
    });
    config.unwrap()
}

/// A call as the gateway would make it, and its answer.
pub(crate) async fn call(
    app: &App,
    method: &str,
    path: &str,
    user: &str,
    headers: &[(&'static str, &str)],
    body: Option<Value>,
) -> (u16, Value) {
    answered(app, request(method, path, user, headers, body)).await
}

/// As the gateway would make it.
pub(crate) fn request(
    method: &str,
    path: &str,
    user: &str,
    headers: &[(&'static str, &str)],
    body: Option<Value>,
) -> Request<Body> {
    let bearer = format!("Bearer {}", token::sign(user).unwrap());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", bearer)
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map_or(Body::Empty, |body| Body::from(body.to_string()));
    request.body(body).unwrap()
}

/// The answer's status and JSON.
pub(crate) async fn answered(app: &App, request: Request<Body>) -> (u16, Value) {
    let answer = buffered(app.answer(request).await).await;
    let json = serde_json::from_slice(answer.body().as_ref());
    (answer.status().as_u16(), json.unwrap_or(Value::Null))
}

pub(crate) fn fails(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

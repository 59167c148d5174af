//! What a function under measurement runs against: DynamoDB, KMS and a provider in this process, and
//! Lambda's Runtime API.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{Response, StatusCode},
    routing::{get, post},
};
use embedded::{Embedded, Listening};
use local::token;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex as Turn, mpsc},
};

/// Whatever stops a measurement.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Whose requests are measured.
pub(crate) const PERSON: &str = "user_aaaaaaaa1";
/// Their key.
pub(crate) const KEY: &str = "AQ.my-own-gemini-key-0001";

const NEXT: &str = "/2018-06-01/runtime/invocation/next";
const ANSWER: &str = "/2018-06-01/runtime/invocation/{id}/response";
const FAILURE: &str = "/2018-06-01/runtime/invocation/{id}/error";

/// A moment and what came then.
type Answer = (Instant, StatusCode, Bytes);

#[derive(Clone)]
struct RuntimeApi {
    asked: mpsc::UnboundedSender<Instant>,
    events: Arc<Turn<mpsc::Receiver<String>>>,
    answers: mpsc::UnboundedSender<Answer>,
}

async fn next(State(api): State<RuntimeApi>) -> Response<String> {
    api.asked.send(Instant::now()).ok();
    let event = api.events.lock().await.recv().await;
    let Some(event) = event else {
        return std::future::pending().await;
    };
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:bench";
    let response = Response::builder()
        .header(
            "lambda-runtime-aws-request-id",
            "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
        )
        .header("lambda-runtime-deadline-ms", "4102444800000")
        .header("lambda-runtime-invoked-function-arn", arn)
        .body(event);
    response.unwrap_or_default()
}

async fn answered(State(api): State<RuntimeApi>, body: Bytes) -> StatusCode {
    api.answers
        .send((Instant::now(), StatusCode::OK, body))
        .ok();
    StatusCode::ACCEPTED
}

async fn failed(State(api): State<RuntimeApi>, body: Bytes) -> StatusCode {
    let answer = (Instant::now(), StatusCode::INTERNAL_SERVER_ERROR, body);
    api.answers.send(answer).ok();
    StatusCode::ACCEPTED
}

/// Answers every prompt at once, in Gemini's form, and remembers when it was asked.
#[derive(Clone, Default)]
pub(crate) struct Provider {
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Provider {
    pub(crate) async fn start(&self) -> Result<String, Error> {
        let model = "/v1beta/models/{call}";
        let router = Router::new()
            .route(model, post(Self::text))
            .with_state(self.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(url)
    }

    async fn text(State(provider): State<Self>, _: Bytes) -> Response<String> {
        let mut asked = provider
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        asked.push(Instant::now());
        let text = json!({"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello you"}]},
            "finishReason": "STOP", "index": 0}], "usageMetadata": {"promptTokenCount": 5,
            "candidatesTokenCount": 5, "totalTokenCount": 10}, "modelVersion": "bench"});
        let answer = Response::builder().header("content-type", "text/event-stream");
        answer.body(format!("data: {text}\n\n")).unwrap_or_default()
    }

    /// When it was asked last.
    pub(crate) fn last(&self) -> Option<Instant> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.last().copied()
    }
}

/// The services, with one person's Gemini key saved.
pub(crate) struct Stage {
    pub(crate) services: Embedded,
    pub(crate) listening: Listening,
    pub(crate) provider: Provider,
    pub(crate) settings: BTreeMap<String, String>,
}

impl Stage {
    pub(crate) async fn start() -> Result<Self, Error> {
        let services = Embedded::in_memory().await?;
        let provider = Provider::default();
        let provider_url = provider.start().await?;
        let settings = [
            ("DEPLOY_ENV", "bench"),
            ("TABLE_NAME", &services.table_name),
            ("KMS_KEY_ARN", &services.kms_key_arn),
            ("CLERK_JWT_KEY", token::PUBLIC_KEY),
            ("CLERK_ISSUER", token::ISSUER),
            ("CLERK_AUTHORIZED_PARTIES", token::PARTY),
            ("ALLOWED_ORIGINS", token::PARTY),
            ("CHECK_ON_SAVE", "format"),
            ("RATE_LIMIT_SAVE_PER_MINUTE", "10000000"),
            ("RATE_LIMIT_READ_PER_MINUTE", "10000000"),
            ("RATE_LIMIT_GENERATE_PER_MINUTE", "10000000"),
            ("RATE_LIMIT_GENERATE_PER_DAY", "10000000"),
            ("RATE_LIMIT_CHECK_PER_HOUR", "10000000"),
            ("RATE_LIMIT_OPEN_PER_MINUTE", "10000000"),
            ("RATE_LIMIT_OPEN_PER_DAY", "10000000"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            // Another's address in a provider's place is taken from a local runner only.
            ("AWS_SAM_LOCAL", "true"),
            ("GEMINI_BASE_URL", &provider_url),
            ("LOG_LEVEL", "info"),
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/nonexistent"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut settings = BTreeMap::from(settings);
        let listening = services.listen_on_loopback().await?;
        let reached = listening.settings(listening.address);
        settings.extend(reached.map(|(name, value)| (name.to_owned(), value)));
        Ok(Self {
            services,
            listening,
            provider,
            settings,
        })
    }

    /// Starts `command` behind a Runtime API of its own, with `more` settings.
    pub(crate) async fn run(
        &self,
        name: &str,
        command: &[String],
        more: &[(&str, String)],
    ) -> Result<Running, Error> {
        let (asked, asks) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::channel(1);
        let (sender, answers) = mpsc::unbounded_channel();
        let api = RuntimeApi {
            asked,
            events: Arc::new(Turn::new(receiver)),
            answers: sender,
        };
        let router = Router::new()
            .route(NEXT, get(next))
            .route(ANSWER, post(answered))
            .route(FAILURE, post(failed))
            .with_state(api);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        let (program, args) = command.split_first().ok_or("no command")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .envs(&self.settings)
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .envs(more.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let started = Instant::now();
        let child = command.spawn()?;
        Ok(Running {
            child,
            started,
            asks,
            events,
            answers,
        })
    }
}

/// A function that was started.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) started: Instant,
    asks: mpsc::UnboundedReceiver<Instant>,
    events: mpsc::Sender<String>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Running {
    /// When it asked for its first event.
    pub(crate) async fn ready(&mut self) -> Result<Instant, Error> {
        tokio::select! {
            asked = self.asks.recv() => asked.ok_or_else(|| "it never asked".into()),
            status = self.child.wait() => Err(format!("it ended: {:?}", status?).into()),
        }
    }

    /// Sends an event; when it was sent, when its answer came.
    pub(crate) async fn call(&mut self, event: &str) -> Result<(Instant, Instant, Value), Error> {
        let sent = Instant::now();
        self.events.send(event.to_owned()).await?;
        let (at, status, body) = self.answers.recv().await.ok_or("no answer")?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let failed = answer["statusCode"]
            .as_u64()
            .is_some_and(|status| status >= 400);
        if status != StatusCode::OK || failed {
            return Err(format!("it failed: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok((sent, at, answer))
    }

    /// Nanoseconds on a processor so far, all threads.
    pub(crate) fn cpu_ns(&self) -> Result<u64, Error> {
        let mut sum = 0;
        for task in std::fs::read_dir(self.proc("task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(sum)
    }

    /// The most memory it had, in KiB.
    pub(crate) fn peak_kib(&self) -> Result<u64, Error> {
        peak_kib(&self.proc("status"))
    }

    fn proc(&self, name: &str) -> PathBuf {
        let id = self.child.id().unwrap_or_default();
        PathBuf::from(format!("/proc/{id}/{name}"))
    }

    /// Ends it as Lambda does.
    pub(crate) async fn end(mut self) -> Result<(), Error> {
        self.child.kill().await?;
        Ok(())
    }
}

/// `VmHWM` of a `/proc/<pid>/status`, in KiB.
pub(crate) fn peak_kib(status: &std::path::Path) -> Result<u64, Error> {
    let status = std::fs::read_to_string(status)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.unwrap_or_default().trim().trim_end_matches(" kB");
    Ok(kib.parse()?)
}

/// The event of `events/<name>.json`, from the person's browser.
pub(crate) fn event(name: &str) -> Result<String, Error> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../events");
    let text = std::fs::read_to_string(folder.join(format!("{name}.json")))?;
    let mut event: Value = serde_json::from_str(&text)?;
    let token = token::sign_for(PERSON, 3_600)?;
    if event["headers"].is_object() {
        let bearer = format!("Bearer {token}");
        for (header, value) in [("Authorization", bearer.as_str()), ("Origin", token::PARTY)] {
            event["headers"][header] = json!(value);
            event["multiValueHeaders"][header] = json!([value]);
        }
    } else {
        event["token"] = json!(token);
        event["providers"] = json!(["gemini"]);
    }
    Ok(event.to_string())
}

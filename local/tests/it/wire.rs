//! A wire between the functions and a service that can be cut: faults are put there, and the SDK,
//! the service and the code between them are the real ones.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_dynamodb::config::{Credentials, retry::RetryConfig, timeout::TimeoutConfig};
use embedded::Embedded;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::watch,
};
use user_api_keys::aws::Aws;

/// Before another attempt; the SDK's own is a second.
const BACKOFF: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(200);

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never arrives, and the service stays away.
    StopsBefore,
    /// It is carried out, its answer is lost, and the service stays away.
    StopsAfter,
    /// It is carried out, its answer is lost, and the next try finds everything well.
    AnswerLost,
    /// It is refused with "too fast".
    Throttled,
    /// It is refused with a status of 500.
    Failed,
    /// It never arrives, and the caller waits for an answer.
    Hangs,
    /// It is carried out, and the caller waits for an answer.
    AnswerHangs,
    /// The connection is reset before it arrives; the next try finds everything well.
    Reset,
    /// It is carried out, after a while.
    Slow,
    /// It never arrives, and what comes back is no answer of the service's.
    Garbage,
}

#[derive(Debug, Default)]
struct State {
    /// Requests to let through before the fault.
    armed: Option<(usize, Fault)>,
    seen: usize,
    /// What happens to so many of 1,000 requests, and how often it has.
    storm: Option<(Vec<Fault>, u32, fastrand::Rng)>,
    met: usize,
}

/// A running wire; it ends with the runtime.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    cut: watch::Sender<bool>,
}

impl Wire {
    /// Between a new loopback port and `to`.
    pub(crate) async fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            cut: watch::Sender::new(false),
        };
        let carrying = wire.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let wire = carrying.clone();
                tokio::spawn(async move { wire.carry(client, to).await });
            }
        });
        wire
    }

    /// Clients of `services`, each on a wire of its own: DynamoDB's and KMS's. `attempt` bounds one attempt.
    pub(crate) async fn between(
        services: &Embedded,
        retries: RetryConfig,
        attempt: Option<Duration>,
    ) -> (Aws, [Self; 2]) {
        let listening = services.listen_on_loopback().await.unwrap();
        let wires = [
            Self::to(listening.address).await,
            Self::to(listening.address).await,
        ];
        let [to_dynamodb, to_kms] = wires.each_ref().map(|wire| {
            listening.expect(wire.address);
            format!("http://{}", wire.address)
        });
        let key = listening.access_key_id();
        let credentials = Credentials::new(key, "not-verified", None, None, "wire");
        // Not the services' own, which has no wire.
        let http = aws_smithy_http_client::Builder::new().build_http();
        let retries = retries.with_max_attempts(3).with_initial_backoff(BACKOFF);
        let mut timeouts = TimeoutConfig::builder();
        timeouts.set_operation_attempt_timeout(attempt);
        let timeouts = timeouts.build();
        let dynamodb = services.dynamodb.config().to_builder();
        let dynamodb = dynamodb
            .endpoint_url(to_dynamodb)
            .http_client(http.clone())
            .credentials_provider(credentials.clone())
            .retry_config(retries.clone());
        let dynamodb = dynamodb.timeout_config(timeouts.clone()).build();
        let kms = services.kms.config().to_builder();
        let kms = kms.endpoint_url(to_kms).http_client(http);
        let kms = kms.credentials_provider(credentials).retry_config(retries);
        let kms = kms.timeout_config(timeouts).build();
        let aws = Aws::new(
            &aws_sdk_dynamodb::Client::from_conf(dynamodb),
            &aws_sdk_kms::Client::from_conf(kms),
        );
        (aws, wires)
    }

    /// Lets `requests` through and then does `fault` to the next.
    pub(crate) fn arm(&self, requests: usize, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        *state = State {
            armed: Some((requests, fault)),
            ..State::default()
        };
    }

    /// Does one of `faults` to so many of 1,000 requests, at random.
    pub(crate) fn storm(&self, faults: &[Fault], per_mille: u32, seed: u64) {
        let mut state = self.state.lock().unwrap();
        let random = fastrand::Rng::with_seed(seed);
        state.storm = Some((faults.to_vec(), per_mille, random));
    }

    /// Ends the storm; how many requests it met.
    pub(crate) fn calm(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.storm = None;
        state.met
    }

    /// All is well again; returns whether the fault happened.
    pub(crate) fn mend(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        self.cut.send_replace(false);
        let happened = state.armed.take().is_none();
        state.seen = 0;
        happened
    }

    /// The fault for the request that has come, once.
    fn fault(&self) -> Option<Fault> {
        let mut state = self.state.lock().unwrap();
        if let Some((faults, per_mille, random)) = &mut state.storm {
            let fault = faults[random.usize(..faults.len())];
            let met = random.u32(..1_000) < *per_mille;
            state.met += usize::from(met);
            return met.then_some(fault);
        }
        let (requests, fault) = state.armed?;
        state.seen += 1;
        let now = state.seen > requests;
        now.then(|| {
            state.armed = None;
            fault
        })
    }

    async fn carry(&self, client: TcpStream, to: SocketAddr) {
        let mut cut = self.cut.subscribe();
        if *cut.borrow() {
            return;
        }
        let server = TcpStream::connect(to).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let mut requests = vec![0; 64 * 1024];
        let mut answers = vec![0; 64 * 1024];
        loop {
            tokio::select! {
                read = from_client.read(&mut requests) => {
                    let Some(bytes) = some(read) else { return };
                    let chunk = &requests[..bytes];
                    // A provider is asked elsewhere than at `/`.
                    let request = [b"POST /".as_slice(), b"GET /"].iter().any(|start| chunk.starts_with(start));
                    let fault = if request { self.fault() } else { None };
                    if fault == Some(Fault::StopsBefore) {
                        self.cut.send_replace(true);
                        return;
                    }
                    if let Some(refusal) = fault.and_then(refusal) {
                        to_client.write_all(refusal.as_bytes()).await.ok();
                        return;
                    }
                    if fault == Some(Fault::Reset) {
                        return;
                    }
                    if fault == Some(Fault::Slow) {
                        tokio::time::sleep(SLOW).await;
                    }
                    if fault == Some(Fault::Hangs) {
                        while some(from_client.read(&mut requests).await).is_some() {}
                        return;
                    }
                    if to_server.write_all(chunk).await.is_err() { return }
                    if let Some(fault) = fault.filter(|fault| *fault != Fault::Slow) {
                        lose_answer(&mut from_client, &mut to_server, &mut from_server).await;
                        if fault == Fault::AnswerHangs {
                            while some(from_client.read(&mut requests).await).is_some() {}
                        }
                        self.cut.send_replace(fault == Fault::StopsAfter);
                        return;
                    }
                }
                read = from_server.read(&mut answers) => {
                    let Some(bytes) = some(read) else { return };
                    if to_client.write_all(&answers[..bytes]).await.is_err() { return }
                }
                () = gone(&mut cut) => return,
            }
        }
    }
}

/// The answer to a request that does not arrive, in AWS's form.
fn refusal(fault: Fault) -> Option<String> {
    let (status, name) = match fault {
        Fault::Garbage => {
            let garbage = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n<html>\u{1}\u{2}\u{3}";
            return Some(garbage.to_owned());
        }
        Fault::Throttled => ("400 Bad Request", "ThrottlingException"),
        Fault::Failed => ("500 Internal Server Error", "InternalServerError"),
        _ => return None,
    };
    let body = format!("{{\"__type\":\"{name}\",\"message\":\"arn:aws:kms:secret\"}}");
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    ))
}

async fn gone(cut: &mut watch::Receiver<bool>) {
    cut.wait_for(|cut| *cut).await.ok();
}

fn some(read: std::io::Result<usize>) -> Option<usize> {
    read.ok().filter(|bytes| *bytes > 0)
}

/// Passes on what is still to come of the request until the service answers; the answer goes nowhere.
async fn lose_answer(
    from_client: &mut OwnedReadHalf,
    to_server: &mut tokio::net::tcp::OwnedWriteHalf,
    from_server: &mut OwnedReadHalf,
) {
    let (mut rest, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = from_client.read(&mut rest) => {
                let Some(bytes) = some(read) else { return };
                if to_server.write_all(&rest[..bytes]).await.is_err() { return }
            }
            _ = from_server.read(&mut answer) => return,
        }
    }
}

//! A port for other processes: SAM's containers, `cargo lambda`, tests of real function binaries. Nothing
//! listens unless it is asked to, and everything goes through the gate.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, time::timeout};

use crate::{
    REGION,
    connections::{BODY, Connections, http},
    gate::Gate,
    services::{Answer, Services},
};

/// What DynamoDB takes.
const BODY_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Where other processes reach both services, until this process ends.
pub struct Listening {
    /// Where it listens.
    pub address: SocketAddr,
    gate: Arc<Gate>,
}

impl Listening {
    pub(crate) async fn start(services: Services, at: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let gate = Arc::new(Gate::new());
        gate.expect(address.to_string());
        tokio::spawn(serve(listener, services, Arc::clone(&gate)));
        Ok(Self { address, gate })
    }

    /// Also takes requests whose `Host` is this: the name by which containers know this machine, or a
    /// relay before this listener.
    pub fn expect(&self, host: impl ToString) {
        self.gate.expect(host.to_string());
    }

    /// What callers sign with. Whoever has it opens every key that the services keep.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        self.gate.access_key_id()
    }

    /// Environment variables by which an AWS SDK finds both services, under the address that the other
    /// process knows.
    #[must_use]
    pub fn settings(&self, at: impl std::fmt::Display) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{at}")),
            ("AWS_ENDPOINT_URL_KMS", format!("http://{at}")),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.access_key_id().to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "not-verified".to_owned()),
        ]
    }
}

async fn serve(listener: TcpListener, services: Services, gate: Arc<Gate>) {
    let connections = Connections::of(listener);
    loop {
        let (stream, place) = connections.next().await;
        let (services, gate) = (services.clone(), Arc::clone(&gate));
        let service = service_fn(move |request| {
            let (services, gate) = (services.clone(), Arc::clone(&gate));
            async move { Ok::<_, Infallible>(response(answer(&services, &gate, request).await)) }
        });
        tokio::spawn(async move {
            // Either side may hang up at any time.
            http()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
            drop(place);
        });
    }
}

async fn answer(services: &Services, gate: &Gate, request: Request<Incoming>) -> Answer {
    if let Err(rule) = gate.admit(&request) {
        return Answer::failure(StatusCode::FORBIDDEN, "AccessDeniedException", rule);
    }
    let (parts, body) = request.into_parts();
    let target = parts.headers.get("x-amz-target");
    let target = target
        .and_then(|target| target.to_str().ok())
        .unwrap_or_default();
    match timeout(BODY, Limited::new(body, BODY_MAX_BYTES).collect()).await {
        Ok(Ok(body)) => services.answer(target, &body.to_bytes()),
        _ => Answer::failure(StatusCode::BAD_REQUEST, "SerializationException", "no body"),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    let json = HeaderValue::from_static("application/x-amz-json-1.0");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

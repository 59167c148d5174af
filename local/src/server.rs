//! The one port that people and their apps call: who may connect, how long a request may take to arrive,
//! and how it ends.

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use embedded::connections::{Connections, http};
use http_body::{Frame, SizeHint};
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown, service::TowerToHyperService};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use user_api_keys::{
    endpoint::guard,
    events::in_one_piece,
    problem::{Code, Problem},
};

use crate::neighbours;

/// Time for the last answer's bytes to be sent, and, after connections were cut, for handlers to notice and
/// record the tokens they used.
const LAST_BYTES: Duration = Duration::from_millis(200);
const NOT_YOURS: &str = "Another user's process may not call: in Local mode only processes of the user who \
                         started the server may. Start it with --allow-other-users to let every user of \
                         this machine in.";

/// Which processes may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Those of the user who started this one.
    ThisUser,
    /// All that reach the port.
    Anybody,
}

/// A running server.
pub struct Server {
    connections: Connections,
    callers: Callers,
    router: Router,
    requests: TaskTracker,
    graceful: GracefulShutdown,
    cut: CancellationToken,
}

impl Server {
    /// Answers with `router` what arrives at `listener`, once it is running.
    #[must_use]
    pub fn of(listener: TcpListener, callers: Callers, router: Router) -> Self {
        let requests = TaskTracker::new();
        Self {
            connections: Connections::of(listener),
            callers,
            router: router.layer(from_fn_with_state(requests.clone(), counted)),
            requests,
            graceful: GracefulShutdown::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Also answers with `router`, whose requests are not counted: they are of this process itself.
    #[must_use]
    pub fn and(self, router: Router) -> Self {
        let router = self.router.merge(router);
        Self { router, ..self }
    }

    /// Serves until this is dropped.
    pub async fn run(&self) {
        loop {
            let (stream, place) = self.connections.next().await;
            let (callers, router) = (self.callers, self.router.clone());
            let (watcher, cut) = (self.graceful.watcher(), self.cut.clone());
            tokio::spawn(async move {
                let router = match admitted(&stream, callers).await {
                    true => router,
                    false => Router::new().fallback(refuse),
                };
                let service = TowerToHyperService::new(router);
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    service.call(request.map(Body::new))
                });
                let connection = http().serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // The other side may hang up at any time.
                    _ = watcher.watch(connection) => {}
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        }
    }

    /// Requests that are not answered to their end.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Takes no more requests and waits for those under way, for `patience` at most; how many were cut off.
    pub async fn finish(self, patience: Duration) -> usize {
        let Self {
            connections,
            requests,
            graceful,
            cut,
            ..
        } = self;
        drop(connections);
        requests.close();
        let answered = async {
            let mut closed = pin!(graceful.shutdown());
            tokio::select! {
                () = &mut closed => return,
                // Whoever has only begun to send a request is not waited for.
                () = requests.wait() => {}
            }
            tokio::time::timeout(LAST_BYTES, closed).await.ok();
        };
        tokio::time::timeout(patience, answered).await.ok();
        let left = requests.len();
        cut.cancel();
        if left > 0 {
            tokio::time::sleep(LAST_BYTES).await;
        }
        left
    }
}

/// Asked once a connection: looking it up reads a table of all connections.
async fn admitted(stream: &TcpStream, callers: Callers) -> bool {
    if callers == Callers::Anybody {
        return true;
    }
    let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else {
        return false;
    };
    let look = move || neighbours::is_ours(peer, own);
    tokio::task::spawn_blocking(look).await.unwrap_or_default()
}

/// A request is under way until its answer's body is gone.
async fn counted(State(requests): State<TaskTracker>, request: Request, next: Next) -> Response {
    let under_way = requests.token();
    let held = |body| Held {
        body,
        _under_way: under_way,
    };
    next.run(request).await.map(|body| Body::new(held(body)))
}

/// A body as it was, length included, and what goes with it.
struct Held {
    body: Body,
    _under_way: TaskTrackerToken,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn refuse() -> Response {
    let problem = Problem::new(Code::Forbidden, NOT_YOURS);
    let mut response = in_one_piece(problem.response("-"));
    guard(response.headers_mut());
    response.map(Body::new)
}

/// Serves `router` for as long as the runtime lives.
///
/// # Errors
/// When the address is not this machine's, or is in use.
pub async fn spawn(
    at: SocketAddr,
    callers: Callers,
    router: Router,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(at).await?;
    let address = listener.local_addr()?;
    let server = Arc::new(Server::of(listener, callers, router));
    tokio::spawn(async move { server.run().await });
    Ok(address)
}

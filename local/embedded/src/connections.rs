//! Connections of a server on this machine: not more than it can hold, and none that is kept waiting.

use std::{sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// At once; half of the 1,024 files that a process may usually have open, since a stream has a second
/// connection to its provider.
const CONNECTIONS: usize = 512;
/// From a connection, or from the answer before, to the end of a request's header.
const HEADER: Duration = Duration::from_secs(10);
/// From there to the end of its body.
pub const BODY: Duration = Duration::from_secs(10);
/// After the system refused a connection, for want of memory or of files.
const AGAIN: Duration = Duration::from_millis(100);

/// A listener with so many places.
pub struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Connections {
    /// The connections that arrive at `listener`.
    #[must_use]
    pub fn of(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// The next one, as soon as there is a place for it, which it has until the permit is dropped. Until
    /// then it waits with the system.
    pub async fn next(&self) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        // It is never closed, so there always is one.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    // Events of a stream are small, and nobody waits for more of them.
                    stream.set_nodelay(true).ok();
                    return (stream, place);
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}

/// HTTP/1.1 with a limit for headers; who reads bodies keeps to [`BODY`].
#[must_use]
pub fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER);
    http
}

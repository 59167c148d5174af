//! A wire between the functions and a service that can be cut: faults are put there, and the SDK,
//! the service and the code between them are the real ones.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::watch,
};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never arrives, and the service stays away.
    StopsBefore,
    /// It is carried out, its answer is lost, and the service stays away.
    StopsAfter,
    /// It is carried out, its answer is lost, and the next try finds everything well.
    AnswerLost,
}

#[derive(Debug, Default)]
struct State {
    /// Requests to let through before the fault.
    armed: Option<(usize, Fault)>,
    seen: usize,
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

    /// Lets `requests` through and then does `fault` to the next.
    pub(crate) fn arm(&self, requests: usize, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        *state = State {
            armed: Some((requests, fault)),
            seen: 0,
        };
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
                    let fault = match chunk.starts_with(b"POST / HTTP") {
                        true => self.fault(),
                        false => None,
                    };
                    if fault == Some(Fault::StopsBefore) {
                        self.cut.send_replace(true);
                        return;
                    }
                    if to_server.write_all(chunk).await.is_err() { return }
                    if let Some(fault) = fault {
                        lose_answer(&mut from_client, &mut to_server, &mut from_server).await;
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

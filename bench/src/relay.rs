//! A relay before a service that counts the calls and takes a fixed time for each.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use embedded::Listening;

use crate::stage::Error;

/// A running relay; it ends with the process.
pub(crate) struct Relay {
    pub(crate) url: String,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Relay {
    /// Between a new port and `to`; an answer leaves `takes` after its request came, or later.
    pub(crate) fn to(to: &Listening, takes: Duration) -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        to.expect(&host);
        let url = format!("http://{host}");
        let to = to.address;
        let counts: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
        let counting = Arc::clone(&counts);
        // A thread for each connection: an async timer is a millisecond late.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counts = Arc::clone(&counting);
                thread::spawn(move || carry(client, to, takes, &counts).ok());
            }
        });
        Ok(Self { url, counts })
    }

    /// The calls since the last time, by name.
    pub(crate) fn take(&self) -> BTreeMap<String, u64> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut counts)
    }
}

fn carry(
    client: TcpStream,
    to: SocketAddr,
    takes: Duration,
    counts: &Mutex<BTreeMap<String, u64>>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(to)?;
    server.set_nodelay(true)?;
    let (mut to_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_client, mut from_server) = (BufReader::new(client), BufReader::new(server));
    loop {
        let request = message(&mut from_client)?;
        let came = Instant::now();
        let head = String::from_utf8_lossy(&request);
        let name = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is = name.eq_ignore_ascii_case("x-amz-target");
            is.then(|| value.rsplit('.').next().unwrap_or_default().to_owned())
        });
        // What has no name is no call, but a connection being opened.
        if let Some(name) = &name {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(name.clone()).or_default() += 1;
        }
        to_server.write_all(&request)?;
        let answer = message(&mut from_server)?;
        thread::sleep(takes.saturating_sub(came.elapsed()));
        to_client.write_all(&answer)?;
    }
}

/// One HTTP/1.1 message with its length, as the SDK and the embedded services write them.
fn message(from: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    loop {
        let start = bytes.len();
        if from.read_until(b'\n', &mut bytes)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&bytes[start..]).to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
        if line == "\r\n" {
            break;
        }
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    from.read_exact(&mut bytes[start..])?;
    Ok(bytes)
}

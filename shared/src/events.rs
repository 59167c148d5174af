//! Answers that come in pieces: server-sent events.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>. Knows how events travel
//! to the caller; must not know what is in them.

use std::{convert::Infallible, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use lambda_http::{
    Body, Response,
    http::{HeaderValue, header::CONTENT_TYPE},
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};

use crate::{problem::Problem, telemetry::Line};

/// A body that is whole, or comes in pieces.
pub type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// How often something is sent when there is nothing to say, so that nothing on the way closes the
/// connection.
const ALIVE: Duration = Duration::from_secs(15);
/// Events that may wait for a slow reader; then the provider waits too.
const WAITING: usize = 16;
/// How long a reader may take nothing before they count as gone.
const SLOWEST: Duration = Duration::from_secs(60);

/// An answer.
pub enum Reply {
    /// All of it.
    Whole(Response<Body>),
    /// 200, and what follows.
    Events(Events),
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self::Whole(response)
    }
}

type Work = Pin<Box<dyn Future<Output = Option<Problem>> + Send>>;

/// Events to come, and the work that makes them.
pub struct Events {
    work: Work,
    pieces: mpsc::Receiver<Bytes>,
    /// Keeps the body open until the log is written.
    open: mpsc::Sender<Bytes>,
}

/// Sends events; `Err` means that nobody listens any more.
#[derive(Clone)]
pub struct EventSender(mpsc::Sender<Bytes>);

/// The caller has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl EventSender {
    /// One event.
    ///
    /// # Errors
    /// [`Gone`]
    pub async fn send(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        // JSON has no line break outside a text, and none unescaped inside one.
        let data = serde_json::to_string(data).unwrap_or_default();
        let event = Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
        self.piece(event).await
    }

    async fn piece(&self, piece: Bytes) -> Result<(), Gone> {
        let sent = timeout(SLOWEST, self.0.send(piece)).await;
        sent.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    /// Waits for `next`, sending a comment now and then.
    ///
    /// # Errors
    /// [`Gone`]; `next` has been dropped.
    pub async fn alive_until<T>(&self, next: impl Future<Output = T>) -> Result<T, Gone> {
        let mut alive = interval(ALIVE);
        alive.tick().await;
        tokio::pin!(next);
        loop {
            tokio::select! {
                done = &mut next => return Ok(done),
                () = self.0.closed() => return Err(Gone),
                _ = alive.tick() => {
                    self.piece(Bytes::from_static(b": still here\n\n")).await?;
                }
            }
        }
    }
}

impl Events {
    /// The events that `work` sends; it returns the failure they ended with, if any.
    pub fn new<F, R>(work: F) -> Self
    where
        F: FnOnce(EventSender) -> R,
        R: Future<Output = Option<Problem>> + Send + 'static,
    {
        let (sender, pieces) = mpsc::channel(WAITING);
        Self {
            work: Box::pin(work(EventSender(sender.clone()))),
            pieces,
            open: sender,
        }
    }

    /// Starts the work. `line` is written when it has ended, and only then the body ends: after its
    /// last byte a Lambda freezes.
    pub(crate) fn response(self, mut line: Line) -> Response<AnyBody> {
        let Self { work, pieces, open } = self;
        tokio::spawn(async move {
            let problem = line.counting(work).await;
            line.end(200, problem.as_ref());
            drop(open);
        });
        let pieces = unfold(pieces, async |mut pieces| {
            let piece = pieces.recv().await?;
            Some((Ok(Frame::data(piece)), pieces))
        });
        let mut response = Response::new(UnsyncBoxBody::new(StreamBody::new(pieces)));
        let headers = response.headers_mut();
        let events = HeaderValue::from_static("text/event-stream");
        headers.insert(CONTENT_TYPE, events);
        // Some proxies gather an answer before they pass it on.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

/// A whole answer in the body that can also come in pieces.
#[must_use]
pub fn in_one_piece(response: Response<Body>) -> Response<AnyBody> {
    response.map(|body| {
        let bytes = match body {
            Body::Text(text) => Bytes::from(text),
            Body::Binary(bytes) => Bytes::from(bytes),
            _ => Bytes::new(),
        };
        Full::new(bytes).boxed_unsync()
    })
}

/// All of an answer, for a gateway that cannot pass on pieces.
pub async fn buffered(response: Response<AnyBody>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let body = match text.is_empty() {
        true => Body::Empty,
        false => Body::Text(text),
    };
    Response::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    fn sender() -> (EventSender, mpsc::Receiver<Bytes>) {
        let (sender, pieces) = mpsc::channel(WAITING);
        (EventSender(sender), pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn a_comment_goes_out_every_fifteen_seconds_while_there_is_nothing_to_say() {
        let (sender, mut pieces) = sender();
        let waited = sender.alive_until(sleep(Duration::from_secs(50))).await;
        assert_eq!(waited, Ok(()));
        drop(sender);
        let mut comments = 0;
        while let Some(piece) = pieces.recv().await {
            assert_eq!(piece, ": still here\n\n");
            comments += 1;
        }
        assert_eq!(comments, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_has_gone_or_takes_nothing_for_a_minute_is_not_waited_for() {
        let (gone, pieces) = sender();
        drop(pieces);
        assert_eq!(
            gone.alive_until(std::future::pending::<()>()).await,
            Err(Gone)
        );
        let (stuck, _pieces) = sender();
        let started = Instant::now();
        let sent = async {
            loop {
                if let Err(Gone) = stuck.send("delta", &"x").await {
                    return;
                }
            }
        };
        sent.await;
        assert_eq!(started.elapsed(), SLOWEST);
    }

    #[tokio::test]
    async fn an_event_is_one_line_whatever_is_in_it() {
        let (sender, mut pieces) = sender();
        sender.send("delta", &"a\nb\r\n\ndata: c").await.unwrap();
        let piece = pieces.recv().await.unwrap();
        assert_eq!(piece, "event: delta\ndata: \"a\\nb\\r\\n\\ndata: c\"\n\n");
    }
}

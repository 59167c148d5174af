//! One job over one segment of everybody's rows, in as many invocations as it takes.
//!
//! An invocation goes on where the last one stopped, does what its time allows and answers with a
//! cursor. Nothing but the cursor's place is kept between invocations: a row that is done twice, or by
//! two jobs at once, is the job's own concern.

use std::{collections::BTreeMap, future::ready, pin::pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, stream};
use lambda_http::Context;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::{
    sync::Mutex,
    time::{Interval, MissedTickBehavior, interval, timeout},
};

use crate::{
    invocation::{read, time_left},
    key_scan::{Cursor, Cursors, Fields, KeyScanner, Place, Row, Segment},
    problem::Problem,
    telemetry::{Line, sealing_failed, swept},
};

/// Time in which an invocation begins nothing new.
pub(crate) const RESERVE: Duration = Duration::from_secs(15);
/// For one row; whatever is under way when the reserve begins is over before it ends.
const ROW: Duration = Duration::from_secs(12);
/// Longest wait for a turn: well within the time for a row.
const WAIT_MAX_S: u16 = 3;
/// Rows that an answer and the log name; the others are counted.
const NAMED_MAX: usize = 20;

const SHAPE: &str = "job, segment (from 0), total_segments (1 to 1000000) and, to go on, the cursor of \
                     the answer before";

/// What an invocation is asked to do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<J> {
    job: J,
    segment: u32,
    total_segments: u32,
    cursor: Option<Cursor>,
}

/// An invocation under way.
#[derive(Debug)]
pub struct Invoked<J> {
    /// What is asked for.
    pub job: J,
    /// The invocation's id.
    pub request_id: String,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// As asked.
    pub segment: u32,
    /// As asked.
    pub total_segments: u32,
    /// To go on with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
    /// Whether the segment is at its end.
    pub done: bool,
    /// Rows, by what came of them.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first rows that failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedRow>,
}

/// Names a row, and no person.
#[derive(Debug, Clone, Serialize)]
pub struct FailedRow {
    /// Whose, hashed as in the log.
    pub user: String,
    /// Its sort key.
    pub row: String,
    /// Its key's own id, where it has one.
    pub kid: Option<String>,
    /// What an alarm calls it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'static str>,
    /// Why, for the person who runs this.
    pub reason: String,
}

/// What a function does to every row.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// In whose name.
    pub function: &'static str,
    /// `DEPLOY_ENV`.
    pub deploy_env: &'a str,
    /// Reads the rows.
    pub scanner: &'a KeyScanner,
    /// Keeps where an invocation stopped.
    pub cursors: &'a Cursors,
    /// What it needs of them.
    pub fields: Fields,
    /// Rows under way at once.
    pub concurrency: u16,
    /// The words that [`Answer::counts`] has besides `scanned` and `failed`.
    pub outcomes: &'static [&'static str],
}

impl Sweep<'_> {
    /// Answers one invocation and writes its one log line. `each` says what came of a row in one of
    /// the words, or why it failed; a ciphertext that does not open is the same alarm as in a request.
    /// `context` is there on Lambda.
    ///
    /// # Errors
    /// When nothing could be done; what was done before stays done.
    pub async fn answer<J, F>(
        &self,
        context: Option<&Context>,
        event: Value,
        each: impl Fn(Arc<Invoked<J>>, Arc<Row>) -> F + Sync,
    ) -> Result<Answer, Problem>
    where
        J: DeserializeOwned + Copy + Send + Sync,
        F: Future<Output = Result<&'static str, Problem>> + Send,
    {
        let mut line = Line::start(self.function, context);
        let left = || time_left(context);
        let request_id = line.request_id().to_owned();
        let work = async {
            let request: Request<J> = read(event, SHAPE)?;
            let invoked = Arc::new(Invoked {
                job: request.job,
                request_id: request_id.clone(),
            });
            let answer = self
                .sweep(&request, left, |row| each(Arc::clone(&invoked), row))
                .await?;
            for row in &answer.failures {
                let FailedRow {
                    user,
                    row,
                    kid,
                    event,
                    reason,
                } = row;
                let function = self.function;
                tracing::error!(
                    function,
                    request_id,
                    user,
                    row,
                    kid,
                    event,
                    reason,
                    "row failed"
                );
            }
            for (outcome, rows) in &answer.counts {
                swept(self.function, outcome, *rows);
            }
            Ok(answer)
        };
        let answer: Result<Answer, Problem> = line.counting(work.boxed()).await;
        let problem = answer.as_ref().err();
        let status = problem.map_or(200, |problem| problem.status().as_u16());
        line.end(status, problem);
        answer
    }

    async fn sweep<J, F>(
        &self,
        request: &Request<J>,
        time_left: impl Fn() -> Duration + Sync,
        each: impl Fn(Arc<Row>) -> F + Sync,
    ) -> Result<Answer, Problem>
    where
        F: Future<Output = Result<&'static str, Problem>> + Send,
    {
        let segment = Segment::new(request.segment, request.total_segments)
            .ok_or_else(|| Problem::invalid_request(format!("Send {SHAPE}.")))?;
        if time_left() <= RESERVE {
            return Err(Problem::internal(
                "the function's timeout leaves no time to work in; it must be well above 15 s",
            ));
        }
        let words = ["scanned", "failed"].iter().chain(self.outcomes);
        let mut answer = Answer {
            segment: request.segment,
            total_segments: request.total_segments,
            cursor: request.cursor,
            done: false,
            counts: words.map(|word| (*word, 0)).collect(),
            failures: Vec::new(),
        };
        let began_at = match request.cursor {
            Some(cursor) => Some(self.place(cursor, segment).await?),
            None => None,
        };
        let mut place = began_at.clone();
        while !answer.done && time_left() > RESERVE {
            let page = match self
                .scanner
                .page(segment, place.as_ref(), self.fields)
                .await
            {
                Ok(page) => page,
                // What is done is answered; the next invocation tries again.
                Err(_) if place != began_at => break,
                Err(error) => return Err(error.into()),
            };
            let rows = page.rows.len();
            let begun = stream::iter(page.rows)
                .take_while(|_| ready(time_left() > RESERVE))
                .map(|row| {
                    let row = Arc::new(row);
                    // On the heap: what a row takes is much, and many are under way.
                    let work = each(Arc::clone(&row)).boxed();
                    async move { (row, timeout(ROW, work).await) }
                });
            let mut ended = pin!(begun.buffered(usize::from(self.concurrency)));
            let mut count = 0;
            while let Some((row, outcome)) = ended.next().await {
                let outcome = outcome.unwrap_or_else(|_| Err(Problem::internal("took too long")));
                self.count(&mut answer, &row, outcome);
                place = Some(row.place().clone());
                count += 1;
            }
            if count == rows {
                answer.done = page.next.is_none();
                place = page.next;
            }
        }
        answer.cursor = match place {
            Some(place) if Some(&place) != began_at.as_ref() => {
                let now = OffsetDateTime::now_utc();
                Some(
                    self.cursors
                        .keep(&place, self.function, segment, now)
                        .await?,
                )
            }
            Some(_) => request.cursor,
            None => None,
        };
        Ok(answer)
    }

    async fn place(&self, cursor: Cursor, segment: Segment) -> Result<Place, Problem> {
        let found = self.cursors.find(cursor, self.function, segment).await?;
        let advice = "There is no such cursor of this segment; leave it out to begin anew.";
        found.ok_or_else(|| Problem::invalid_request(advice))
    }

    fn count(&self, answer: &mut Answer, row: &Row, outcome: Result<&'static str, Problem>) {
        let word = outcome.as_ref().map_or("failed", |word| *word);
        for word in ["scanned", word] {
            *answer.counts.entry(word).or_default() += 1;
        }
        let Err(problem) = outcome else { return };
        if let Some(kind) = problem.event() {
            sealing_failed(self.function, kind);
        }
        if answer.failures.len() < NAMED_MAX {
            let (user, sort_key, kid) = row.name(self.deploy_env);
            answer.failures.push(FailedRow {
                user,
                row: sort_key,
                kid,
                event: problem.event(),
                reason: problem.cause().to_owned(),
            });
        }
    }
}

/// Rows begun one after another in time.
#[derive(Debug)]
pub struct Turns(Option<Mutex<Interval>>);

impl Turns {
    /// So many in a second, at most 1,000; `None` without waiting.
    #[must_use]
    pub fn new(per_second: Option<u16>) -> Self {
        Self(per_second.map(|turns| {
            let mut interval = interval(Duration::from_secs(1) / u32::from(turns.max(1)));
            // What was missed is not made up for: it would come as a burst.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Mutex::new(interval)
        }))
    }

    /// How many of `concurrency` may wait for their turn at once, so that none waits for long.
    #[must_use]
    pub fn abreast(concurrency: u16, per_second: Option<u16>) -> u16 {
        per_second.map_or(concurrency, |turns| {
            concurrency.min(turns.max(1).saturating_mul(WAIT_MAX_S))
        })
    }

    /// Waits for the next one.
    pub async fn turn(&self) {
        if let Some(interval) = &self.0 {
            interval.lock().await.tick().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_for_a_turn_than_a_row_may_take() {
        for (concurrency, per_second, abreast) in [
            (16, None, 16),
            (16, Some(200), 16),
            (16, Some(2), 6),
            (16, Some(1), 3),
            (1, Some(1), 1),
            (16, Some(u16::MAX), 16),
        ] {
            assert_eq!(Turns::abreast(concurrency, per_second), abreast);
        }
        assert!(Duration::from_secs(WAIT_MAX_S.into()) < ROW && ROW < RESERVE);
    }
}

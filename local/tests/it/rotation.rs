//! Every ciphertext moves to a new KMS key, whatever else happens meanwhile.

#![expect(clippy::print_stdout, reason = "a failed run says what repeats it")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_sdk_dynamodb::{config::retry::RetryConfig, types::AttributeValue};
use embedded::Embedded;
use lambda_http::Context;
use local::{app::App, stand_in::StandIn};
use rotate_keys::{Deps, handle};
use serde_json::{Value, json};
use user_api_keys::{
    aws::Aws,
    config::{Config, Pace},
    invocation::deadline_in,
    provider::Provider,
    sweep::Answer,
};

use crate::{
    harness::{call, production},
    people::{Functions, Pair, Slot, by_kms_key},
    wire::{Fault, Wire},
};

const KEYS: &str = "/api/onboarding/api-keys";
/// A race is one when the jobs were killed so often and met writers so often.
const KILLS: u32 = 20;
const SUPERSEDED: u64 = 20;

/// Services with two KMS keys, and the settings of a deploy's two ends.
struct Stage {
    services: Embedded,
    stand_in: StandIn,
    old: String,
    new: String,
}

async fn stage() -> Stage {
    let mut services = Embedded::in_memory().await.unwrap();
    let old = services.kms_key_arn.clone();
    services.new_kms_key().unwrap();
    Stage {
        stand_in: StandIn::start().await.unwrap(),
        new: services.kms_key_arn.clone(),
        old,
        services,
    }
}

impl Stage {
    fn aws(&self) -> Aws {
        Aws::new(&self.services.dynamodb, &self.services.kms)
    }

    fn config(&self, seals: &str, opens_also: &str) -> Config {
        let more = [
            ("KMS_KEY_ARN", seals),
            ("KMS_DECRYPT_KEY_ARNS", opens_also),
            ("OPEN_KEYS_TRUST_CALLER", "true"),
            ("ROTATE_PER_SECOND", "1000"),
            ("ROTATE_CONCURRENCY", "8"),
        ];
        production(&self.services, &self.stand_in, &more)
    }

    /// Before the switch: seals under the old KMS key, opens under the new one, too.
    fn before(&self) -> Config {
        self.config(&self.old, &self.new)
    }

    /// After the switch.
    fn after(&self) -> Config {
        self.config(&self.new, &self.old)
    }

    async fn disable(&self, arn: &str) {
        let disable = self.services.kms.disable_key().key_id(arn);
        disable.send().await.unwrap();
    }
}

fn slots(people: usize, name: &str) -> Vec<Slot> {
    let of = |n: usize| {
        let sub = format!("user_{name}{n:08}");
        Provider::ALL.iter().map(move |&p| (sub.clone(), p))
    };
    (0..people).flat_map(of).collect()
}

fn rewrap(segment: u32, total_segments: u32, cursor: &Value) -> Value {
    json!({"job": "rewrap", "segment": segment, "total_segments": total_segments, "cursor": cursor})
}

/// Invocations that work for `slice` each, until the segment is done.
async fn segment(deps: &Deps, number: u32, total: u32, slice: Duration) -> Vec<Answer> {
    seen_segment(deps, number, total, slice, |_| {}).await
}

/// The same, with each answer seen as it comes.
async fn seen_segment(
    deps: &Deps,
    number: u32,
    total: u32,
    slice: Duration,
    see: impl Fn(&Answer),
) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let mut context = Context::default();
        context.deadline = deadline_in(slice);
        let event = rewrap(number, total, &cursor);
        // What fails is tried again, as Step Functions does it.
        let Ok(answer) = handle(deps, Some(&context), event).await else {
            continue;
        };
        cursor = json!(answer.cursor);
        see(&answer);
        let done = answer.done;
        answers.push(answer);
        if done {
            return answers;
        }
    }
}

/// One pass over two segments, and what it counted.
async fn pass(deps: &Deps, slice: Duration) -> BTreeMap<&'static str, u64> {
    let (one, two) = tokio::join!(segment(deps, 0, 2, slice), segment(deps, 1, 2, slice));
    let mut counts = BTreeMap::new();
    for (word, rows) in one.into_iter().chain(two).flat_map(|a| a.counts) {
        *counts.entry(word).or_default() += rows;
    }
    counts
}

/// Passes until one finds nothing to do.
async fn to_the_end(deps: &Deps) {
    for _ in 0..20 {
        let counts = pass(deps, Duration::from_millis(500)).await;
        if ["rewrapped", "superseded", "failed"].map(|word| counts[word]) == [0; 3] {
            return;
        }
    }
    unreachable!("the rotation does not end")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_moves_and_nothing_else_of_its_row_changes() {
    let stage = stage().await;
    let old = Functions::new(&stage.config(&stage.old, ""), &stage.aws());
    let slots = slots(2, "moves");
    let mut expected = BTreeMap::new();
    for slot in &slots {
        for key in ["the-first-key-0001", "the-second-key-0002"] {
            old.save(slot, key).await.unwrap();
        }
        let pair = Pair {
            current: Some("the-second-key-0002".to_owned()),
            previous: Some("the-first-key-0001".to_owned()),
        };
        expected.insert(slot.clone(), pair);
    }
    let without = |mut item: BTreeMap<String, AttributeValue>| {
        for moved in ["ct", "cmk", "rev", "rewrapped_at"] {
            item.remove(moved);
        }
        format!("{item:?}")
    };
    let rows = async || {
        let scan = stage.services.dynamodb.scan();
        let answer = scan.table_name(&stage.services.table_name).send().await;
        let items = answer.unwrap().items.unwrap().into_iter();
        let mut rows: Vec<_> = items
            .map(|item| without(item.into_iter().collect()))
            .collect();
        rows.sort();
        rows
    };
    let before = rows().await;
    let deps = Deps::new(&stage.after(), &stage.aws());
    let answer = handle(&deps, None, rewrap(0, 1, &Value::Null))
        .await
        .unwrap();
    let shown = json!(answer);
    let keys = 2 * slots.len();
    assert_eq!(
        shown,
        json!({"segment": 0, "total_segments": 1, "done": true, "counts": {"scanned": keys,
            "rewrapped": keys, "superseded": 0, "skipped": 0, "failed": 0}})
    );
    assert_eq!(rows().await, before);
    let only_new = BTreeMap::from([(stage.new.clone(), keys)]);
    assert_eq!(by_kms_key(&stage.services).await, only_new);
    let again = handle(&deps, None, rewrap(0, 1, &Value::Null))
        .await
        .unwrap();
    assert_eq!(
        (again.counts["skipped"], again.counts["rewrapped"]),
        (keys as u64, 0)
    );
    stage.disable(&stage.old).await;
    let new = Functions::new(&stage.config(&stage.new, ""), &stage.aws());
    new.check(&expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_from_before_and_after_the_switch_work_side_by_side() {
    let stage = stage().await;
    let before = App::new(&stage.before(), &stage.aws()).unwrap();
    let after = App::new(&stage.after(), &stage.aws()).unwrap();
    let rotate = Deps::new(&stage.after(), &stage.aws());
    let users = ["user_sidebyside1", "user_sidebyside2"];
    for (n, saves) in [&before, &after, &before, &after].into_iter().enumerate() {
        for user in users {
            let key = format!("AQ.key-of-{user}-{n:04}");
            let body = json!({"provider": "gemini", "api_key": key});
            assert_eq!(
                call(saves, "POST", KEYS, user, &[], Some(body)).await.0,
                200
            );
        }
        for (m, uses) in [&before, &after].into_iter().enumerate() {
            for user in users {
                let body = Some(json!({"prompt": "hello"}));
                let (status, answer) = call(uses, "POST", "/api/generate", user, &[], body).await;
                assert_eq!(status, 200, "{n} {m}: {answer}");
                assert_eq!(answer["credential"]["hint"], format!("{n:04}"));
            }
        }
        to_the_end(&rotate).await;
    }
    // What the deploy in one step would do: what is saved after it does not open before it.
    let blind = App::new(&stage.config(&stage.old, ""), &stage.aws()).unwrap();
    let body = Some(json!({"prompt": "hello"}));
    let (status, answer) = call(&blind, "POST", "/api/generate", users[0], &[], body).await;
    assert_eq!(
        (status, &answer["code"]),
        (500, &json!("internal")),
        "closed, and no detail"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_stops_in_time_and_the_next_one_goes_on_where_it_stopped() {
    let stage = stage().await;
    let old = Functions::new(&stage.before(), &stage.aws());
    let slots = slots(30, "stops");
    for slot in &slots {
        old.save(slot, "a-key-that-moves-0001").await.unwrap();
    }
    let deps = Deps::new(&stage.after(), &stage.aws());
    let answers = segment(&deps, 0, 1, Duration::from_millis(100)).await;
    assert!(answers.len() > 2, "{} invocations", answers.len());
    let (last, others) = answers.split_last().unwrap();
    assert!(others.iter().all(|a| !a.done && a.cursor.is_some()));
    assert!(last.done && last.cursor.is_none());
    let scanned: u64 = answers.iter().map(|a| a.counts["scanned"]).sum();
    let rewrapped: u64 = answers.iter().map(|a| a.counts["rewrapped"]).sum();
    assert_eq!(
        (scanned, rewrapped),
        (slots.len() as u64, slots.len() as u64),
        "each row once"
    );
    // Without the time for any row it says so, and does not go round for ever.
    let mut context = Context::default();
    context.deadline = deadline_in(Duration::ZERO);
    let none = handle(&deps, Some(&context), rewrap(0, 1, &Value::Null)).await;
    assert!(none.is_err());
}

#[tokio::test]
async fn a_cursor_names_nobody_and_is_good_for_its_own_segment_of_its_own_job() {
    let stage = stage().await;
    let old = Functions::new(&stage.before(), &stage.aws());
    for slot in &slots(20, "cursor") {
        old.save(slot, "a-key-among-others-0001").await.unwrap();
    }
    let deps = Deps::new(&stage.after(), &stage.aws());
    let mut context = Context::default();
    context.deadline = deadline_in(Duration::from_millis(100));
    let answer = handle(&deps, Some(&context), rewrap(0, 1, &Value::Null))
        .await
        .unwrap();
    let cursor = json!(answer.cursor);
    let name = cursor.as_str().unwrap();
    let bytes = name
        .bytes()
        .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    assert!(bytes && name.len() == 26, "{name}");
    let said = json!(answer).to_string();
    assert!(!said.contains("user_") && !said.contains("USER#"), "{said}");
    for (segment, total) in [(0, 2), (1, 2)] {
        let problem = handle(&deps, None, rewrap(segment, total, &cursor))
            .await
            .unwrap_err();
        assert_eq!(problem.code().as_str(), "invalid_request");
    }
    let other = check_keys::Deps::new(&stage.after(), &stage.aws()).unwrap();
    let event = json!({"job": "check", "segment": 0, "total_segments": 1, "cursor": cursor});
    let problem = check_keys::handle(&other, None, event).await.unwrap_err();
    assert_eq!(problem.code().as_str(), "invalid_request");
    // As Step Functions does after a lost answer: twice.
    for _ in 0..2 {
        assert!(
            handle(&deps, None, rewrap(0, 1, &cursor))
                .await
                .unwrap()
                .done
        );
    }
}

#[tokio::test]
async fn only_a_schedules_event_is_worked_on() {
    let stage = stage().await;
    let old = Functions::new(&stage.before(), &stage.aws());
    old.save(&slots(1, "event")[0], "a-key-that-stays-0001")
        .await
        .unwrap();
    let deps = Deps::new(&stage.after(), &stage.aws());
    let good = rewrap(0, 1, &Value::Null);
    for (code, field, value) in [
        ("forbidden", "httpMethod", json!("POST")),
        (
            "forbidden",
            "requestContext",
            json!({"http": {"method": "POST"}}),
        ),
        ("forbidden", "headers", json!({})),
        ("invalid_request", "job", json!("check")),
        ("invalid_request", "job", json!("decrypt")),
        ("invalid_request", "segment", json!(1)),
        ("invalid_request", "segment", json!(-1)),
        ("invalid_request", "total_segments", json!(0)),
        ("invalid_request", "total_segments", json!(1_000_001)),
        ("invalid_request", "cursor", json!("not a cursor")),
        ("invalid_request", "cursor", json!({"pk": "USER#x"})),
        // One that was never given, and the form that named a user.
        (
            "invalid_request",
            "cursor",
            json!("01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ),
        (
            "invalid_request",
            "cursor",
            json!("VVNFUiN1c2VyX2FhYWFhYWFhMQpLRVkjZ2VtaW5p"),
        ),
        ("invalid_request", "user_id", json!("user_aaaaaaaa1")),
    ] {
        let mut event = good.clone();
        event[field] = value;
        let problem = handle(&deps, None, event).await.unwrap_err();
        assert_eq!(problem.code().as_str(), code, "{field}");
    }
    for event in [json!([]), json!("rewrap"), json!({}), Value::Null] {
        assert!(handle(&deps, None, event).await.is_err());
    }
    assert_eq!(
        by_kms_key(&stage.services).await.get(&stage.new),
        None,
        "nothing moved"
    );
}

/// Saves, deletes and restores at random in slots of its own until it is enough; what should be there
/// afterwards, and after how many writes.
async fn write(
    functions: [Arc<Functions>; 2],
    mut expected: BTreeMap<Slot, Pair>,
    seed: u64,
    enough: Arc<AtomicBool>,
) -> (BTreeMap<Slot, Pair>, u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let slots: Vec<_> = expected.keys().cloned().collect();
    let mut writes = 0;
    while !enough.load(Ordering::Relaxed) {
        writes += 1;
        // Most of it goes on among a few, where the jobs have something to meet.
        let among = if random.u8(..4) == 0 { slots.len() } else { 12 };
        let slot = &slots[random.usize(..among)];
        let pair = expected.get_mut(slot).unwrap();
        // Mostly with the setting before, so that there is something to move.
        let functions = &functions[usize::from(random.u8(..4) == 0)];
        let outcome = match random.u8(..4) {
            0 => {
                *pair = Pair::default();
                functions.delete(slot).await
            }
            1 if pair.previous.is_some() => match functions.restore(slot).await {
                // It has not been moved yet.
                Err(error) if error == "another write was under way" => Ok(()),
                outcome => {
                    std::mem::swap(&mut pair.current, &mut pair.previous);
                    outcome
                }
            },
            _ => {
                let key = format!("key-{:016x}", random.u64(..));
                pair.previous = pair.current.replace(key.clone());
                functions.save(slot, &key).await
            }
        };
        assert_eq!(outcome, Ok(()), "{slot:?}");
    }
    (expected, writes)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_rotations_that_are_killed_at_random_lose_nothing_that_was_acknowledged() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let stage = stage().await;
    let aws = stage.aws();
    let old = Arc::new(Functions::new(&stage.before(), &aws));
    let new = Arc::new(Functions::new(&stage.after(), &aws));
    let slots = slots(182, "races");
    assert!(slots.len() >= 2_000);
    let enough = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for (n, part) in slots.chunks(slots.len() / 8 + 1).enumerate() {
        let mut expected = BTreeMap::new();
        for slot in part {
            old.save(slot, "the-first-key-of-all").await.unwrap();
            let current = Some("the-first-key-of-all".to_owned());
            expected.insert(
                slot.clone(),
                Pair {
                    current,
                    previous: None,
                },
            );
        }
        let functions = [Arc::clone(&old), Arc::clone(&new)];
        let writing = write(functions, expected, seed + n as u64, Arc::clone(&enough));
        writers.push(writing);
    }
    let writers: Vec<_> = writers.into_iter().map(tokio::spawn).collect();
    let mut kills: u32 = 0;
    let mut random = fastrand::Rng::with_seed(seed);
    let slowly = Pace {
        concurrency: 8,
        per_second: Some(200),
    };
    let mut config = stage.after();
    config.rotate_pace = slowly;
    let deps = Arc::new(Deps::new(&config, &aws));
    let superseded = Arc::new(AtomicU64::new(0));
    let mut rotations: [Option<tokio::task::JoinHandle<()>>; 2] = [None, None];
    while kills < KILLS || superseded.load(Ordering::Relaxed) < SUPERSEDED {
        assert!(kills < 20 * KILLS, "the jobs never meet a writer");
        let which = &mut rotations[random.usize(..2)];
        if let Some(killed) = which.take() {
            killed.abort();
            kills += 1;
        }
        let (deps, superseded) = (Arc::clone(&deps), Arc::clone(&superseded));
        *which = Some(tokio::spawn(async move {
            let see = |answer: &Answer| {
                superseded.fetch_add(answer.counts["superseded"], Ordering::Relaxed);
            };
            let slice = Duration::from_millis(300);
            loop {
                tokio::join!(
                    seen_segment(&deps, 0, 2, slice, see),
                    seen_segment(&deps, 1, 2, slice, see),
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
        tokio::time::sleep(Duration::from_millis(random.u64(1..1_500))).await;
    }
    rotations
        .into_iter()
        .flatten()
        .for_each(|killed| killed.abort());
    enough.store(true, Ordering::Relaxed);
    let mut all = BTreeMap::new();
    let mut writes = 0;
    for writer in writers {
        let (expected, more) = writer.await.unwrap();
        all.extend(expected);
        writes += more;
    }
    println!("{kills} kills, {superseded:?} superseded, {writes} writes");
    to_the_end(&Deps::new(&stage.after(), &aws)).await;
    let rows = by_kms_key(&stage.services).await;
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        [&stage.new],
        "all under the new one"
    );
    stage.disable(&stage.old).await;
    Functions::new(&stage.config(&stage.new, ""), &aws)
        .check(&all)
        .await;
}

/// The same services through wires that can be disturbed, and a patience fit for a test.
async fn disturbed(stage: &Stage) -> (Aws, [Wire; 2]) {
    let attempt = Duration::from_millis(300);
    Wire::between(&stage.services, RetryConfig::adaptive(), Some(attempt)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_ends_whole_through_throttling_failures_and_lost_answers() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let stage = stage().await;
    let old = Functions::new(&stage.before(), &stage.aws());
    let slots = slots(10, "storm");
    let mut expected = BTreeMap::new();
    for slot in &slots {
        let key = format!("key-of-{}-{}", slot.0, slot.1);
        old.save(slot, &key).await.unwrap();
        let current = Some(key);
        expected.insert(
            slot.clone(),
            Pair {
                current,
                previous: None,
            },
        );
    }
    let (aws, wires) = disturbed(&stage).await;
    let deps = Deps::new(&stage.after(), &aws);
    let faults = [
        Fault::Throttled,
        Fault::Failed,
        Fault::Hangs,
        Fault::AnswerHangs,
        Fault::AnswerLost,
    ];
    for (wire, seed) in wires.iter().zip([seed, seed + 1]) {
        wire.storm(&faults, 120, seed);
    }
    let first = pass(&deps, Duration::from_secs(20)).await;
    println!("{first:?}");
    let met: usize = wires.iter().map(Wire::calm).sum();
    assert!(met > 10, "{met} faults are no storm");
    to_the_end(&Deps::new(&stage.after(), &stage.aws())).await;
    stage.disable(&stage.old).await;
    Functions::new(&stage.config(&stage.new, ""), &stage.aws())
        .check(&expected)
        .await;
}

async fn ciphertext(stage: &Stage, (user, provider): &Slot) -> AttributeValue {
    let get = stage.services.dynamodb.get_item();
    let answer = get
        .table_name(&stage.services.table_name)
        .key("pk", AttributeValue::S(format!("USER#{user}")))
        .key("sk", AttributeValue::S(format!("KEY#{provider}")))
        .send()
        .await;
    answer.unwrap().item.unwrap()["ct"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_row_and_a_disabled_kms_key_are_named_and_no_success_is_claimed() {
    let stage = stage().await;
    let old = Functions::new(&stage.before(), &stage.aws());
    let slots = slots(3, "poison");
    for slot in &slots {
        old.save(slot, "a-key-among-others-0001").await.unwrap();
    }
    let (user, provider) = &slots[7];
    let poison = async |name: &str, value: AttributeValue| {
        let update = stage.services.dynamodb.update_item();
        let sort = format!("KEY#{provider}");
        update
            .table_name(&stage.services.table_name)
            .key("pk", AttributeValue::S(format!("USER#{user}")))
            .key("sk", AttributeValue::S(sort))
            .update_expression("SET #name=:value")
            .expression_attribute_names("#name", name)
            .expression_attribute_values(":value", value)
            .send()
            .await
            .unwrap();
    };
    // Somebody else's, moved here.
    poison("ct", ciphertext(&stage, &slots[0]).await).await;
    let deps = Deps::new(&stage.after(), &stage.aws());
    let answer = handle(&deps, None, rewrap(0, 1, &Value::Null))
        .await
        .unwrap();
    let rows = slots.len() as u64;
    assert_eq!(
        (answer.counts["rewrapped"], answer.counts["failed"]),
        (rows - 1, 1)
    );
    let named = &answer.failures[0];
    assert_eq!(named.row, format!("KEY#{provider}"));
    assert!(named.kid.is_some() && named.user.len() == 16, "{named:?}");
    assert_eq!(
        named.reason,
        "ciphertext does not open here (invalid ciphertext)"
    );
    let shown = json!(answer).to_string();
    assert!(!shown.contains(user) && !shown.contains("arn:"), "{shown}");
    for (name, value, reason) in [
        (
            "cmk",
            AttributeValue::S("arn:aws:kms:us-east-1:000000000000:key/other".to_owned()),
            "list",
        ),
        ("cmk", AttributeValue::N("1".to_owned()), "cmk"),
        ("fmt", AttributeValue::S("plain".to_owned()), "format"),
    ] {
        poison(name, value).await;
        let answer = handle(&deps, None, rewrap(0, 1, &Value::Null))
            .await
            .unwrap();
        assert_eq!(
            (answer.counts["skipped"], answer.counts["failed"]),
            (rows - 1, 1)
        );
        assert!(
            answer.failures[0].reason.contains(reason),
            "{:?}",
            answer.failures
        );
    }
    // Half way through, somebody disables the old KMS key.
    let more = self::slots(20, "halfway");
    for slot in &more {
        old.save(slot, "a-key-among-others-0001").await.unwrap();
    }
    let mut context = Context::default();
    context.deadline = deadline_in(Duration::from_millis(100));
    let half = handle(&deps, Some(&context), rewrap(0, 1, &Value::Null))
        .await
        .unwrap();
    assert!(!half.done);
    stage.disable(&stage.old).await;
    let rest = handle(&deps, None, rewrap(0, 1, &json!(half.cursor)))
        .await
        .unwrap();
    assert!(rest.done && rest.counts["failed"] > 0, "{rest:?}");
    assert_eq!(rest.counts["rewrapped"], 0);
    let disabled = rest
        .failures
        .iter()
        .filter(|row| row.reason.contains("disabled"));
    assert!(
        disabled.count() > 0 && rest.failures.len() <= 20,
        "{rest:?}"
    );
}

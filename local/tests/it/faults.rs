//! DynamoDB or KMS stops in the middle of a request: the answer says so, and nothing is half done.

use aws_sdk_dynamodb::config::retry::RetryConfig;
use embedded::Embedded;
use serde_json::{Value, json};

use crate::{
    harness::InProcess,
    wire::{Fault, Wire},
};

const KEYS: &str = "/api/onboarding/api-keys";
const OLD: &str = "AQ.old-key-of-a-person-0001";
const NEW: &str = "AQ.new-key-of-a-person-0002";
/// More than any request makes; a case that reaches it would never end.
const CALLS_MAX: usize = 20;

struct Stage {
    functions: InProcess,
    dynamodb: Wire,
    kms: Wire,
}

/// The functions, with a wire to each service.
async fn stage() -> Stage {
    let services = Embedded::in_memory().await.unwrap();
    let (aws, [dynamodb, kms]) = Wire::between(&services, RetryConfig::standard(), None).await;
    let functions = InProcess::on(services, &aws).await;
    Stage {
        functions,
        dynamodb,
        kms,
    }
}

impl Stage {
    async fn call(
        &self,
        method: &str,
        path: &str,
        user: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        self.functions.call(method, path, user, &[], body).await
    }

    async fn save(&self, user: &str, key: &str) -> (u16, Value) {
        let body = json!({"provider": "gemini", "api_key": key});
        self.call("POST", KEYS, user, Some(body)).await
    }

    /// The hint of the key that pays, and the one a list shows.
    async fn hints(&self, user: &str) -> (Value, Value) {
        let prompt = json!({"prompt": format!("by {user}")});
        let (_, paid) = self.call("POST", "/api/generate", user, Some(prompt)).await;
        let (_, list) = self.call("GET", KEYS, user, None).await;
        let shown = &list["keys"][0]["hint"];
        (paid["credential"]["hint"].clone(), shown.clone())
    }

    /// Does `act` for a new person each time, with `fault` at every call it makes in turn, until it
    /// makes no further one. `act` gets whether the fault hit, the person, and the answer.
    async fn at_every_call(
        &self,
        name: &str,
        wire: &Wire,
        fault: Fault,
        before: impl AsyncFn(&str),
        act: impl AsyncFn(&str) -> (u16, Value),
        after: impl AsyncFn(&str, u16, &Value),
    ) -> usize {
        for calls in 0..CALLS_MAX {
            let user = format!("user_{name}{fault:?}{calls}at{}", wire.address.port());
            before(&user).await;
            wire.arm(calls, fault);
            let (status, answer) = act(&user).await;
            let happened = wire.mend();
            if !happened {
                assert!((200..300).contains(&status), "{user}: {answer}");
                return calls;
            }
            match fault {
                // One lost answer is what the SDK's retries are for.
                Fault::AnswerLost => assert!((200..300).contains(&status), "{user}: {answer}"),
                Fault::StopsBefore | Fault::StopsAfter if status >= 400 => {
                    assert_eq!(
                        (status, &answer["code"]),
                        (503, &json!("temporarily_unavailable")),
                        "{user}"
                    );
                    assert!(answer["retry_after"].as_u64().is_some(), "{user}");
                }
                // What was left to do needed the service no more.
                _ => {}
            }
            after(&user, status, &answer).await;
        }
        unreachable!("{name} makes more than {CALLS_MAX} calls")
    }
}

const FAULTS: [Fault; 3] = [Fault::StopsBefore, Fault::StopsAfter, Fault::AnswerLost];

#[tokio::test(flavor = "multi_thread")]
async fn a_save_that_is_cut_off_anywhere_leaves_the_old_key_or_the_new_one_whole() {
    let stage = stage().await;
    let mut places = 0;
    for wire in [&stage.dynamodb, &stage.kms] {
        for fault in FAULTS {
            places += stage
                .at_every_call(
                    "save",
                    wire,
                    fault,
                    async |user| assert_eq!(stage.save(user, OLD).await.0, 200),
                    async |user| stage.save(user, NEW).await,
                    async |user, status, answer| {
                        let (paid, shown) = stage.hints(user).await;
                        assert_eq!(paid, shown, "{user}: the list and the key agree");
                        assert!(paid == "0001" || paid == "0002", "{user}: {paid}");
                        let (_, list) = stage.call("GET", KEYS, user, None).await;
                        let kept = &list["keys"][0]["previous"]["hint"];
                        let replaced = (paid == "0002").then_some("0001");
                        assert_eq!(kept.as_str(), replaced, "{user}: the other one is kept");
                        if status == 200 {
                            assert_eq!(paid, "0002", "{user}: an acknowledged save is there");
                            assert_eq!(answer["key"]["version"], 2, "{user}: saved once");
                        }
                    },
                )
                .await;
        }
    }
    // Two counts, the row, the check's record and the save itself at DynamoDB, one Encrypt at KMS.
    assert_eq!(places, 3 * (5 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_of_a_named_version_whose_answer_was_lost_is_no_conflict() {
    let stage = stage().await;
    stage.save("user_conflict1", OLD).await;
    let save = async || {
        let body = json!({"provider": "gemini", "api_key": NEW});
        let named = [("if-match", "\"1\"")];
        stage
            .functions
            .call("POST", KEYS, "user_conflict1", &named, Some(body))
            .await
    };
    // Two counts, the row and the check's record come first.
    stage.dynamodb.arm(4, Fault::AnswerLost);
    let (status, saved) = save().await;
    assert!(stage.dynamodb.mend());
    assert_eq!((status, &saved["key"]["version"]), (200, &json!(2)));
    assert_eq!(save().await.0, 412, "the next one is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cut_off_anywhere_changes_both_keys_or_none() {
    let stage = stage().await;
    let restore = format!("{KEYS}/gemini/restore");
    for fault in FAULTS {
        let places = stage
            .at_every_call(
                "restore",
                &stage.dynamodb,
                fault,
                async |user| {
                    for key in [OLD, NEW] {
                        assert_eq!(stage.save(user, key).await.0, 200);
                    }
                },
                async |user| stage.call("POST", &restore, user, None).await,
                async |user, status, _| {
                    let (paid, shown) = stage.hints(user).await;
                    assert_eq!(paid, shown, "{user}: the list and the key agree");
                    let (_, list) = stage.call("GET", KEYS, user, None).await;
                    let key = &list["keys"][0];
                    let both = (&key["hint"], &key["previous"]["hint"], &key["version"]);
                    let done = both == (&json!("0001"), &json!("0002"), &json!(3));
                    let untouched = both == (&json!("0002"), &json!("0001"), &json!(2));
                    assert!(done || untouched, "{user}: {list}");
                    assert!(done || status == 503, "{user}: {status}");
                },
            )
            .await;
        assert_eq!(
            places, 4,
            "the count, two rows, the restore with its record"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_never_used_when_a_service_stops_on_the_way_to_it() {
    let stage = stage().await;
    let mut places = 0;
    for wire in [&stage.dynamodb, &stage.kms] {
        for fault in FAULTS {
            let seen = |user: &str| {
                let calls = stage.functions.stand_in.seen();
                calls.iter().filter(|call| call.prompt == user).count()
            };
            places += stage
                .at_every_call(
                    "generate",
                    wire,
                    fault,
                    async |user| assert_eq!(stage.save(user, OLD).await.0, 200),
                    async |user| {
                        let prompt = json!({"prompt": user});
                        stage
                            .call("POST", "/api/generate", user, Some(prompt))
                            .await
                    },
                    async |user, status, _| {
                        assert_eq!(seen(user), usize::from(status == 200), "{user}");
                        let path = format!("{KEYS}/audit");
                        let (_, trail) = stage.call("GET", &path, user, None).await;
                        let opens = trail.to_string().matches("\"open\"").count();
                        assert!(opens >= seen(user), "{user}: no use without its record");
                    },
                )
                .await;
        }
    }
    // Two counts, the row, the record, the day and the usage at DynamoDB, one Decrypt at KMS.
    assert_eq!(places, 3 * (6 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_changes_something_is_done_or_not_done_and_a_second_try_ends_it() {
    let stage = stage().await;
    let gemini = format!("{KEYS}/gemini");
    let step = "/api/onboarding/step/2/complete";
    for (name, method, path, body) in [
        ("delete", "DELETE", gemini.as_str(), None),
        ("deleteall", "DELETE", KEYS, None),
        ("change", "PATCH", &gemini, Some(json!({"enabled": false}))),
        ("step", "POST", step, Some(json!({"data": {"seen": 1}}))),
    ] {
        for fault in FAULTS {
            let places = stage
                .at_every_call(
                    name,
                    &stage.dynamodb,
                    fault,
                    async |user| assert_eq!(stage.save(user, OLD).await.0, 200),
                    async |user| stage.call(method, path, user, body.clone()).await,
                    async |user, status, _| {
                        let what = format!("{name} {user} {status}");
                        let (_, list) = stage.call("GET", KEYS, user, None).await;
                        let key = &list["keys"][0];
                        let (_, kept) = stage
                            .call("GET", "/api/onboarding/step/2", user, None)
                            .await;
                        let done = match name {
                            "change" => key["enabled"] == false,
                            "step" => kept["data"]["seen"] == 1,
                            _ => key.is_null(),
                        };
                        let untouched = match name {
                            "step" => kept["data"].is_null() && kept["status"] == "pending",
                            _ => key["hint"] == "0001" && key["enabled"] == true,
                        };
                        assert!(done != untouched, "{what}: {list} {kept}");
                        assert!(done || status == 503, "{what}");
                        let (again, _) = stage.call(method, path, user, body.clone()).await;
                        assert!((200..300).contains(&again), "{what}: {again}");
                    },
                )
                .await;
            assert!(
                places >= 3,
                "{name}: count, then record or read, then write"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_and_opening_for_a_back_end_fail_with_503_while_a_service_is_away() {
    let stage = stage().await;
    let user = "user_reading01";
    stage.save(user, OLD).await;
    for path in [
        KEYS,
        "/api/onboarding/api-keys/onboarding",
        "/api/onboarding/api-keys/validate",
        "/api/onboarding/api-keys/audit",
        "/api/onboarding/status",
        "/api/onboarding/init",
    ] {
        stage.dynamodb.arm(0, Fault::StopsBefore);
        let (status, answer) = stage.call("GET", path, user, None).await;
        assert!(stage.dynamodb.mend());
        assert_eq!(
            (status, &answer["code"]),
            (503, &json!("temporarily_unavailable")),
            "{path}"
        );
        assert_eq!(stage.call("GET", path, user, None).await.0, 200, "{path}");
    }
    let event = json!({"token": local::token::sign(user).unwrap(), "providers": ["gemini"], "purpose": "x"});
    let path = "/2015-03-31/functions/open-keys/invocations";
    for wire in [&stage.dynamodb, &stage.kms] {
        wire.arm(0, Fault::StopsBefore);
        let (_, answer) = stage.call("POST", path, user, Some(event.clone())).await;
        assert!(wire.mend());
        assert_eq!(answer["errorType"], "temporarily_unavailable");
    }
    let (_, answer) = stage.call("POST", path, user, Some(event)).await;
    assert_eq!(answer["keys"]["gemini"]["api_key"], OLD);
}

//! Stored keys are asked about at their providers, and people see what came of it.

use aws_sdk_dynamodb::types::AttributeValue;
use check_keys::{Deps, handle, handle_at};
use lambda_http::Context;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use user_api_keys::{aws::Aws, invocation::deadline_in};

use crate::harness::{InProcess, key_for, production};

const KEYS: &str = "/api/onboarding/api-keys";
const PERSON: &str = "user_checked0001";

struct Stage {
    functions: InProcess,
    deps: Deps,
}

async fn stage() -> Stage {
    let functions = InProcess::production().await;
    let more = [("CHECK_PER_SECOND", "500")];
    let config = production(&functions.services, &functions.stand_in, &more);
    let aws = Aws::new(&functions.services.dynamodb, &functions.services.kms);
    let deps = Deps::new(&config, &aws).unwrap();
    Stage { functions, deps }
}

impl Stage {
    async fn save(&self, user: &str, provider: &str, key: &str) {
        let body = json!({"provider": provider, "api_key": key});
        // Unchecked, so that a bad one can be saved, too.
        let path = format!("{KEYS}?check=format");
        let (status, answer) = self
            .functions
            .call("POST", &path, user, &[], Some(body))
            .await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn get(&self, user: &str, path: &str) -> Value {
        self.functions.call("GET", path, user, &[], None).await.1
    }

    /// The key's record as its owner sees it.
    async fn key(&self, user: &str, provider: &str) -> Value {
        let list = self.get(user, KEYS).await;
        let mut keys = list["keys"].as_array().unwrap().iter();
        keys.find(|key| key["provider"] == provider)
            .unwrap()
            .clone()
    }

    /// One job over the whole table, by a clock that is `later`.
    async fn run(&self, job: &str, later: Duration) -> Value {
        let event = json!({"job": job, "segment": 0, "total_segments": 1});
        let clock = || OffsetDateTime::now_utc() + later;
        json!(
            handle_at(&self.deps, None, event, clock)
                .await
                .unwrap()
                .counts
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_bad_keys_become_invalid_and_only_after_a_second_refusal_a_day_later() {
    let stage = stage().await;
    // Every provider with a free check has good keys, bad ones and some nobody can say.
    let checked = [
        "gemini",
        "openai",
        "anthropic",
        "mistral",
        "tavily",
        "firecrawl",
    ];
    let unasked = ["exa", "copilotkit", "serper", "stability", "wavespeed"];
    let mut all = Vec::new();
    for n in 0..9 {
        let user = format!("user_checked{n:08}");
        for provider in checked.into_iter().chain(unasked) {
            let kind = ["good", "bad", "busy"][n % 3];
            let key = key_for(provider, &format!("key-that-is-{kind}-of-{provider}-{n}"));
            stage.save(&user, provider, &key).await;
            all.push((user.clone(), provider, kind));
        }
    }
    let per_kind = 3 * checked.len();
    let counts = json!({"scanned": all.len(), "failed": 0, "valid": per_kind, "invalid": per_kind,
        "unknown": per_kind, "skipped": 9 * unasked.len(), "superseded": 0});
    assert_eq!(stage.run("check", Duration::ZERO).await, counts);
    let see = async |after: &str| {
        for (user, provider, kind) in &all {
            let key = stage.key(user, provider).await;
            let asked = checked.contains(provider);
            let (status, said) = match *kind {
                _ if !asked => ("unverified", Value::Null),
                "good" => ("active", json!("valid")),
                "bad" if after == "twice" => ("invalid", json!("invalid")),
                "bad" => ("unverified", json!("invalid")),
                _ => ("unverified", json!("unknown")),
            };
            assert_eq!(
                (&key["status"], &key["last_check"]),
                (&json!(status), &said),
                "{after} {key}"
            );
            let answered = asked && *kind != "busy";
            assert_eq!(key["checked_at"].is_string(), answered, "{after} {key}");
            assert_eq!(key["last_used_at"], Value::Null, "a check is not a use");
        }
    };
    see("once").await;
    // Too early to count as a second one, even if everything is asked again.
    stage.run("check", Duration::hours(23)).await;
    see("within the day").await;
    let recheck = stage.run("recheck", Duration::hours(25)).await;
    assert_eq!(
        (&recheck["invalid"], &recheck["valid"]),
        (&json!(per_kind), &json!(0))
    );
    assert_eq!(
        recheck["skipped"],
        json!(all.len() - per_kind),
        "only those in doubt are asked"
    );
    see("twice").await;
    let twice = stage.run("recheck", Duration::hours(26)).await;
    assert_eq!(twice["skipped"], json!(all.len()), "no doubt is left");
    let text = format!("{:?}", stage.functions.rows("user_checked00000001").await);
    assert!(
        !text.contains("not valid"),
        "a provider's words are kept nowhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_person_sees_it_everywhere_and_on_the_record_and_a_new_key_starts_anew() {
    let stage = stage().await;
    for provider in ["gemini", "exa", "copilotkit"] {
        let key = key_for(provider, "key-that-went-bad-0001");
        stage.save(PERSON, provider, &key).await;
    }
    stage.run("check", Duration::ZERO).await;
    stage.run("recheck", Duration::days(1)).await;
    assert_eq!(stage.key(PERSON, "gemini").await["status"], "invalid");
    let validated = stage.get(PERSON, &format!("{KEYS}/validate")).await;
    let gemini = &validated["validation_results"]["gemini"];
    assert_eq!(
        (&gemini["valid"], &gemini["status"]),
        (&json!(false), &json!("invalid"))
    );
    assert_eq!(validated["all_valid"], false);
    let step = stage.get(PERSON, "/api/onboarding/step/1/validate").await;
    let text = step.to_string();
    assert!(
        text.contains("Replace your refused keys: Google Gemini"),
        "{text}"
    );
    let trail = stage.get(PERSON, &format!("{KEYS}/audit")).await;
    let mine = |record: &&Value| record["function"] == "check-keys";
    let records: Vec<_> = trail["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter(mine)
        .collect();
    let outcomes: Vec<_> = records.iter().map(|record| &record["outcome"]).collect();
    assert_eq!(outcomes, ["refused", "ok", "refused", "ok"]);
    for record in records {
        assert_eq!(
            (&record["action"], &record["provider"]),
            (&json!("check"), &json!("gemini"))
        );
        assert!(record["kid"].is_string(), "{record}");
    }
    stage.save(PERSON, "gemini", "key-that-is-good-0002").await;
    let key = stage.key(PERSON, "gemini").await;
    assert_eq!(
        (&key["status"], &key["last_check"]),
        (&json!("unverified"), &Value::Null)
    );
    stage.run("check", Duration::ZERO).await;
    assert_eq!(stage.key(PERSON, "gemini").await["status"], "active");
    // A restored one is what it was.
    let path = format!("{KEYS}/gemini/restore");
    assert_eq!(
        stage
            .functions
            .call("POST", &path, PERSON, &[], None)
            .await
            .0,
        200
    );
    assert_eq!(stage.key(PERSON, "gemini").await["status"], "invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_answer_between_two_refusals_ends_the_doubt() {
    let stage = stage().await;
    stage.save(PERSON, "gemini", "key-that-is-bad-0001").await;
    stage.run("check", Duration::ZERO).await;
    let key = stage.key(PERSON, "gemini").await;
    let kid = key["kid"].as_str().unwrap();
    // The provider changes its mind, as the marker hears it.
    let marker = user_api_keys::key_table::KeyMarker::new(
        stage.functions.services.dynamodb.clone(),
        stage.functions.services.table_name.clone(),
    );
    let more = [("OPEN_KEYS_TRUST_CALLER", "true")];
    let config = production(&stage.functions.services, &stage.functions.stand_in, &more);
    let trusted = user_api_keys::auth::TrustedCaller::new(&config).unwrap();
    let user = trusted.user(PERSON).unwrap();
    let lister = user_api_keys::key_table::KeyLister::new(
        stage.functions.services.dynamodb.clone(),
        stage.functions.services.table_name.clone(),
    );
    let record = lister.list(&user).await.unwrap().remove(0);
    assert_eq!(record.kid, kid);
    let (gemini, now) = (
        user_api_keys::provider::Provider::Gemini,
        OffsetDateTime::now_utc(),
    );
    let valid = user_api_keys::provider_check::Verdict::Valid;
    marker
        .checked(&user, gemini, &record, valid, now)
        .await
        .unwrap();
    // A job that read the row before that hears a second refusal: it is too late.
    let invalid = user_api_keys::provider_check::Verdict::Invalid;
    let late = marker
        .checked(&user, gemini, &record, invalid, now + Duration::days(2))
        .await;
    assert!(late.is_err(), "the first refusal is gone");
    stage.run("check", Duration::days(3)).await;
    let key = stage.key(PERSON, "gemini").await;
    assert_eq!(
        (&key["status"], &key["last_check"]),
        (&json!("active"), &json!("invalid"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_paused_expired_or_replaced_are_left_alone() {
    let stage = stage().await;
    stage.save(PERSON, "gemini", "key-that-is-bad-0001").await;
    stage.save(PERSON, "openai", "key-that-is-bad-0001").await;
    stage.save(PERSON, "openai", "key-that-is-good-0002").await;
    let pause = Some(json!({"enabled": false}));
    let path = format!("{KEYS}/gemini");
    assert_eq!(
        stage
            .functions
            .call("PATCH", &path, PERSON, &[], pause)
            .await
            .0,
        200
    );
    let body =
        json!({"provider": "mistral", "api_key": "key-that-is-bad-0003", "expires_in_days": 1});
    let path = format!("{KEYS}?check=format");
    assert_eq!(
        stage
            .functions
            .call("POST", &path, PERSON, &[], Some(body))
            .await
            .0,
        200
    );
    let counts = stage.run("check", Duration::days(2)).await;
    assert_eq!(
        (&counts["scanned"], &counts["skipped"]),
        (&json!(3), &json!(2)),
        "{counts}"
    );
    assert_eq!(counts["valid"], 1, "the key in use alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_open_is_named_with_what_rings() {
    let stage = stage().await;
    stage.save(PERSON, "gemini", "key-that-is-good-0001").await;
    stage
        .save("user_checked0002", "gemini", "key-that-is-good-0002")
        .await;
    let services = &stage.functions.services;
    let key = |user: &str| {
        let pk = AttributeValue::S(format!("USER#{user}"));
        [
            ("pk".to_owned(), pk),
            ("sk".to_owned(), AttributeValue::S("KEY#gemini".to_owned())),
        ]
        .into()
    };
    let get = services
        .dynamodb
        .get_item()
        .table_name(&services.table_name);
    let other = get
        .set_key(Some(key("user_checked0002")))
        .send()
        .await
        .unwrap();
    let update = services
        .dynamodb
        .update_item()
        .table_name(&services.table_name);
    let update = update
        .set_key(Some(key(PERSON)))
        .update_expression("SET ct=:ct");
    let ct = other.item.unwrap()["ct"].clone();
    update
        .expression_attribute_values(":ct", ct)
        .send()
        .await
        .unwrap();
    let event = json!({"job": "check", "segment": 0, "total_segments": 1});
    let answer = handle(&stage.deps, None, event).await.unwrap();
    assert_eq!((answer.counts["valid"], answer.counts["failed"]), (1, 1));
    assert_eq!(answer.failures[0].event, Some("ciphertext_does_not_open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_asked_at_a_polite_rate_and_the_next_invocation_goes_on() {
    let functions = InProcess::production().await;
    let more = [("CHECK_PER_SECOND", "20")];
    let config = production(&functions.services, &functions.stand_in, &more);
    let aws = Aws::new(&functions.services.dynamodb, &functions.services.kms);
    let stage = Stage {
        deps: Deps::new(&config, &aws).unwrap(),
        functions,
    };
    for n in 0..40 {
        let user = format!("user_polite{n:08}");
        stage.save(&user, "gemini", "key-that-is-good-0001").await;
    }
    let mut event = json!({"job": "check", "segment": 0, "total_segments": 1});
    let mut valid = 0;
    for round in 1.. {
        let mut context = Context::default();
        context.deadline = deadline_in(std::time::Duration::from_millis(500));
        let answer = handle(&stage.deps, Some(&context), event.clone())
            .await
            .unwrap();
        let asked = answer.counts["valid"];
        // Half a second's ten, and those whose turn was to come.
        assert!(asked <= 10 + 8 + 1, "{asked} in half a second");
        valid += asked;
        event["cursor"] = json!(answer.cursor);
        if answer.done {
            assert!(round > 1);
            break;
        }
    }
    assert_eq!(valid, 40, "each once");
}

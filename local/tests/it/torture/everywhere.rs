//! One fault at every call of every operation to DynamoDB, KMS and the provider: the answer is in the
//! table of failures and comes in time, nothing is half written, and what was acknowledged is there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aws_sdk_dynamodb::config::retry::RetryConfig;
use embedded::Embedded;
use lambda_http::{Context, RequestExt as _};
use local::{app::App, stand_in::StandIn};
use serde_json::{Value, json};
use tokio::time::timeout;
use user_api_keys::aws::Aws;

use super::{INVOKE, KEYS, Place, key, open_gemini, times};
use crate::{
    harness,
    wire::{Fault, Wire},
};

/// One attempt of the SDK's; on Lambda it is ten times that.
const ATTEMPT: Duration = Duration::from_millis(300);
/// What Lambda gives the function, in seconds.
const LAMBDA: Duration = Duration::from_secs(8);

const FAULTS: [Fault; 10] = [
    Fault::AnswerLost,
    Fault::Garbage,
    Fault::Reset,
    Fault::Throttled,
    Fault::Failed,
    Fault::Slow,
    Fault::StopsBefore,
    Fault::StopsAfter,
    Fault::Hangs,
    Fault::AnswerHangs,
];

/// What a person may hear while something behind us fails, and what that leaves room for.
const FAILURES: [(u64, &str); 5] = [
    (503, "temporarily_unavailable"),
    (502, "provider_unavailable"),
    (429, "provider_rate_limited"),
    // A provider that says 400: what of the request it means is the person's to mend.
    (400, "invalid_request"),
    // A service that answers nonsense.
    (500, "internal"),
];

/// Method, path and body of everything that calls somebody.
fn operations() -> Vec<(&'static str, &'static str, String, Option<Value>)> {
    let new = json!({"provider": "gemini", "api_key": key("new-0002")});
    let prompt = json!({"prompt": "Hello"});
    let researched = json!({"prompt": "Hello", "research": true});
    let at = |path: &str| format!("{KEYS}{path}");
    vec![
        ("save", "POST", at(""), Some(new.clone())),
        ("save, checked", "POST", at("?check=live"), Some(new)),
        ("list", "GET", at(""), None),
        ("in clear", "GET", at("/onboarding"), None),
        ("validate", "GET", at("/validate"), None),
        ("audit", "GET", at("/audit"), None),
        (
            "change",
            "PATCH",
            at("/gemini"),
            Some(json!({"description": "mine"})),
        ),
        ("restore", "POST", at("/gemini/restore"), None),
        ("delete", "DELETE", at("/gemini"), None),
        ("delete all", "DELETE", at(""), None),
        ("generate", "POST", "/api/generate".to_owned(), Some(prompt)),
        (
            "generate, researched",
            "POST",
            "/api/generate".to_owned(),
            Some(researched),
        ),
        ("start", "POST", "/api/onboarding/start".to_owned(), None),
        (
            "complete a step",
            "POST",
            "/api/onboarding/step/2/complete".to_owned(),
            Some(json!({"data": {"website": "https://a.test"}})),
        ),
        ("status", "GET", "/api/onboarding/status".to_owned(), None),
        ("open", "POST", INVOKE.to_owned(), None),
    ]
}

struct Stage {
    app: App,
    calm: App,
    wires: [(&'static str, Wire); 3],
}

impl Stage {
    async fn start() -> (Self, Embedded) {
        let services = Embedded::in_memory().await.unwrap();
        let stand_in = StandIn::start().await.unwrap();
        let retries = RetryConfig::standard();
        let (wired, [dynamodb, kms]) = Wire::between(&services, retries, Some(ATTEMPT)).await;
        let provider = Wire::to(stand_in.address).await;
        let url = format!("http://{}{}", provider.address, stand_in.path());
        let more = [
            ("GEMINI_BASE_URL", url.as_str()),
            ("EXA_BASE_URL", url.as_str()),
        ];
        let app = App::new(&harness::production(&services, &stand_in, &more), &wired);
        let aws = Aws::new(&services.dynamodb, &services.kms);
        let calm = App::new(&harness::production(&services, &stand_in, &[]), &aws);
        let wires = [("dynamodb", dynamodb), ("kms", kms), ("provider", provider)];
        (
            Self {
                app: app.unwrap(),
                calm: calm.unwrap(),
                wires,
            },
            services,
        )
    }

    async fn calm(
        &self,
        method: &str,
        path: &str,
        user: &str,
        body: Option<Value>,
    ) -> (u64, Value) {
        let (status, answer) = harness::call(&self.calm, method, path, user, &[], body).await;
        (status.into(), answer)
    }

    /// As Lambda calls, which ends the function when its time is over.
    async fn call(
        &self,
        method: &str,
        path: &str,
        user: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut context = Context::default();
        // Not what is left to a job, which stops before it: the moment at which Lambda ends it.
        let ends = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + LAMBDA;
        context.deadline = u64::try_from(ends.as_millis()).unwrap();
        let request = harness::request(method, path, user, &[], body);
        harness::answered(&self.app, request.with_lambda_context(context)).await
    }

    /// One fault at the `n`th call of `wire`; whether it happened, and what is wrong.
    async fn one(
        &self,
        operation: &(&str, &str, String, Option<Value>),
        wire: &Wire,
        fault: Fault,
        n: usize,
        user: &str,
    ) -> (bool, Option<String>, String) {
        let (name, method, path, body) = operation;
        let (before, old, exa) = (key("before-0000"), key("old-0001"), key("exa-0003"));
        for (provider, text) in [("gemini", &before), ("gemini", &old), ("exa", &exa)] {
            let body = json!({"provider": provider, "api_key": text});
            assert_eq!(self.calm("POST", KEYS, user, Some(body)).await.0, 200);
        }
        let event = open_gemini(user);
        let body = if path == INVOKE {
            Some(event.clone())
        } else {
            body.clone()
        };
        wire.arm(n, fault);
        let begun = Instant::now();
        let Ok((status, answer)) = timeout(LAMBDA, self.call(method, path, user, body)).await
        else {
            wire.mend();
            return (
                true,
                Some(format!("no answer after {:?}", begun.elapsed())),
                String::new(),
            );
        };
        let happened = wire.mend();
        let said = format!("{status} {answer}");
        let (status, code) = match answer["errorType"].as_str() {
            Some(code) => (500, code),
            None => (
                u64::from(status),
                answer["code"].as_str().unwrap_or_default(),
            ),
        };
        let known = status < 300
            || FAILURES
                .iter()
                .any(|(s, c)| *c == code && (*s == status || path == INVOKE));
        if !known {
            return (
                happened,
                Some(format!("an answer that is in no table: {said}")),
                said,
            );
        }
        if said.contains("arn:")
            || (said.contains(super::CANARY) && !(path == INVOKE && status == 200))
        {
            return (happened, Some(format!("it tells too much: {said}")), said);
        }
        // Now that all is well: what is there is one of what may be, and the list says the same.
        let (_, opened) = self.calm("POST", INVOKE, user, Some(event)).await;
        let current = opened["keys"]["gemini"]["api_key"]
            .as_str()
            .map(str::to_owned);
        let (_, list) = self.calm("GET", KEYS, user, None).await;
        let hint = |text: &str| text[text.len() - 4..].to_owned();
        let shown = list["api_keys"]["gemini"].as_str().map(hint);
        let done = match *name {
            "save" | "save, checked" => Some(Some(key("new-0002"))),
            "restore" => Some(Some(before)),
            "delete" | "delete all" => Some(None),
            _ => None,
        };
        let may = [Some(Some(old)), done.clone()];
        let wrong = if !may.contains(&Some(current.clone())) {
            Some("a key that nobody saved")
        } else if shown != current.as_deref().map(hint) {
            Some("the list says something else")
        } else if status < 300 && done.is_some_and(|done| done != current) {
            Some("an acknowledged write is not there")
        } else {
            None
        };
        let wrong = wrong.map(|wrong| format!("{wrong}: {said} · {current:?} · {list}"));
        (happened, wrong, said)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_call_is_answered_from_the_table_in_time_and_leaves_all_or_nothing() {
    let place = Place::new("everywhere");
    let faults = &FAULTS[..times(3, FAULTS.len())];
    // Several stages side by side: a hung call keeps nobody else waiting.
    let work = operations().into_iter().enumerate().map(|(o, operation)| {
        let faults = faults.to_vec();
        tokio::spawn(async move {
            let (stage, _services) = Stage::start().await;
            let (mut places, mut wrong, mut said) = (BTreeMap::new(), Vec::new(), String::new());
            for (w, (at, wire)) in stage.wires.iter().enumerate() {
                for (f, fault) in faults.iter().enumerate() {
                    for n in 0.. {
                        let user = format!("user_f{o:02}x{w}x{f:02}x{n:04}");
                        let (happened, failed, answer) =
                            stage.one(&operation, wire, *fault, n, &user).await;
                        let what = format!("{}, {fault:?} at call {n} of {at}", operation.0);
                        said.push_str(&format!("{what}: {answer}\n"));
                        wrong.extend(failed.map(|failed| format!("{what}: {failed}")));
                        if !happened {
                            break;
                        }
                        *places.entry(*at).or_insert(0_usize) += 1;
                    }
                }
            }
            (operation.0, places, wrong, said)
        })
    });
    let (mut wrong, mut all, mut said) = (Vec::new(), BTreeMap::new(), String::new());
    for done in futures_util::future::join_all(work).await {
        let (operation, places, failed, answers) = done.unwrap();
        all.insert(operation, places);
        wrong.extend(failed);
        // What open answers to its caller is the key, and rightly so.
        if operation != "open" {
            said.push_str(&answers);
        }
    }
    place.keep("answers", &said);
    place.keep("places", &format!("{all:#?}"));
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    let calls: usize = all.values().flat_map(BTreeMap::values).sum::<usize>() / faults.len();
    assert!(calls >= 60, "every call site was met: {all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_search_leaves_time_for_the_text() {
    let (stage, _services) = Stage::start().await;
    let user = "user_aaaaaaaa1";
    for provider in ["gemini", "exa"] {
        let body = json!({"provider": provider, "api_key": key("hung-0001")});
        assert_eq!(stage.calm("POST", KEYS, user, Some(body)).await.0, 200);
    }
    let (_, provider) = &stage.wires[2];
    provider.arm(0, Fault::Hangs);
    let body = json!({"prompt": "Hello", "research": true});
    let call = stage.call("POST", "/api/generate", user, Some(body));
    let (status, answer) = timeout(LAMBDA, call).await.expect("an answer in time");
    assert!(provider.mend());
    assert_eq!((status, &answer["sources"]), (200, &json!([])), "{answer}");
    assert!(answer["warnings"][0].as_str().is_some(), "{answer}");
}

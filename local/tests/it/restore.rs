//! A key that was replaced stays for a day and can be brought back.

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

use crate::harness::{InProcess, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const RESTORE: &str = "/api/onboarding/api-keys/gemini/restore";
const PERSON: &str = "user_restores001";

async fn save(functions: &InProcess, user: &str, key: &str) {
    let body = json!({"provider": "gemini", "api_key": key});
    assert_eq!(
        functions.call("POST", KEYS, user, &[], Some(body)).await.0,
        200
    );
}

async fn key(functions: &InProcess, user: &str) -> Value {
    let (_, list) = functions.call("GET", KEYS, user, &[], None).await;
    list["keys"][0].clone()
}

async fn restore(functions: &InProcess, user: &str) -> (u16, Value) {
    functions.call("POST", RESTORE, user, &[], None).await
}

#[tokio::test]
async fn the_key_that_was_replaced_comes_back_and_so_does_the_other_one() {
    let functions = InProcess::production().await;
    save(&functions, PERSON, "AQ.the-first-key-0001").await;
    assert_eq!(key(&functions, PERSON).await["previous"], Value::Null);
    assert_eq!(
        restore(&functions, PERSON).await.0,
        409,
        "nothing was replaced"
    );
    save(&functions, PERSON, "AQ.the-second-key-0002").await;
    let second = key(&functions, PERSON).await;
    assert_eq!(second["previous"]["hint"], "0001");
    assert!(
        second["previous"]["kept_until"].as_str().unwrap() > second["updated_at"].as_str().unwrap()
    );
    let (status, answer) = restore(&functions, PERSON).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["status"], "restored");
    assert_eq!(
        (
            &answer["key"]["hint"],
            &answer["key"]["kid"],
            &answer["key"]["version"]
        ),
        (&json!("0001"), &second["previous"]["kid"], &json!(3))
    );
    let prompt = Some(json!({"prompt": "hello"}));
    let (_, paid) = functions
        .call("POST", "/api/generate", PERSON, &[], prompt.clone())
        .await;
    assert_eq!(paid["credential"]["hint"], "0001");
    let first = key(&functions, PERSON).await;
    assert_eq!(
        (&first["hint"], &first["previous"]["hint"]),
        (&json!("0001"), &json!("0002"))
    );
    // DynamoDB deletes by `ttl`: it is on the row of the one that was replaced, and on no key in use.
    for row in functions.rows(PERSON).await {
        let expires = row.contains("\"ttl\"") || row.contains("kept_until");
        if row.contains("\"ct\"") {
            assert_eq!(expires, row.contains("PREV#gemini"), "{row}");
        }
    }
    // A second try of the same restore does not undo it.
    let named = [("if-match", "\"2\"")];
    let (status, _) = functions.call("POST", RESTORE, PERSON, &named, None).await;
    assert_eq!(status, 412);
    let named = [("if-match", "\"3\"")];
    assert_eq!(
        functions
            .call("POST", RESTORE, PERSON, &named, None)
            .await
            .0,
        200
    );
    let (_, paid) = functions
        .call("POST", "/api/generate", PERSON, &[], prompt)
        .await;
    assert_eq!(paid["credential"]["hint"], "0002");
    let (_, trail) = functions
        .call("GET", &format!("{KEYS}/audit"), PERSON, &[], None)
        .await;
    let restores = trail["records"].as_array().unwrap().iter();
    assert_eq!(
        restores
            .filter(|record| record["action"] == "restore")
            .count(),
        2
    );
}

#[tokio::test]
async fn a_delete_takes_both_and_another_person_has_neither() {
    let functions = InProcess::production().await;
    for path in [KEYS, "/api/onboarding/api-keys/gemini"] {
        save(&functions, PERSON, "AQ.the-first-key-0001").await;
        save(&functions, PERSON, "AQ.the-second-key-0002").await;
        assert_eq!(restore(&functions, "user_restores002").await.0, 409);
        assert_eq!(
            functions.call("DELETE", path, PERSON, &[], None).await.0,
            204
        );
        let rows = functions.rows(PERSON).await;
        assert!(!rows.iter().any(|row| row.contains("\"ct\"")), "{path}");
        assert_eq!(restore(&functions, PERSON).await.0, 409, "{path}");
    }
}

#[tokio::test]
async fn after_a_day_it_is_gone_whether_or_not_the_row_is() {
    let functions = InProcess::production().await;
    save(&functions, PERSON, "AQ.the-first-key-0001").await;
    save(&functions, PERSON, "AQ.the-second-key-0002").await;
    let services = &functions.services;
    let update = services.dynamodb.update_item();
    let past = AttributeValue::S("2026-01-01T00:00:00Z".to_owned());
    update
        .table_name(&services.table_name)
        .key("pk", AttributeValue::S(format!("USER#{PERSON}")))
        .key("sk", AttributeValue::S("PREV#gemini".to_owned()))
        .update_expression("SET kept_until=:past")
        .expression_attribute_values(":past", past)
        .send()
        .await
        .unwrap();
    assert_eq!(key(&functions, PERSON).await["previous"], Value::Null);
    let (status, answer) = restore(&functions, PERSON).await;
    assert_eq!((status, &answer["code"]), (409, &json!("no_api_key")));
    assert_eq!(key(&functions, PERSON).await["hint"], "0002");
}

#[tokio::test]
async fn in_local_mode_the_restored_key_is_the_one_that_is_used() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--stand-in"];
    let server = start(&mut command(folder.path(), &args));
    for key in ["AQ.the-first-key-0001", "AQ.the-second-key-0002"] {
        server.save(None, "gemini", key).await;
    }
    let (status, answer) = server.call("POST", RESTORE, None, None).await;
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer["warnings"][0]
            .as_str()
            .unwrap()
            .contains("GEMINI_API_KEY was taken out")
    );
    let env = std::fs::read_to_string(folder.path().join("backend/.env")).unwrap();
    assert!(!env.contains("GEMINI"), "{env}");
    let prompt = Some(json!({"prompt": "hello"}));
    let (_, paid) = server.call("POST", "/api/generate", None, prompt).await;
    assert_eq!(paid["credential"]["hint"], "0001");
}

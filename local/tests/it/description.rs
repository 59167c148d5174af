//! `openapi.json`: current, complete, and its examples are what it says they are.

use std::collections::BTreeSet;

use local::{app::routes, openapi};
use serde_json::{Value, json};
use user_api_keys::problem::Code;

const COMMITTED: &str = include_str!("../../../openapi.json");

fn committed() -> Value {
    serde_json::from_str(COMMITTED).unwrap()
}

#[test]
fn the_committed_description_is_the_one_the_code_makes() {
    let made = openapi::description().unwrap();
    assert!(
        made == COMMITTED,
        "openapi.json is not current; run: cargo run -- openapi > openapi.json"
    );
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let routes: BTreeSet<_> = routes()
        .iter()
        .map(|route| (route.method.as_str().to_lowercase(), route.path.to_owned()))
        .collect();
    let committed = committed();
    let paths = committed["paths"].as_object().unwrap();
    let described: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(|method| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(described, routes);
}

#[test]
fn every_failure_is_described_somewhere_with_its_status() {
    let described = committed()["components"]["responses"].to_string();
    for code in Code::ALL {
        // Of no route: what is not described is not found, and has no methods.
        if *code != Code::MethodNotAllowed {
            assert!(described.contains(code.as_str()), "{}", code.as_str());
        }
    }
}

/// Every example in `value` with the schema it stands under.
fn examples(value: &Value, found: &mut Vec<(Value, Value)>) {
    match value {
        Value::Object(map) => {
            if let Some(example) = map.get("example") {
                found.push((example.clone(), value.clone()));
            }
            if let (Some(schema), Some(Value::Object(examples))) =
                (map.get("schema"), map.get("examples"))
            {
                let values = examples.values().map(|example| example["value"].clone());
                found.extend(values.map(|example| (example, schema.clone())));
            }
            map.values().for_each(|value| examples(value, found));
        }
        Value::Array(all) => all.iter().for_each(|value| examples(value, found)),
        _ => {}
    }
}

#[test]
fn every_example_is_valid_and_every_body_has_one() {
    let committed = committed();
    let mut found = Vec::new();
    examples(&committed, &mut found);
    assert!(found.len() > 40, "{} examples", found.len());
    let wrong = |example: &Value, schema: &Value| {
        let mut whole = json!({"components": committed["components"]});
        for (name, value) in schema.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors = validator.iter_errors(example);
        errors.map(|error| error.to_string()).collect::<Vec<_>>()
    };
    for (example, schema) in &found {
        assert_eq!(wrong(example, schema), [""; 0], "{example}");
    }
    let nobody = json!({"provider": "nobody", "api_key": "x"});
    let save = json!({"$ref": "#/components/schemas/SaveRequest"});
    assert!(!wrong(&nobody, &save).is_empty(), "the check can fail");
    for (path, item) in committed["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let bodies = [&operation["requestBody"], &operation["responses"]["200"]];
            for body in bodies
                .into_iter()
                .filter(|body| body["content"].is_object())
            {
                let schema = &body["content"]["application/json"]["schema"]["$ref"];
                let name = schema.as_str().unwrap().rsplit('/').next().unwrap();
                let schema = &committed["components"]["schemas"][name];
                assert!(schema["example"].is_object(), "{method} {path}: {name}");
            }
        }
    }
}

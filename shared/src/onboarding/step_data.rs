//! What a front end keeps with a step, without the keys that it sends along.

use serde_json::Value;

use super::key_name::{is_a_key, masked, names_a_key};

/// What is named of what was left out, at most.
const NAMED: usize = 20;
/// Characters of a name that are repeated.
const NAME_MAX_CHARS: usize = 60;

/// The data of a step and what the front end found wrong, with no field that is named like a key and no
/// text that is one.
#[derive(Debug, Clone, Default)]
pub struct StepData {
    pub(super) data: Value,
    pub(super) validation_errors: Vec<String>,
    left_out: Vec<String>,
}

impl StepData {
    /// Takes the keys out. In `validation_errors`, which are sentences, a key becomes asterisks.
    #[must_use]
    pub fn without_keys(mut data: Value, validation_errors: Vec<String>) -> Self {
        let mut left_out = Vec::new();
        drop_keys(&mut data, "/data", &mut left_out);
        let mask = |(n, mut text): (usize, String)| {
            let at = format!("/validation_errors/{n}");
            drop_keys_of_json(&mut text, &at, &mut left_out);
            let shown = masked(&text);
            if shown != text {
                left_out.push(at);
            }
            shown
        };
        let errors = validation_errors.into_iter().enumerate();
        let validation_errors = errors.map(mask).collect();
        Self {
            data,
            validation_errors,
            left_out,
        }
    }

    /// What was left out, by JSON pointer into the request; never a value.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let named = self.left_out.iter().take(NAMED);
        let mut warnings: Vec<_> = named
            .map(|pointer| format!("{pointer} is not kept here: save keys under API keys."))
            .collect();
        if let Some(more @ 1..) = self.left_out.len().checked_sub(NAMED) {
            warnings.push(format!("{more} more fields are not kept here."));
        }
        warnings
    }
}

fn drop_keys(data: &mut Value, at: &str, left_out: &mut Vec<String>) {
    let mut stays = |part: &mut Value, pointer: String, named: bool| {
        let stays = !named && !part.as_str().is_some_and(is_a_key);
        match stays {
            true => drop_keys(part, &pointer, left_out),
            false => left_out.push(pointer),
        }
        stays
    };
    match data {
        Value::Object(fields) => fields.retain(|name, part| {
            let pointer = format!("{at}/{}", segment(name));
            stays(part, pointer, names_a_key(name) || is_a_key(name))
        }),
        Value::Array(parts) => {
            let mut n = 0..;
            parts.retain_mut(|part| {
                let pointer = format!("{at}/{}", n.next().unwrap_or(0));
                stays(part, pointer, false)
            });
        }
        Value::String(text) => drop_keys_of_json(text, at, left_out),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Front ends also keep an object as the text of its JSON.
fn drop_keys_of_json(text: &mut String, at: &str, left_out: &mut Vec<String>) {
    let Ok(mut data @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) else {
        return;
    };
    let before = left_out.len();
    drop_keys(&mut data, at, left_out);
    if left_out.len() > before {
        *text = data.to_string();
    }
}

/// A name as RFC 6901 writes it; one that is a key itself is masked.
fn segment(name: &str) -> String {
    let name: String = masked(name).chars().take(NAME_MAX_CHARS).collect();
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_sdk_dynamodb::types::AttributeValue;
    use proptest::{collection::vec, prelude::*, sample::select};
    use serde_json::json;
    use time::OffsetDateTime;

    use super::{super::*, *};

    const CANARY: &str = "canary in no form of a key";
    const NAMES: [&str; 12] = [
        "api_key",
        "apiKeys",
        "OPENAI-KEY",
        "GEMINI_API_KEY",
        "gemini",
        "Hugging Face",
        "refreshToken",
        "client secret",
        "passwordOfMine",
        "keys",
        "\u{feff}x-api-key",
        "react_app_copilotkit_api_key",
    ];

    #[test]
    fn keys_sent_along_are_dropped_wherever_they_stand_and_named() {
        let data = json!({"api_keys": {"gemini": "AQ.x"}, "site": "a.test", "gemini": "AQ.super-secret",
            "deep": [{"API_KEYS": ["AQ.x"], "a/b~key": "AQ.x", "kept": 1}, "AQ.super-secret", "b"],
            "AQ.super-secret": true, "text": "{\"api_key\": \"x\", \"kept\": [2]}", "json": "[ 1 ]"});
        let kept = StepData::without_keys(
            data,
            ["AQ.super-secret is wrong", "x", "{\"apiKey\": \"x\"}"]
                .map(str::to_owned)
                .to_vec(),
        );
        let left = json!({"site": "a.test", "deep": [{"kept": 1}, "b"], "text": "{\"kept\":[2]}", "json": "[ 1 ]"});
        assert_eq!(kept.data, left);
        assert_eq!(kept.validation_errors, ["************ is wrong", "x", "{}"]);
        let warnings = kept.warnings().join("\n");
        assert!(!warnings.contains("AQ."), "{warnings}");
        for pointer in [
            "/data/api_keys",
            "/data/gemini",
            "/data/deep/0/API_KEYS",
            "/data/deep/0/a~1b~0key",
            "/data/deep/1",
            "/data/************",
            "/data/text/api_key",
            "/validation_errors/0",
            "/validation_errors/2/apiKey",
        ] {
            assert!(
                warnings.contains(&format!("{pointer} is not")),
                "{pointer} in {warnings}"
            );
        }
        assert_eq!(kept.warnings().len(), 9);
    }

    #[test]
    fn many_dropped_fields_make_few_warnings() {
        let names = (0..500).map(|n| (format!("token{n}"), json!(n)));
        let kept = StepData::without_keys(Value::Object(names.collect()), Vec::new());
        assert_eq!(kept.data, json!({}));
        let warnings = kept.warnings();
        assert_eq!(warnings.len(), NAMED + 1);
        assert!(warnings[NAMED].starts_with("480 more"));
    }

    #[test]
    fn a_wizards_own_fields_are_kept_as_they_are() {
        let data = json!({"website": "https://a.test", "keywords": ["a key", "tokens"], "key_topics": {"x": 1.5},
            "research_preferences": {"depth": "deep", "auto": true}, "personas": [null, "AQ", "sk-SK"]});
        let kept = StepData::without_keys(data.clone(), vec!["Choose a key topic.".to_owned()]);
        assert_eq!(
            (kept.data.clone(), kept.warnings()),
            (data, Vec::<String>::new())
        );
    }

    /// Any JSON without a key.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let fields = vec(("[a-z_]{0,6}", inner.clone()), 0..4);
            let object = fields.prop_map(|fields| Value::Object(fields.into_iter().collect()));
            prop_oneof![object, vec(inner, 0..4).prop_map(Value::from)]
        })
    }

    /// Puts `planted` somewhere below `data`, by the turns of `way`.
    fn plant(data: Value, name: &str, planted: Value, way: &[u8]) -> Value {
        match way.split_first() {
            None => json!({"before": data, name: planted, "behind": 1}),
            Some((0, way)) => json!({"inside": plant(data, name, planted, way)}),
            Some((1, way)) => json!([1, plant(data, name, planted, way), "x"]),
            Some((_, way)) => json!({"text": plant(data, name, planted, way).to_string()}),
        }
    }

    fn canary(shape: u8, around: Value) -> Value {
        match shape {
            0 => json!(CANARY),
            1 => json!({"value": CANARY, "around": around}),
            2 => json!([around, [CANARY]]),
            _ => json!({CANARY: around}),
        }
    }

    proptest! {
        #[test]
        fn what_stands_under_a_keys_name_is_kept_nowhere(
            data in any_json(), around in any_json(), name in select(&NAMES[..]), spelling in 0_u8..3,
            shape in 0_u8..4, way in vec(0_u8..3, 0..5),
        ) {
            let name = match spelling {
                0 => name.to_owned(),
                1 => name.to_uppercase(),
                _ => name.replace(['_', '-', ' '], "."),
            };
            let sent = plant(data, &name, canary(shape, around), &way);
            prop_assert!(sent.to_string().contains(CANARY));
            let kept = StepData::without_keys(sent, Vec::new());
            let mut session = Session::default();
            let step = StepNumber::parse("2").unwrap();
            session.end(step, Ended::Completed, kept.clone(), OffsetDateTime::UNIX_EPOCH).unwrap();
            let item: HashMap<String, AttributeValue> = serde_dynamo::to_item(&session).unwrap();
            let stored = format!("{item:?}");
            prop_assert!(!stored.contains(CANARY), "{stored}");
            prop_assert!(!kept.warnings().is_empty());
            let again = StepData::without_keys(kept.data.clone(), Vec::new());
            prop_assert_eq!(&again.data, &kept.data, "a second time changes nothing");
            prop_assert!(again.warnings().is_empty());
        }
    }
}

//! A row of the table, whatever stands in it: it opens to the key that was saved or to nothing, and no
//! function falls over it.

use std::{cell::RefCell, collections::HashMap};

use crate::{PERSON, Stack, signed};
use arbitrary::{Arbitrary, Unstructured};
use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use serde_json::{Value, json};

const KEY: &str = "AQ.the-key-that-was-saved-0001";
const NAMES: [&str; 18] = [
    "fmt",
    "ctxv",
    "kid",
    "ct",
    "cmk",
    "ver",
    "rev",
    "hint",
    "status",
    "enabled",
    "expires_at",
    "description",
    "created_at",
    "updated_at",
    "checked_at",
    "last_used_at",
    "rewrapped_at",
    "unknown",
];

#[derive(Debug, Arbitrary)]
enum Attribute {
    Missing,
    Text(String),
    Number(i64),
    Decimal(String),
    Bytes(Vec<u8>),
    Bool(bool),
    Null,
    List(Vec<String>),
    Texts(Vec<String>),
    Map(String, String),
    /// The one that was there, with one byte changed.
    Flipped(u16, u8),
}

#[derive(Debug, Arbitrary)]
struct Input {
    changes: Vec<(u8, Attribute)>,
    previous: bool,
}

type Item = HashMap<String, AttributeValue>;

fn flipped(bytes: &[u8], at: u16, by: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = bytes.len().max(1);
    if let Some(byte) = bytes.get_mut(usize::from(at) % length) {
        *byte ^= by;
    }
    bytes
}

fn change(item: &mut Item, name: &str, to: Attribute) {
    let value = match to {
        Attribute::Missing => {
            item.remove(name);
            return;
        }
        Attribute::Text(text) => AttributeValue::S(text),
        Attribute::Number(n) => AttributeValue::N(n.to_string()),
        Attribute::Decimal(n) => AttributeValue::N(n),
        Attribute::Bytes(bytes) => AttributeValue::B(Blob::new(bytes)),
        Attribute::Bool(is) => AttributeValue::Bool(is),
        Attribute::Null => AttributeValue::Null(true),
        Attribute::List(all) => AttributeValue::L(all.into_iter().map(AttributeValue::S).collect()),
        Attribute::Texts(all) => AttributeValue::Ss(all),
        Attribute::Map(name, value) => AttributeValue::M([(name, AttributeValue::S(value))].into()),
        Attribute::Flipped(at, by) => match item.get(name) {
            Some(AttributeValue::B(bytes)) => {
                AttributeValue::B(Blob::new(flipped(bytes.as_ref(), at, by)))
            }
            Some(AttributeValue::S(text)) => {
                let text = flipped(text.as_bytes(), at, by);
                AttributeValue::S(String::from_utf8_lossy(&text).into_owned())
            }
            _ => return,
        },
    };
    item.insert(name.to_owned(), value);
}

/// A stack and the row as save-keys wrote it.
struct Place {
    stack: Stack,
    row: Item,
}

impl Place {
    fn new() -> Self {
        let stack = Stack::new();
        let body = json!({"provider": "gemini", "api_key": KEY}).to_string();
        let saved = stack.call("POST", "/api/onboarding/api-keys", body.as_bytes());
        assert_eq!(saved.0, 200);
        let read = stack
            .services
            .dynamodb
            .get_item()
            .table_name(&stack.services.table_name);
        let read = read.key("pk", AttributeValue::S(format!("USER#{PERSON}")));
        let read = read.key("sk", AttributeValue::S("KEY#gemini".to_owned()));
        let row = stack.runtime.block_on(read.send()).unwrap().item.unwrap();
        Self { stack, row }
    }

    fn put(&self, item: Item) -> bool {
        let put = self.stack.services.dynamodb.put_item();
        let put = put
            .table_name(&self.stack.services.table_name)
            .set_item(Some(item));
        self.stack.runtime.block_on(put.send()).is_ok()
    }

    fn invoke(&self, function: &str, event: &Value) -> Value {
        let uri = format!("/2015-03-31/functions/{function}/invocations");
        let (status, answer) = self.stack.call("POST", &uri, event.to_string().as_bytes());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new(Place::new());
}

/// One input.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    PLACE.with_borrow_mut(|place| {
        if place.stack.is_worn() {
            *place = Place::new();
        }
        let mut item = place.row.clone();
        for (name, to) in input.changes {
            change(&mut item, NAMES[usize::from(name) % NAMES.len()], to);
        }
        if input.previous {
            item.insert("sk".to_owned(), AttributeValue::S("PREV#gemini".to_owned()));
        }
        // What DynamoDB itself refuses never gets there.
        if !place.put(item) {
            return;
        }
        let keys = "/api/onboarding/api-keys";
        for (method, uri, body) in [
            ("GET", keys.to_owned(), "".to_owned()),
            ("GET", format!("{keys}/onboarding"), "".to_owned()),
            ("GET", format!("{keys}/validate"), "".to_owned()),
            (
                "PATCH",
                format!("{keys}/gemini"),
                r#"{"description":"x"}"#.to_owned(),
            ),
            ("POST", format!("{keys}/gemini/restore"), "".to_owned()),
        ] {
            let (status, answer) = place.stack.call(method, &uri, body.as_bytes());
            // A row that is none of ours is a defect to report; nothing else is.
            assert!(
                status <= 500 || status == 503,
                "{method} {uri}: {status} {answer}"
            );
            assert!(!answer.contains(KEY), "{answer}");
        }
        let event = json!({"token": signed(), "providers": ["gemini"], "purpose": "fuzz"});
        let opened = place.invoke("open-keys", &event);
        if let Some(key) = opened["keys"]["gemini"]["api_key"].as_str() {
            assert_eq!(key, KEY, "another key than the one that was saved");
        }
        for (function, job) in [("rotate-keys", "rewrap"), ("check-keys", "check")] {
            let event = json!({"job": job, "segment": 0, "total_segments": 1});
            let answer = place.invoke(function, &event);
            assert!(answer["errorType"].is_null(), "{answer}");
        }
        place.put(place.row.clone());
    });
}

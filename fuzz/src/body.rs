//! A body on every route that takes one: an answer in the contract's form, never a defect of ours, and
//! never the key again.

use std::cell::RefCell;

use crate::Stack;
use serde_json::Value;

thread_local! {
    static STACK: RefCell<Stack> = RefCell::new(Stack::new());
}

/// One input.
pub fn run(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else {
        return;
    };
    STACK.with_borrow_mut(|stack| {
        if stack.is_worn() {
            *stack = Stack::new();
        }
        let routes = local::app::routes();
        let takes = |method: &str| matches!(method, "POST" | "PATCH");
        let routes: Vec<_> = routes.iter().filter(|r| takes(r.method.as_str())).collect();
        let route = routes[usize::from(*choice) % routes.len()];
        let uri = route
            .path
            .replace("{provider}", "gemini")
            .replace("{n}", "1");
        let (status, answer) = stack.call(route.method.as_str(), &uri, body);
        assert!(status < 500 || status == 502, "{status} {answer}");
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let key = sent["api_key"].as_str().unwrap_or_default();
        // Whoever describes a key with itself is answered with the description.
        let elsewhere = sent["description"]
            .as_str()
            .is_some_and(|text| text.contains(key));
        if key.len() >= 20 && !elsewhere {
            assert!(!answer.contains(key), "{answer}");
        }
    });
}

//! Policies that are a little wider than they should be.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    Error,
    stack::{Call, Stack, list},
    table::Line,
};

/// A policy that is a little wider.
pub(crate) struct Wider {
    pub(crate) what: String,
    pub(crate) policies: Vec<Value>,
    /// The action that was added, if that is what was done.
    pub(crate) added: Option<String>,
}

impl Wider {
    /// Whether an action that was added could be allowed now where it was not, by any resource and
    /// condition of the table: to a statement whose resource or condition no such call can meet, it adds
    /// nothing. Every other change matters.
    pub(crate) fn matters(
        &self,
        stack: &Stack,
        lines: &[Line],
        newly_allowed: impl Fn(Call<'_>) -> bool,
    ) -> Result<bool, Error> {
        let Some(action) = &self.added else {
            return Ok(true);
        };
        for line in lines.iter().filter(|line| possible(action, line)) {
            let requests = line.requests(stack)?;
            if requests
                .iter()
                .any(|(resource, told)| newly_allowed((action, resource, told)))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a call of this action can be told what the line's call is.
fn possible(action: &str, line: &Line) -> bool {
    let (service, name) = action.split_once(':').unwrap_or_default();
    let reads = matches!(name, "GetItem" | "BatchGetItem" | "Query" | "Scan");
    let told = |name| line.told.contains_key(name);
    line.action.starts_with(service)
        && !(reads && (told("return") || told("within")))
        && (reads || !told("select"))
        && !(name == "Scan" && told("pk"))
}

/// Every policy that is a little wider.
pub(crate) fn widened(
    policies: &[Value],
    actions: &BTreeSet<String>,
    others: &[(String, Vec<String>)],
) -> Vec<Wider> {
    let mut all = Vec::new();
    for (p, policy) in policies.iter().enumerate() {
        let of = policy["Statement"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for (s, statement) in of.iter().enumerate() {
            let mut add = |what: String, added: Option<&String>, change: &dyn Fn(&mut Value)| {
                let mut changed = policies.to_vec();
                change(&mut changed[p]["Statement"][s]);
                all.push(Wider {
                    what: format!("{}: {what}", statement["Sid"].as_str().unwrap_or("?")),
                    policies: changed,
                    added: added.cloned(),
                });
            };
            let there = list(&statement["Action"]);
            let denies = statement["Effect"] == "Deny";
            if denies {
                add("removed".to_owned(), None, &|statement| {
                    statement["Effect"] = json!("Allow")
                });
                add("removed, allowing nothing".to_owned(), None, &|statement| {
                    statement["Action"] = json!("none:None")
                });
            }
            let lacking = actions
                .iter()
                .filter(|action| !there.contains(action) && !denies);
            for action in lacking {
                let more: Vec<_> = there.iter().chain([action]).collect();
                add(format!("{action} added"), Some(action), &|statement| {
                    statement["Action"] = json!(more)
                });
            }
            if !denies && statement["Principal"].is_null() {
                add("any resource".to_owned(), None, &|statement| {
                    statement["Resource"] = json!("*")
                });
            }
            for (operator, keys) in statement["Condition"].as_object().into_iter().flatten() {
                for (key, values) in keys.as_object().into_iter().flatten() {
                    add(format!("without {operator} {key}"), None, &|statement| {
                        if let Some(keys) = statement["Condition"][operator].as_object_mut() {
                            keys.remove(key);
                        }
                    });
                    let others = others
                        .iter()
                        .filter(|(name, _)| name == key && operator != "Null");
                    let others = others.flat_map(|(_, others)| others.iter());
                    for other in others.filter(|other| !list(values).contains(other)) {
                        let more: Vec<_> =
                            list(values).into_iter().chain([other.clone()]).collect();
                        add(format!("{key} may be {other}"), None, &|statement| {
                            statement["Condition"][operator][key] = json!(more);
                        });
                    }
                }
            }
        }
    }
    all
}

//! `roles.txt`: calls, and who may make them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, check::ADMINISTRATOR};

/// A line of the table, or a recorded call.
pub(crate) struct Line {
    /// As written, without those who may.
    pub(crate) call: String,
    pub(crate) action: String,
    pub(crate) told: BTreeMap<String, String>,
    pub(crate) may: BTreeSet<String>,
}

#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) roles: Vec<Line>,
    pub(crate) key_policy: Vec<Line>,
    pub(crate) services: BTreeSet<String>,
    /// Condition keys with values that are added to them, one at a time.
    pub(crate) others: Vec<(String, Vec<String>)>,
}

pub(crate) fn read(text: &str, functions: &BTreeSet<String>) -> Result<Expected, Error> {
    let mut sets: Vec<(String, String)> = Vec::new();
    let mut expected = Expected::default();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            section = line;
        } else if section == "[services]" {
            expected.services.insert(line.to_owned());
        } else if let Some(others) = line.strip_prefix("other ") {
            let (key, values) = others.split_once(' ').ok_or("a key without other values")?;
            let values = values.trim().split(',').map(str::to_owned).collect();
            expected.others.push((key.to_owned(), values));
        } else if let Some(set) = line.strip_prefix("set ") {
            let (name, of) = set.split_once(' ').ok_or("a set without attributes")?;
            sets.push((format!("${name}"), of.trim().to_owned()));
        } else {
            let line = parse(line, &sets, functions)?;
            match section {
                "[key policy]" => expected.key_policy.push(line),
                _ => expected.roles.push(line),
            }
        }
    }
    Ok(expected)
}

pub(crate) fn parse(
    line: &str,
    sets: &[(String, String)],
    functions: &BTreeSet<String>,
) -> Result<Line, Error> {
    let (call, may) = line
        .rsplit_once(" : ")
        .ok_or_else(|| format!("nobody is named: {line}"))?;
    let mut words = call.split(' ');
    let action = words.next().unwrap_or_default().to_owned();
    let mut told = BTreeMap::new();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("not name=value: {word}"))?;
        let value = sets
            .iter()
            .fold(value.to_owned(), |value, (set, of)| value.replace(set, of));
        told.insert(name.to_owned(), value);
    }
    let mut named = BTreeSet::new();
    for name in may.split(' ').filter(|name| *name != "nobody") {
        match name {
            "everybody" => named.extend(functions.iter().cloned()),
            ADMINISTRATOR => drop(named.insert(name.to_owned())),
            name if functions.contains(name) => drop(named.insert(name.to_owned())),
            name => return Err(format!("no function is called {name}").into()),
        }
    }
    Ok(Line {
        call: call.to_owned(),
        action,
        told,
        may: named,
    })
}

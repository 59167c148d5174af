//! Text edits of one assignment; everything else stays byte for byte as it was.

use std::ops::Range;

use super::grammar::{Binding, Statement, statements};

/// A byte order mark: python-dotenv takes it for the first character of the first name, Node's dotenv and
/// whoever wrote the file do not.
pub(super) const MARK: char = '\u{feff}';

/// `value` as python-dotenv and Node's dotenv both read it back, or `None`.
pub(super) fn quote(value: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=+@%,".contains(c);
    if value.contains(['\n', '\r', '\0']) || value.contains("${") {
        return None; // python-dotenv expands ${…} whatever the quotes, unless it is told not to.
    }
    if !value.is_empty() && value.chars().all(plain) {
        return Some(value.to_owned());
    }
    // In single quotes only `\\` and `\'` mean something, and only to python-dotenv.
    if !value.contains('\'') && !value.contains("\\\\") && !value.ends_with('\\') {
        return Some(format!("'{value}'"));
    }
    // In double quotes backslash and dollar mean something different to each of them.
    (!value.contains(['"', '\\', '$'])).then(|| format!("\"{value}\""))
}

/// Replaces the value in the last assignment of `name`, or appends one in the file's line ending.
pub(super) fn set(text: &str, name: &str, quoted: &str) -> String {
    let text = without_mark(text, name);
    if let Some((_, last)) = assignments(text, name).pop() {
        let (equals, range) = match last.value {
            Some(value) => ("", value.range),
            None => ("=", last.name_end..last.name_end),
        };
        // Nothing but white space keeps a comment from becoming part of the value.
        let gap = match text[range.end..].starts_with('#') {
            true => " ",
            false => "",
        };
        let (before, after) = (&text[..range.start], &text[range.end..]);
        return format!("{before}{equals}{quoted}{gap}{after}");
    }
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let gap = if text.is_empty() || text.ends_with(['\n', '\r']) {
        ""
    } else {
        ending
    };
    format!("{text}{gap}{name}={quoted}{ending}")
}

/// Removes every assignment of `name`, each with its line ending.
pub(super) fn remove(text: &str, name: &str) -> String {
    let text = without_mark(text, name);
    let mut kept = String::with_capacity(text.len());
    let mut from = 0;
    for (range, _) in assignments(text, name) {
        kept.push_str(&text[from..range.start]);
        from = range.end;
    }
    kept.push_str(&text[from..]);
    kept
}

/// The text without the byte order mark at its start, where without it `name` is its first name.
fn without_mark<'t>(text: &'t str, name: &str) -> &'t str {
    let Some(bare) = text.strip_prefix(MARK) else {
        return text;
    };
    let first = statements(bare).into_iter().next();
    match first.and_then(|statement| statement.read.ok().flatten()) {
        Some(binding) if binding.name == name => bare,
        _ => text,
    }
}

fn assignments(text: &str, name: &str) -> Vec<(Range<usize>, Binding)> {
    let of_name = |Statement { range, read }| {
        let binding: Binding = read.ok()??;
        (binding.name == name).then_some((range, binding))
    };
    statements(text).into_iter().filter_map(of_name).collect()
}

//! Text edits of one assignment; everything else stays byte for byte as it was.

use std::ops::Range;

/// `value` as Rust's, Python's and Node's dotenv libraries all read it back, or `None`.
pub(super) fn quote(value: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=+@%,".contains(c);
    if value.contains(['\n', '\r', '\0']) || value.contains("${") {
        return None; // python-dotenv expands ${…} whatever the quotes.
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
    if let Some(last) = assignments(text, name).pop() {
        return format!(
            "{}{quoted}{}",
            &text[..last.value.start],
            &text[last.value.end..]
        );
    }
    let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let gap = if text.is_empty() || text.ends_with('\n') || text == "\u{feff}" {
        ""
    } else {
        ending
    };
    format!("{text}{gap}{name}={quoted}{ending}")
}

/// Removes every assignment of `name`, each with its line ending.
pub(super) fn remove(text: &str, name: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut from = 0;
    for assignment in assignments(text, name) {
        kept.push_str(&text[from..assignment.line.start]);
        from = assignment.line.end;
    }
    kept.push_str(&text[from..]);
    kept
}

/// Byte ranges of an assignment: the whole line with its ending, and the value in its quotes.
struct Assignment {
    line: Range<usize>,
    value: Range<usize>,
}

fn assignments(text: &str, name: &str) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    while start < text.len() {
        let physical_end = line_end(text, start);
        let Some((assigned, value_start)) = assigned_name(&text[start..physical_end]) else {
            start = physical_end;
            continue;
        };
        let value = value_range(text, start + value_start, physical_end);
        let end = line_end(text, value.end);
        if assigned == name {
            found.push(Assignment {
                line: start..end,
                value,
            });
        }
        start = end;
    }
    found
}

/// Where the line that holds byte `from` ends, its ending included.
fn line_end(text: &str, from: usize) -> usize {
    text[from..]
        .find('\n')
        .map_or(text.len(), |at| from + at + 1)
}

/// The name that a line assigns, and where its value starts.
fn assigned_name(line: &str) -> Option<(&str, usize)> {
    let equals = line.find('=')?;
    let left = line[..equals].trim();
    let name = match left.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => left,
    };
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    let value = line[equals + 1..].trim_start_matches([' ', '\t']);
    is_name.then(|| (name, line.len() - value.len()))
}

/// The value in its quotes, without a trailing comment; a quoted one may span lines.
fn value_range(text: &str, start: usize, physical_end: usize) -> Range<usize> {
    let rest = &text[start..];
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))
        && let Some(end) = closing_quote(rest, quote)
    {
        return start..start + end;
    }
    let line = text[start..physical_end].trim_end_matches(['\r', '\n']);
    let value = match line.find(" #").into_iter().chain(line.find("\t#")).min() {
        Some(comment) => &line[..comment],
        None if line.starts_with('#') => "",
        None => line,
    };
    start..start + value.trim_end().len()
}

/// Just past the quote that closes the one `text` starts with.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

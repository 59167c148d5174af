//! The grammar of python-dotenv's own `parser.py` (1.2), with the place of everything that is read.
//!
//! Each function is one of its regular expressions, and as there one that does not match leaves the
//! reader where it was: from that place the rest of the line is given up, and nothing else.

use std::{borrow::Cow, ops::Range};

/// One assignment, bare name, comment, or text that is none of them.
pub(super) struct Statement {
    /// From the start of its line to behind its last line ending.
    pub(super) range: Range<usize>,
    pub(super) read: Result<Option<Binding>, Unreadable>,
}

/// A name and, where an equals sign follows, its value. No `Debug`: values are keys.
pub(super) struct Binding {
    pub(super) name: String,
    /// Where the name ends, its quotes included.
    pub(super) name_end: usize,
    pub(super) value: Option<Value>,
}

pub(super) struct Value {
    pub(super) text: String,
    /// With its quotes, without a comment behind it.
    pub(super) range: Range<usize>,
}

/// Neither an assignment nor a name alone on its line, or a quote that nothing closes.
#[derive(Debug)]
pub(super) struct Unreadable;

/// Everything in `text` but blank lines, in order.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut reader = Reader { text, at: 0 };
    let mut found = Vec::new();
    loop {
        let from = reader.at;
        reader.skip(is_space);
        if reader.peek().is_none() {
            return found;
        }
        let blank = &text[from..reader.at];
        let start = from + blank.rfind(is_newline).map_or(0, |at| at + 1);
        let read = reader.binding();
        if read.is_err() {
            reader.rest_of_line();
        }
        found.push(Statement {
            range: start..reader.at,
            read,
        });
    }
}

/// As Python reads a text file: every line ending is one `\n`.
fn unified(text: &str) -> Cow<'_, str> {
    match text.contains('\r') {
        true => text.replace("\r\n", "\n").replace('\r', "\n").into(),
        false => text.into(),
    }
}

fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// `\s` of Python: the separators U+001C to U+001F, too.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `[^\S\r\n]`
fn is_blank(c: char) -> bool {
    is_space(c) && !is_newline(c)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Moves on while `skipped` holds, and returns what it passed.
    fn skip(&mut self, skipped: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c| !skipped(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn binding(&mut self) -> Result<Option<Binding>, Unreadable> {
        self.export();
        let name = self.name()?;
        let name_end = self.at;
        self.skip(is_blank);
        let mut value = None;
        if self.peek() == Some('=') {
            self.at += 1;
            self.skip(is_blank);
            value = Some(self.value()?);
        }
        self.comment();
        self.end_of_line()?;
        Ok(name.map(|name| Binding {
            name,
            name_end,
            value,
        }))
    }

    /// `(?:export[^\S\r\n]+)?`
    fn export(&mut self) {
        let behind = self.rest().strip_prefix("export");
        if behind.is_some_and(|rest| rest.starts_with(is_blank)) {
            self.at += "export".len();
            self.skip(is_blank);
        }
    }

    /// `'([^']+)'` or `([^=\#\s]+)`; none where a comment begins.
    fn name(&mut self) -> Result<Option<String>, Unreadable> {
        match self.peek() {
            Some('#') => Ok(None),
            Some('\'') => {
                let inside = &self.rest()[1..];
                let end = inside.find('\'').filter(|end| *end > 0).ok_or(Unreadable)?;
                self.at += end + 2;
                Ok(Some(unified(&inside[..end]).into_owned()))
            }
            _ => {
                let name = self.skip(|c| !is_space(c) && c != '=' && c != '#');
                let name = Some(name).filter(|name| !name.is_empty());
                Ok(Some(name.ok_or(Unreadable)?.to_owned()))
            }
        }
    }

    fn value(&mut self) -> Result<Value, Unreadable> {
        let start = self.at;
        let text = match self.peek() {
            Some('\'') => unescaped(self.quoted('\'')?, single_quoted),
            Some('"') => unescaped(self.quoted('"')?, double_quoted),
            _ => {
                let text = unquoted(self.skip(|c| !is_newline(c)));
                let range = start..start + text.len();
                let text = text.to_owned();
                return Ok(Value { text, range });
            }
        };
        let range = start..self.at;
        Ok(Value { text, range })
    }

    /// `'((?:\\'|[^'])*)'`, and so for `"`. A backslash before a quote keeps it from closing, unless no
    /// other quote follows: the expression then goes back to the last one that it took so.
    fn quoted(&mut self, quote: char) -> Result<&'t str, Unreadable> {
        let inside = &self.rest()[1..];
        let (mut last_escaped, mut backslash) = (None, false);
        for (at, c) in inside.char_indices() {
            match c {
                c if c == quote && !backslash => {
                    self.at += at + 2;
                    return Ok(&inside[..at]);
                }
                c if c == quote => last_escaped = Some(at),
                _ => {}
            }
            backslash = c == '\\';
        }
        let end = last_escaped.ok_or(Unreadable)?;
        self.at += end + 2;
        Ok(&inside[..end])
    }

    /// `(?:[^\S\r\n]*#[^\r\n]*)?`
    fn comment(&mut self) {
        let before = self.at;
        self.skip(is_blank);
        match self.peek() {
            Some('#') => drop(self.skip(|c| !is_newline(c))),
            _ => self.at = before,
        }
    }

    /// `[^\S\r\n]*(?:\r\n|\n|\r|$)`
    fn end_of_line(&mut self) -> Result<(), Unreadable> {
        let before = self.at;
        self.skip(is_blank);
        if self.peek().is_some_and(|c| !is_newline(c)) {
            self.at = before;
            return Err(Unreadable);
        }
        self.newline();
        Ok(())
    }

    /// `[^\r\n]*(?:\r|\n|\r\n)?`
    fn rest_of_line(&mut self) {
        self.skip(|c| !is_newline(c));
        self.newline();
    }

    fn newline(&mut self) {
        let rest = self.rest();
        self.at += match rest.starts_with("\r\n") {
            true => 2,
            false => usize::from(rest.starts_with(is_newline)),
        };
    }
}

/// Up to a `#` behind white space, without the white space at its end.
fn unquoted(part: &str) -> &str {
    let mut after_space = false;
    let comment = part.char_indices().find(|(_, c)| {
        let found = *c == '#' && after_space;
        after_space = is_space(*c);
        found
    });
    let end = comment.map_or(part.len(), |(at, _)| at);
    part[..end].trim_end_matches(is_space)
}

fn unescaped(text: &str, escape: fn(char) -> Option<char>) -> String {
    let text = unified(text);
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match chars.clone().next().filter(|_| c == '\\').and_then(escape) {
            Some(escaped) => {
                plain.push(escaped);
                chars.next();
            }
            None => plain.push(c),
        }
    }
    plain
}

fn single_quoted(c: char) -> Option<char> {
    matches!(c, '\\' | '\'').then_some(c)
}

fn double_quoted(c: char) -> Option<char> {
    Some(match c {
        '\\' | '\'' | '"' => c,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        _ => return None,
    })
}

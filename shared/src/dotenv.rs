//! The developer's `.env` files (Local mode only).
//!
//! Reads as python-dotenv does, and writes by editing one line and leaving every other byte as it was.
//! Knows files and lines; must not know users, tables or KMS.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

mod disk;
mod grammar;
mod line;

/// One `.env` file; the path comes from configuration, never from a request.
#[derive(Debug, Clone)]
pub struct DotenvFile {
    path: PathBuf,
    make_folder: bool,
}

/// Why a file was not read or written. Never holds a line of it.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    /// The folder is not there, so there is no such part of the app here.
    #[error("its folder does not exist")]
    NoFolder,
    /// A symlink, directory, FIFO or device.
    #[error("it is not a regular file")]
    NotAFile,
    /// As Windows PowerShell's `>` writes it.
    #[error("it is UTF-16 text; save it as UTF-8")]
    Utf16,
    /// Not UTF-8.
    #[error("line {0} is not UTF-8 text; save the file as UTF-8")]
    NotText(usize),
    /// No quoting that python-dotenv and Node's dotenv read alike.
    #[error("the value cannot be written so that every dotenv library reads it alike")]
    Unwritable,
    /// The edit would change what another line means.
    #[error("another line leaves a quote open; mend the file by hand")]
    UnsafeEdit,
    /// The system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a file says. No `Debug`: values are keys.
#[derive(Default)]
pub struct Contents {
    /// In order; of several with one name the last counts.
    pub assigned: Vec<Assigned>,
    /// What stands in the way of reading it, by line and without what is there.
    pub complaints: Vec<String>,
}

/// A name and its value.
pub struct Assigned {
    /// As it stands there.
    pub name: String,
    /// `None` for a name without an equals sign, which has no value.
    pub value: Option<String>,
    /// Counted from 1.
    pub line: usize,
}

impl Contents {
    /// Reads the bytes of a file as python-dotenv reads it without interpolation. A statement that
    /// cannot be read is a complaint and costs no other.
    ///
    /// # Errors
    /// [`DotenvError::Utf16`], [`DotenvError::NotText`]
    pub fn parse(bytes: Vec<u8>) -> Result<Self, DotenvError> {
        let text = text(bytes)?;
        let mut contents = Self::default();
        if text.starts_with(line::MARK) {
            contents.complaints.push(
                "line 1 begins with a byte order mark, which python-dotenv takes for part of the first \
                 name; save the file without it"
                    .to_owned(),
            );
        }
        for statement in grammar::statements(&text) {
            let first = line_at(&text, statement.range.start);
            let Ok(binding) = statement.read else {
                let read = text[statement.range.clone()].trim_end();
                let last = line_at(&text, statement.range.start + read.len());
                contents.complaints.push(unreadable(first, last));
                continue;
            };
            contents.assigned.extend(binding.map(|binding| Assigned {
                name: binding.name,
                value: binding.value.map(|value| value.text),
                line: first,
            }));
        }
        Ok(contents)
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let last = self.assigned.iter().rev().find(|one| one.name == name)?;
        last.value.as_deref()
    }
}

fn unreadable(first: usize, last: usize) -> String {
    match first == last {
        true => format!("line {first} cannot be read: it is not NAME=value, or a quote stays open"),
        false => format!("lines {first} to {last} cannot be read: a quote closes in a later line"),
    }
}

/// The number of the line that holds byte `at`.
fn line_at(text: &str, at: usize) -> usize {
    let before = text[..at].replace("\r\n", "\n");
    1 + before.matches(['\n', '\r']).count()
}

fn text(bytes: Vec<u8>) -> Result<String, DotenvError> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(DotenvError::Utf16);
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        DotenvError::NotText(line_at(&String::from_utf8_lossy(valid), valid.len()))
    })
}

impl DotenvFile {
    /// A file whose missing folder is created on the first write.
    #[must_use]
    pub fn creating_folder(path: PathBuf) -> Self {
        Self {
            path,
            make_folder: true,
        }
    }

    /// A file whose missing folder means that there is nothing to keep here.
    #[must_use]
    pub fn in_existing_folder(path: PathBuf) -> Self {
        Self {
            path,
            make_folder: false,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `name`; where it stands several times, the last one counts.
    ///
    /// # Errors
    /// [`DotenvError`]; a missing file is an empty one.
    pub fn get(&self, name: &str) -> Result<Option<String>, DotenvError> {
        Ok(self.contents()?.get(name).map(str::to_owned))
    }

    /// All that it says.
    ///
    /// # Errors
    /// [`DotenvError`]; a missing file is an empty one.
    pub fn contents(&self) -> Result<Contents, DotenvError> {
        match disk::read(&self.path)? {
            Some(found) => Contents::parse(found.bytes),
            None => Ok(Contents::default()),
        }
    }

    /// Sets `name`: edits its last line, or appends one.
    ///
    /// # Errors
    /// [`DotenvError`]; the file is as it was.
    pub fn set(&self, name: &str, value: &str) -> Result<(), DotenvError> {
        let quoted = line::quote(value).ok_or(DotenvError::Unwritable)?;
        self.edit(|text| {
            let edited = line::set(text, name, &quoted);
            only(name, Some(value), text, edited)
        })
    }

    /// Removes every line of `name`; removing nothing is fine and writes nothing.
    ///
    /// # Errors
    /// [`DotenvError`]; the file is as it was.
    pub fn remove(&self, name: &str) -> Result<(), DotenvError> {
        if !self.path.parent().is_some_and(Path::exists) {
            return Ok(());
        }
        self.edit(|text| without(name, text))
    }

    /// Whether [`Self::remove`] would do it, as far as can be told without doing it.
    ///
    /// # Errors
    /// [`DotenvError`], as it would say.
    pub fn could_remove(&self, name: &str) -> Result<(), DotenvError> {
        let Some(found) = disk::read(&self.path)? else {
            return Ok(());
        };
        let text = text(found.bytes)?;
        match without(name, &text)? == text {
            true => Ok(()),
            false => self.could_write(),
        }
    }

    /// Whether it, or its folder, takes a write.
    ///
    /// # Errors
    /// What the system says to one.
    pub fn could_write(&self) -> Result<(), DotenvError> {
        Ok(disk::could_write(&self.path)?)
    }

    /// Whether others on this machine may read it.
    #[must_use]
    pub fn others_read(&self) -> bool {
        disk::read(&self.path).is_ok_and(|found| found.is_some_and(|found| found.mode & 0o044 != 0))
    }

    /// What writers that were killed left beside it, which may hold keys; `ours` are the names whose
    /// values we write. What holds anything that this file does not is a developer's own.
    ///
    /// # Errors
    /// [`DotenvError`]
    pub fn left_behind(&self, ours: &[&str]) -> Result<Vec<PathBuf>, DotenvError> {
        let text = disk::read(&self.path)?.map_or(Ok(String::new()), |found| text(found.bytes))?;
        let is_copy = |left| nothing_else(left, ours, &text);
        Ok(disk::left_behind(&self.path, is_copy)?)
    }

    /// Deletes what [`Self::left_behind`] finds.
    ///
    /// # Errors
    /// [`DotenvError`]
    pub fn clean(&self, ours: &[&str]) -> Result<(), DotenvError> {
        let folder = disk::folder(&self.path);
        if !folder.is_dir() {
            return Ok(());
        }
        // Not while one of them is being written.
        let lock = File::open(&folder)?;
        lock.lock()?;
        for left in self.left_behind(ours)? {
            fs::remove_file(left)?;
        }
        Ok(disk::remove_temporary_folder(&self.path)?)
    }

    fn edit(
        &self,
        change: impl Fn(&str) -> Result<String, DotenvError>,
    ) -> Result<(), DotenvError> {
        let folder = disk::folder(&self.path);
        match (folder.is_dir(), self.make_folder) {
            (true, _) => {}
            (false, true) => fs::create_dir_all(&folder)?,
            (false, false) => return Err(DotenvError::NoFolder),
        }
        // The folder is locked, not the file: a rename replaces the file.
        let lock = File::open(&folder)?;
        lock.lock()?;
        let before = disk::read(&self.path)?;
        let edited = |bytes: &[u8]| {
            let before = text(bytes.to_vec())?;
            let after = change(&before)?;
            Ok::<_, DotenvError>((after != before).then_some(after))
        };
        let bytes = before.as_ref().map_or(&[][..], |found| &found.bytes);
        let Some(after) = edited(bytes)? else {
            return Ok(());
        };
        match disk::replace(&self.path, before.as_ref(), after.as_bytes()) {
            Err(error) if before.is_some() && disk::takes_no_rename(&error) => {
                disk::rewrite(&self.path, edited)?;
            }
            done => done?,
        }
        lock.sync_all()?;
        Ok(())
    }
}

/// `edited`, if in it `name` has this value and all other names are as they were.
fn only(
    name: &str,
    value: Option<&str>,
    before: &str,
    edited: String,
) -> Result<String, DotenvError> {
    let names = |text: &str| {
        let bindings = grammar::statements(text).into_iter();
        let bindings = bindings.filter_map(|statement| statement.read.ok().flatten());
        bindings
            .map(|one| (one.name, one.value.map(|value| value.text)))
            .partition::<Vec<_>, _>(|(n, _)| n.strip_prefix(line::MARK).unwrap_or(n) == name)
    };
    let ((_, others), (ours, after)) = (names(before), names(&edited));
    let holds = match (ours.last(), value) {
        (Some((n, there)), Some(_)) => n == name && there.as_deref() == value,
        (last, wanted) => last.is_none() && wanted.is_none(),
    };
    (holds && others == after)
        .then_some(edited)
        .ok_or(DotenvError::UnsafeEdit)
}

fn without(name: &str, text: &str) -> Result<String, DotenvError> {
    only(name, None, text, line::remove(text, name))
}

/// Whether all in `left` that is not a value of `ours` stands in `text`, too.
fn nothing_else(left: Vec<u8>, ours: &[&str], text: &str) -> bool {
    let Ok(left) = self::text(left) else {
        return false;
    };
    let lines: std::collections::HashSet<_> = text.lines().map(str::trim).collect();
    let foreign = |statement: &grammar::Statement| match &statement.read {
        Ok(Some(binding)) => !ours.contains(&binding.name.as_str()),
        _ => true,
    };
    let mut foreign = grammar::statements(&left).into_iter().filter(foreign);
    foreign.all(|statement| {
        let mut words = left[statement.range].lines().map(str::trim);
        words.all(|line| lines.contains(line))
    })
}

#[cfg(test)]
mod tests;

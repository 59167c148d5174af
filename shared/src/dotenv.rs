//! The developer's `.env` files (Local mode only).
//!
//! Reads with the `dotenvy` library; writes by editing one line and leaving every other byte as it
//! was. Knows files and lines; must not know users, tables or KMS.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

mod line;

/// Mode of a file we create: the developer's alone.
const CREATED_MODE: u32 = 0o600;

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
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// No quoting that Rust's, Python's and Node's dotenv libraries read alike.
    #[error("the value cannot be written so that every dotenv library reads it alike")]
    Unwritable,
    /// The edit would change what another line means.
    #[error("another line leaves a quote open; mend the file by hand")]
    UnsafeEdit,
    /// The system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
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

    /// The value of `name`; where it stands several times, the last one wins.
    ///
    /// # Errors
    /// [`DotenvError`]; a missing file is an empty one.
    pub fn get(&self, name: &str) -> Result<Option<String>, DotenvError> {
        let text = self.read()?.map(|(text, _)| text).unwrap_or_default();
        Ok(pairs(&text)
            .into_iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value))
    }

    /// Sets `name`: edits its last line, or appends one.
    ///
    /// # Errors
    /// [`DotenvError`]; the file is as it was.
    pub fn set(&self, name: &str, value: &str) -> Result<(), DotenvError> {
        let quoted = line::quote(value).ok_or(DotenvError::Unwritable)?;
        self.edit(|text| {
            let edited = line::set(text, name, &quoted);
            let mut others = pairs(text);
            others.retain(|(n, _)| n != name);
            let mut after = pairs(&edited);
            let written = after
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str());
            let holds = written == Some(value);
            after.retain(|(n, _)| n != name);
            (holds && after == others)
                .then_some(edited)
                .ok_or(DotenvError::UnsafeEdit)
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
        self.edit(|text| {
            let edited = line::remove(text, name);
            let mut others = pairs(text);
            others.retain(|(n, _)| n != name);
            (pairs(&edited) == others)
                .then_some(edited)
                .ok_or(DotenvError::UnsafeEdit)
        })
    }

    /// Text and mode; `None` when there is no file.
    fn read(&self) -> Result<Option<(String, Permissions)>, DotenvError> {
        // Looked at before it is opened: opening a FIFO would wait for ever.
        let metadata = match fs::symlink_metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !metadata.is_file() {
            return Err(DotenvError::NotAFile);
        }
        let text = String::from_utf8(fs::read(&self.path)?).map_err(|_| DotenvError::NotText)?;
        Ok(Some((text, metadata.permissions())))
    }

    fn edit(
        &self,
        change: impl FnOnce(&str) -> Result<String, DotenvError>,
    ) -> Result<(), DotenvError> {
        let folder = self.folder()?;
        // The folder is locked, not the file: the rename below replaces the file.
        let lock = File::open(&folder)?;
        lock.lock()?;
        let (before, permissions) = self
            .read()?
            .unwrap_or_else(|| (String::new(), Permissions::from_mode(CREATED_MODE)));
        let after = change(&before)?;
        if after == before {
            return Ok(());
        }
        let mut temporary = tempfile::Builder::new()
            .prefix(".env-")
            .tempfile_in(&folder)?;
        temporary.write_all(after.as_bytes())?;
        temporary.as_file().set_permissions(permissions)?;
        temporary.as_file().sync_all()?;
        temporary.persist(&self.path).map_err(|error| error.error)?;
        lock.sync_all()?;
        Ok(())
    }

    fn folder(&self) -> Result<PathBuf, DotenvError> {
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        match (folder.is_dir(), self.make_folder) {
            (true, _) => {}
            (false, true) => fs::create_dir_all(&folder)?,
            (false, false) => return Err(DotenvError::NoFolder),
        }
        Ok(folder)
    }
}

/// Every assignment in order, as `dotenvy` reads it; lines it cannot read are passed over.
fn pairs(text: &str) -> Vec<(String, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // An error would hold the line, so it is dropped unread.
    dotenvy::from_read_iter(text.as_bytes())
        .filter_map(Result::ok)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn file_with(text: &str) -> (tempfile::TempDir, DotenvFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, text).unwrap();
        (folder, DotenvFile::creating_folder(path))
    }

    fn after_set(text: &str) -> String {
        let (_folder, file) = file_with(text);
        file.set("GEMINI_API_KEY", "new").unwrap();
        fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn only_the_one_line_changes() {
        for (before, after) in [
            ("", "GEMINI_API_KEY=new\n"),
            ("A=1", "A=1\nGEMINI_API_KEY=new\n"),
            ("A=1\r\n", "A=1\r\nGEMINI_API_KEY=new\r\n"),
            (
                "# top\n\nGEMINI_API_KEY=old\nB='x y'\n",
                "# top\n\nGEMINI_API_KEY=new\nB='x y'\n",
            ),
            (
                "GEMINI_API_KEY=old\r\nB=2\r\n",
                "GEMINI_API_KEY=new\r\nB=2\r\n",
            ),
            ("export GEMINI_API_KEY=old\n", "export GEMINI_API_KEY=new\n"),
            (
                "  GEMINI_API_KEY = 'o l d'  # mine\n",
                "  GEMINI_API_KEY = new  # mine\n",
            ),
            ("GEMINI_API_KEY=\n", "GEMINI_API_KEY=new\n"),
            (
                "GEMINI_API_KEY=1\nGEMINI_API_KEY=2\n",
                "GEMINI_API_KEY=1\nGEMINI_API_KEY=new\n",
            ),
            (
                "#GEMINI_API_KEY=old\n",
                "#GEMINI_API_KEY=old\nGEMINI_API_KEY=new\n",
            ),
            (
                "MY_GEMINI_API_KEY=x\n",
                "MY_GEMINI_API_KEY=x\nGEMINI_API_KEY=new\n",
            ),
            (
                "A=\"x\nGEMINI_API_KEY=inside\n\"\n",
                "A=\"x\nGEMINI_API_KEY=inside\n\"\nGEMINI_API_KEY=new\n",
            ),
            (
                "\u{feff}GEMINI_API_KEY=old\n",
                "\u{feff}GEMINI_API_KEY=new\n",
            ),
            ("GEMINI_API_KEY=old", "GEMINI_API_KEY=new"),
        ] {
            assert_eq!(after_set(before), after, "{before:?}");
        }
    }

    #[test]
    fn remove_takes_every_line_of_the_name_and_no_other() {
        let (_folder, file) =
            file_with("A=1\nexport GEMINI_API_KEY=1\n# c\nGEMINI_API_KEY='2'\nB=2");
        file.remove("GEMINI_API_KEY").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "A=1\n# c\nB=2");
        assert_eq!(file.get("GEMINI_API_KEY").unwrap(), None);
    }

    #[test]
    fn the_last_of_several_wins() {
        let (_folder, file) = file_with("A=1\nA=2\n");
        assert_eq!(file.get("A").unwrap().as_deref(), Some("2"));
    }

    #[test]
    fn a_line_break_or_nul_in_a_value_is_refused_and_the_file_is_as_it_was() {
        let (_folder, file) = file_with("A=1\n");
        for value in ["a\nB=2", "a\rb", "a\0b"] {
            assert!(
                matches!(file.set("A", value), Err(DotenvError::Unwritable)),
                "{value:?}"
            );
        }
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "A=1\n");
    }

    #[test]
    fn an_edit_that_would_change_another_line_is_refused() {
        let (_folder, file) = file_with("A='open\nB=2\n");
        assert!(matches!(
            file.set("GEMINI_API_KEY", "new"),
            Err(DotenvError::UnsafeEdit)
        ));
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "A='open\nB=2\n");
    }

    #[test]
    fn a_created_file_is_the_developers_alone_and_a_mode_is_never_widened() {
        let folder = tempfile::tempdir().unwrap();
        let file = DotenvFile::creating_folder(folder.path().join("backend/.env"));
        file.set("A", "1").unwrap();
        let mode =
            |file: &DotenvFile| fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        for kept in [0o400, 0o640] {
            fs::set_permissions(file.path(), Permissions::from_mode(kept)).unwrap();
            file.set("A", &format!("{kept}")).unwrap();
            assert_eq!(mode(&file), kept);
        }
    }

    #[test]
    fn a_missing_folder_is_created_only_where_it_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frontend/.env");
        let file = DotenvFile::in_existing_folder(path);
        assert!(matches!(file.set("A", "1"), Err(DotenvError::NoFolder)));
        assert!(!folder.path().join("frontend").exists());
        assert!(file.remove("A").is_ok());
    }

    #[test]
    fn a_symlink_a_directory_and_a_fifo_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("target"), "A=1\n").unwrap();
        symlink(folder.path().join("target"), folder.path().join("link")).unwrap();
        fs::create_dir(folder.path().join("directory")).unwrap();
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap();
        assert!(made.success());
        for name in ["link", "directory", "fifo"] {
            let file = DotenvFile::creating_folder(folder.path().join(name));
            assert!(
                matches!(file.set("A", "2"), Err(DotenvError::NotAFile)),
                "{name}"
            );
            assert!(
                matches!(file.get("A"), Err(DotenvError::NotAFile)),
                "{name}"
            );
        }
        assert_eq!(
            fs::read_to_string(folder.path().join("target")).unwrap(),
            "A=1\n"
        );
    }

    #[test]
    fn of_many_writers_at_once_none_is_lost() {
        let (_folder, file) = file_with("");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let file = &file;
                scope.spawn(move || {
                    for n in 0..20 {
                        file.set(&format!("KEY_{writer}_{n}"), "v").unwrap();
                    }
                });
            }
        });
        assert_eq!(pairs(&fs::read_to_string(file.path()).unwrap()).len(), 160);
    }

    proptest! {
        #[test]
        fn every_value_that_is_written_reads_back_the_same(value in "[ -~]{0,40}", before in "(A=1|# c|B='x y'|export C=3|)(\r?\n){0,2}") {
            let (_folder, file) = file_with(&before);
            match file.set("GEMINI_API_KEY", &value) {
                Ok(()) => prop_assert_eq!(file.get("GEMINI_API_KEY").unwrap(), Some(value)),
                Err(DotenvError::Unwritable) => {
                    prop_assert!(value.contains(['\'', '\\', '$']), "refused {:?}", value);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }

        #[test]
        fn setting_and_removing_gives_back_the_same_bytes(before in "((A=1|# c|B='x y'|export C=3|)(\r?\n)){0,6}") {
            let (_folder, file) = file_with(&before);
            file.set("GEMINI_API_KEY", "new").unwrap();
            file.remove("GEMINI_API_KEY").unwrap();
            prop_assert_eq!(fs::read_to_string(file.path()).unwrap(), before);
        }
    }
}

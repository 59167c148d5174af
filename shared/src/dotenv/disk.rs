//! How a `.env` file gets its bytes: a new file renamed over it, or where that cannot be its own bytes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, OFlags, linkat},
    io::Errno,
    process::geteuid,
};

use super::DotenvError;

/// Mode of a file we create, and of every temporary one: the developer's alone.
const CREATED_MODE: u32 = 0o600;
/// Folder of the one temporary file, which has `.env`'s own name: what keeps `.env` out of a repository
/// keeps it out, too, be that `.env`, `.env.*` or `*.env`.
const TEMPORARY: &str = ".env.user-api-keys";
/// Temporary files of earlier versions: this, and six random letters and digits.
const EARLIER: &str = ".env-";

/// A regular file. No `Debug`: there are keys in it.
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    owner: u32,
}

impl Found {
    fn is_ours(&self) -> bool {
        self.owner == geteuid().as_raw()
    }
}

/// `None` when there is no file. Follows no link, and does not wait for the other end of a FIFO.
pub(super) fn read(path: &Path) -> Result<Option<Found>, DotenvError> {
    match open(OpenOptions::new().read(true), path) {
        Err(DotenvError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => Ok(Some(found(&opened?)?)),
    }
}

fn open(options: &mut OpenOptions, path: &Path) -> Result<File, DotenvError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = options.custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => DotenvError::NotAFile,
        _ => error.into(),
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(DotenvError::NotAFile),
    }
}

fn found(mut file: &File) -> io::Result<Found> {
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Found {
        bytes,
        mode: metadata.mode() & 0o7777,
        owner: metadata.uid(),
    })
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn temporary(path: &Path) -> PathBuf {
    folder(path)
        .join(TEMPORARY)
        .join(path.file_name().unwrap_or_default())
}

/// Renames a new file over the old one, which has its mode in the end; a reader sees the one or the other.
pub(super) fn replace(path: &Path, before: Option<&Found>, bytes: &[u8]) -> io::Result<()> {
    // A rename would make the file ours.
    if before.is_some_and(|found| !found.is_ours()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    remove_temporary(path)?;
    let temporary = temporary(path);
    let renamed = written(&temporary, bytes).and_then(|file| {
        fs::rename(&temporary, path)?;
        Ok(file)
    });
    let removed = remove_temporary(path);
    let file = renamed?;
    removed?;
    match before {
        Some(found) => file.set_permissions(Permissions::from_mode(found.mode)),
        None => Ok(()),
    }
}

/// A file with these bytes, on disk. Where the system can, it gets its name only then, so that a kill at
/// any earlier time leaves nothing behind.
fn written(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let place = folder(path);
    DirBuilder::new().mode(0o700).create(&place)?;
    let write = |mut file: File| {
        file.set_permissions(Permissions::from_mode(CREATED_MODE))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok::<_, io::Error>(file)
    };
    let unnamed = write(tempfile::tempfile_in(&place)?)?;
    let descriptor = format!("/proc/self/fd/{}", unnamed.as_raw_fd());
    match linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(unnamed),
        Err(_) => {
            let mut options = OpenOptions::new();
            write(
                options
                    .write(true)
                    .create_new(true)
                    .mode(CREATED_MODE)
                    .open(path)?,
            )
        }
    }
}

/// Never through a link.
fn remove_temporary(path: &Path) -> io::Result<()> {
    if !is_folder(&folder(&temporary(path))) {
        return Ok(());
    }
    match fs::remove_file(temporary(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => remove_temporary_folder(path),
    }
}

/// Where it is empty.
pub(super) fn remove_temporary_folder(path: &Path) -> io::Result<()> {
    let place = folder(&temporary(path));
    match is_folder(&place) {
        true => fs::remove_dir(place),
        false => Ok(()),
    }
}

fn is_folder(place: &Path) -> bool {
    fs::symlink_metadata(place).is_ok_and(|place| place.is_dir())
}

/// Whether the file cannot be renamed over, and may take bytes all the same: a mount point, such as a
/// file that Docker binds, or a folder that is not ours to write.
pub(super) fn takes_no_rename(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ReadOnlyFilesystem, ResourceBusy};
    matches!(
        error.kind(),
        CrossesDevices | PermissionDenied | ReadOnlyFilesystem | ResourceBusy
    )
}

/// Writes over the bytes of the file; `edited` gives the new text, or `None` for no change.
pub(super) fn rewrite(
    path: &Path,
    edited: impl FnOnce(&[u8]) -> Result<Option<String>, DotenvError>,
) -> Result<(), DotenvError> {
    let file = open(OpenOptions::new().read(true).write(true), path)?;
    // Another writer may know it in another folder.
    file.lock()?;
    let before = found(&file)?.bytes;
    let Some(after) = edited(&before)? else {
        return Ok(());
    };
    let written = overwrite(&file, before.len(), after.as_bytes());
    if written.is_err() {
        // A full disk has room for what was there.
        overwrite(&file, after.len(), &before)?;
    }
    Ok(written?)
}

/// In one write. Where the file gets shorter, blank lines stand behind the new text until it is cut.
fn overwrite(file: &File, len_before: usize, bytes: &[u8]) -> io::Result<()> {
    let mut padded = bytes.to_vec();
    padded.resize(len_before.max(bytes.len()), b'\n');
    file.write_all_at(&padded, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// Whether a change has a chance: the file takes bytes, or its folder a new file.
pub(super) fn could_write(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ACCESS) => {}
        Err(error) => return Err(error),
    }
    let place = folder(path);
    let mut there = place.ancestors().filter(|folder| folder.is_dir());
    let there = there.next().unwrap_or(Path::new("."));
    tempfile::tempfile_in(there).map(drop)
}

/// What killed writers left beside `path`: the temporary file, and such as earlier versions made.
pub(super) fn left_behind(
    path: &Path,
    is_copy: impl Fn(Vec<u8>) -> bool,
) -> io::Result<Vec<PathBuf>> {
    let temporary = temporary(path);
    let mut left = Vec::new();
    if is_folder(&self::folder(&temporary)) && temporary.exists() {
        left.push(temporary);
    }
    let folder = folder(path);
    if !folder.is_dir() {
        return Ok(left);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_of_earlier(&entry.file_name().to_string_lossy()) {
            continue;
        }
        if let Ok(Some(found)) = read(&entry.path())
            && found.is_ours()
            && is_copy(found.bytes)
        {
            left.push(entry.path());
        }
    }
    Ok(left)
}

/// Six letters and digits as chance has them; `backup`, `Docker` and `stage2` are a developer's words.
fn is_of_earlier(name: &str) -> bool {
    let Some(random) = name.strip_prefix(EARLIER) else {
        return false;
    };
    let inner = random.get(1..).unwrap_or_default();
    let digits_first = random
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .contains(|c: char| c.is_ascii_digit());
    let mixed = inner.contains(|c: char| c.is_ascii_uppercase())
        && random.contains(|c: char| c.is_ascii_lowercase());
    random.len() == 6
        && random.bytes().all(|b| b.is_ascii_alphanumeric())
        && (mixed || digits_first)
}

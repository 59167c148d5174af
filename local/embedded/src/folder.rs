//! What the embedded services keep on disk: a lock, the KMS key material and the database.
//!
//! A file that is damaged or missing its partner is named and nothing is touched: a new KMS key
//! beside an old database would close every key in it for ever.
//!
//! Whoever can change the folder can put a KMS key there that they know, and whoever can make a link in it
//! can have us write elsewhere. So the folder and its files must be ours, changed by nobody else and no
//! links; with that established, what opens them by name later (SQLite) finds the same files.

use std::{
    fs::{DirBuilder, File, Permissions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fchmod, fstat, openat},
    io::Errno,
    process::geteuid,
};
use serde::{Deserialize, Serialize};

use crate::{StartError, kms::Key, service};

/// Version of `kms.json`; read for ever.
const FORMAT: u32 = 1;
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// An AES-256 key.
const MATERIAL_BYTES: usize = 32;
const DATABASE: &str = "dynamodb.sqlite";
const KMS_KEYS: &str = "kms.json";
/// How a file's name begins until it is whole.
const NEW: &str = ".new-";
/// What SQLite puts beside it, with the same mode.
const BESIDE_DATABASE: [&str; 3] = [
    "dynamodb.sqlite-wal",
    "dynamodb.sqlite-shm",
    "dynamodb.sqlite-journal",
];
const NOT_FOLLOWED: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC);
/// Never waits for the other end of a FIFO.
const FILE: OFlags = NOT_FOLLOWED.union(OFlags::RDWR).union(OFlags::NONBLOCK);

const A_LINK: &str = "is a link, which is not followed: give what it leads to";
const NOT_A_FOLDER: &str = "is no folder";
const NOT_A_FILE: &str = "is no regular file";
const FOREIGN: &str = "belongs to another user (chown)";
const WRITABLE: &str = "can be changed by other users: look at what is in it, then chmod go-w";

/// A locked data folder.
pub(crate) struct Folder {
    path: PathBuf,
    itself: File,
    _lock: File,
}

/// `kms.json`. No `Debug`: it holds key material.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: String,
    material: String,
    /// Disabled: every row has moved to a newer key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retired: bool,
}

impl Folder {
    /// Creates the folder if need be and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let (itself, path) = folder(path)?;
        let (lock, _) = file(&itself, &path, "lock", OFlags::CREATE)?;
        match lock.try_lock() {
            Ok(()) => {
                remove_new(&path)?;
                Ok(Self {
                    path,
                    itself,
                    _lock: lock,
                })
            }
            Err(TryLockError::WouldBlock) => Err(StartError::InUse(path)),
            Err(TryLockError::Error(source)) => Err(StartError::File { path, source }),
        }
    }

    /// The database's file, made if need be; refused when it is not one.
    pub(crate) fn database(&self) -> Result<PathBuf, StartError> {
        for name in BESIDE_DATABASE {
            self.existing(name)?;
        }
        let (file, path) = file(&self.itself, &self.path, DATABASE, OFlags::CREATE)?;
        let mut start = Vec::new();
        if let Err(source) = file.take(16).read_to_end(&mut start) {
            return Err(StartError::File { path, source });
        }
        // Empty: made, and then the process ended before the first write.
        match start.is_empty() || start == SQLITE_MAGIC {
            true => Ok(path),
            false => Err(StartError::Damaged(path)),
        }
    }

    /// The saved KMS keys, oldest first; a new one, saved first, when the folder is empty.
    pub(crate) fn kms_keys(&self) -> Result<Vec<Key>, StartError> {
        let path = self.path.join(KMS_KEYS);
        let Some(mut file) = self.existing(KMS_KEYS)? else {
            if self.existing(DATABASE)?.is_some() {
                return Err(StartError::KmsKeyMissing(path));
            }
            let keys = vec![Key::first()?];
            self.save_kms_keys(&keys)?;
            return Ok(keys);
        };
        let mut bytes = Vec::new();
        match file.read_to_end(&mut bytes) {
            Ok(_) => parse(&bytes).ok_or(StartError::Damaged(path)),
            Err(source) => Err(StartError::File { path, source }),
        }
    }

    fn existing(&self, name: &str) -> Result<Option<File>, StartError> {
        match file(&self.itself, &self.path, name, OFlags::empty()) {
            Ok((file, _)) => Ok(Some(file)),
            Err(StartError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes all of them; the file is the old one or the new one, never less.
    pub(crate) fn save_kms_keys(&self, keys: &[Key]) -> Result<(), StartError> {
        let stored = |key: &Key| StoredKey {
            id: key.id.clone(),
            material: STANDARD.encode(&key.material),
            retired: key.retired,
        };
        let stored = Stored {
            format: FORMAT,
            keys: keys.iter().map(stored).collect(),
        };
        let stored = serde_json::to_vec_pretty(&stored).map_err(service)?;
        replace(&self.itself, &self.path, KMS_KEYS, &stored)?;
        Ok(())
    }
}

/// Puts a file into a folder of ours, which is made if need be, for its owner alone; a file or a link that
/// is there under its name is replaced. Where it is now.
///
/// # Errors
/// When the folder is not ours alone, or cannot be written.
pub fn write_private(path: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, StartError> {
    let (folder, path) = folder(path)?;
    replace(&folder, &path, name, bytes)
}

/// The file is the old one or the new one, never less.
fn replace(folder: &File, path: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, StartError> {
    let to = path.join(name);
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(NEW)
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(path)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(&to).map_err(|error| error.error)?;
        folder.sync_all()
    };
    match write() {
        Ok(()) => Ok(to),
        Err(source) => Err(StartError::File { path: to, source }),
    }
}

/// Takes away what a start that was killed while it wrote left here: it may hold key material.
fn remove_new(path: &Path) -> Result<(), StartError> {
    let remove = || {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            // As it was called before: six random letters.
            let old = name.len() == 10 && name.starts_with(b".tmp");
            if name.starts_with(NEW.as_bytes()) || old {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}

/// Opens a folder that is ours alone to change, made if need be.
fn folder(path: &Path) -> Result<(File, PathBuf), StartError> {
    // A slash at the end would follow a link.
    let mut path: PathBuf = path.components().collect();
    if path.as_os_str().is_empty() {
        path.push(".");
    }
    let failed = |source: std::io::Error| StartError::File {
        path: path.clone(),
        source,
    };
    let mut new = DirBuilder::new();
    match new.recursive(true).mode(0o700).create(&path) {
        // What is there is looked at below.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if path.is_symlink() {
        return Err(not_ours(&path, A_LINK));
    }
    let flags = NOT_FOLLOWED.union(OFlags::DIRECTORY);
    let opened = openat(CWD, &path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR => not_ours(&path, NOT_A_FOLDER),
        error => failed(error.into()),
    })?;
    let folder = File::from(opened);
    let stat = fstat(&folder).map_err(|error| failed(error.into()))?;
    ours(&stat, &path)?;
    Ok((folder, path))
}

/// Opens a file of ours in `folder`, for its owner alone from now on.
fn file(
    folder: &File,
    path: &Path,
    name: &str,
    more: OFlags,
) -> Result<(File, PathBuf), StartError> {
    let path = path.join(name);
    let failed = |error: Errno| StartError::File {
        path: path.clone(),
        source: error.into(),
    };
    let owner_alone = Mode::RUSR.union(Mode::WUSR);
    let opened = openat(folder.as_fd(), name, FILE.union(more), owner_alone);
    let opened = opened.map_err(|error| match error {
        Errno::LOOP => not_ours(&path, A_LINK),
        Errno::ISDIR | Errno::NXIO => not_ours(&path, NOT_A_FILE),
        error => failed(error),
    })?;
    let stat = fstat(&opened).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_ours(&path, NOT_A_FILE));
    }
    ours(&stat, &path)?;
    if Mode::from_raw_mode(stat.st_mode) != owner_alone {
        fchmod(&opened, owner_alone).map_err(failed)?;
    }
    Ok((File::from(opened), path))
}

/// Whether it is ours, and nobody else could have changed it.
fn ours(stat: &Stat, path: &Path) -> Result<(), StartError> {
    let others = Mode::WGRP.union(Mode::WOTH);
    if stat.st_uid != geteuid().as_raw() {
        return Err(not_ours(path, FOREIGN));
    }
    match Mode::from_raw_mode(stat.st_mode).intersects(others) {
        true => Err(not_ours(path, WRITABLE)),
        false => Ok(()),
    }
}

fn not_ours(path: &Path, why: &'static str) -> StartError {
    StartError::NotOurs {
        path: path.to_owned(),
        why,
    }
}

/// Every key of the file, oldest first; `None` when any of it is not as it was written.
fn parse(bytes: &[u8]) -> Option<Vec<Key>> {
    let stored: Stored = serde_json::from_slice(bytes).ok()?;
    if stored.format != FORMAT {
        return None;
    }
    let key = |key: StoredKey| {
        let material = STANDARD.decode(key.material).ok()?;
        let sound = material.len() == MATERIAL_BYTES && uuid::Uuid::parse_str(&key.id).is_ok();
        sound.then_some(Key {
            id: key.id,
            material,
            retired: key.retired,
        })
    };
    let keys: Vec<_> = stored.keys.into_iter().map(key).collect::<Option<_>>()?;
    // The newest one seals.
    keys.last().is_some_and(|key| !key.retired).then_some(keys)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{chown, symlink},
        process::Command,
    };

    use super::*;

    /// What opening does with a folder that was prepared so.
    fn opened(prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<(), String>) {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("data");
        fs::create_dir(&folder).unwrap();
        prepare(&folder);
        let done = open(&folder);
        (place, done)
    }

    /// As [`crate::Embedded::in_folder`] does.
    fn open(path: &Path) -> Result<(), String> {
        let open = || {
            let folder = Folder::open(path)?;
            folder.kms_keys()?;
            folder.database()
        };
        open().map(drop).map_err(|error| error.to_string())
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    const FILES: [&str; 6] = [
        "lock",
        KMS_KEYS,
        DATABASE,
        BESIDE_DATABASE[0],
        BESIDE_DATABASE[1],
        BESIDE_DATABASE[2],
    ];

    #[test]
    fn a_link_in_a_files_place_is_refused_and_what_it_leads_to_stays() {
        for name in FILES {
            for there in [true, false] {
                let (place, done) = opened(|folder| {
                    let victim = folder.with_file_name("victim");
                    if there {
                        fs::write(&victim, "precious").unwrap();
                    }
                    symlink(&victim, folder.join(name)).unwrap();
                });
                let said = done.unwrap_err();
                assert!(said.contains(name) && said.contains("is a link"), "{said}");
                let victim = fs::read_to_string(place.path().join("victim"));
                assert_eq!(victim.ok(), there.then(|| "precious".to_owned()), "{name}");
            }
        }
    }

    #[test]
    fn what_is_in_the_lock_file_stays() {
        let (place, done) = opened(|folder| fs::write(folder.join("lock"), "precious").unwrap());
        assert_eq!(done, Ok(()));
        let lock = place.path().join("data/lock");
        assert_eq!(fs::read_to_string(lock).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused_however_it_is_written() {
        let (place, _) = opened(|_| {});
        let link = place.path().join("link");
        symlink(place.path().join("data"), &link).unwrap();
        for written in ["link", "link/", "link/.", "./link//"] {
            let said = open(&place.path().join(written)).unwrap_err();
            assert!(said.contains("is a link"), "{written}: {said}");
        }
        fs::write(place.path().join("file"), "").unwrap();
        let said = open(&place.path().join("file")).unwrap_err();
        assert!(said.contains("no folder"), "{said}");
    }

    #[test]
    fn what_others_may_change_is_refused() {
        for bits in [0o020, 0o002, 0o022] {
            let (_place, done) = opened(|folder| chmod(folder, 0o700 | bits));
            assert!(done.unwrap_err().contains("chmod go-w"), "{bits:o}");
            for name in FILES {
                let (_place, done) = opened(|folder| {
                    open(folder).unwrap();
                    let file = folder.join(name);
                    fs::OpenOptions::new()
                        .create(true)
                        .append(true)
                        .open(&file)
                        .unwrap();
                    chmod(&file, 0o600 | bits);
                });
                let said = done.unwrap_err();
                assert!(said.contains(name) && said.contains("chmod go-w"), "{said}");
            }
        }
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let (_place, done) = opened(|folder| chown(folder, Some(65_534), None).unwrap());
        assert!(done.unwrap_err().contains("belongs to another user"));
        for name in FILES {
            let (_place, done) = opened(|folder| {
                open(folder).unwrap();
                let file = folder.join(name);
                fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&file)
                    .unwrap();
                chown(&file, Some(65_534), None).unwrap();
            });
            let said = done.unwrap_err();
            assert!(
                said.contains(name) && said.contains("another user"),
                "{said}"
            );
        }
    }

    #[test]
    fn a_fifo_or_a_folder_in_a_files_place_is_refused_without_waiting() {
        for name in FILES {
            let (_place, done) = opened(|folder| {
                let made = Command::new("mkfifo").arg(folder.join(name)).status();
                chmod(&folder.join(name), 0o600);
                assert!(made.unwrap().success());
            });
            assert!(done.unwrap_err().contains("no regular file"), "{name}");
            let (_place, done) = opened(|folder| fs::create_dir(folder.join(name)).unwrap());
            assert!(done.unwrap_err().contains("no regular file"), "{name}");
        }
    }

    #[test]
    fn files_that_others_could_read_are_the_owners_alone_afterwards() {
        let (place, done) = opened(|folder| {
            open(folder).unwrap();
            for name in ["lock", KMS_KEYS, DATABASE] {
                chmod(&folder.join(name), 0o644);
            }
        });
        assert_eq!(done, Ok(()));
        for name in ["lock", KMS_KEYS, DATABASE] {
            assert_eq!(mode(&place.path().join("data").join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn what_a_killed_start_left_half_written_is_gone_at_the_next() {
        let (place, done) = opened(|folder| {
            open(folder).unwrap();
            for name in [".new-a1B2c3", ".tmpa1B2c3", ".tmp-of-somebody-else"] {
                fs::write(folder.join(name), "material").unwrap();
            }
        });
        assert_eq!(done, Ok(()));
        let there = |name| place.path().join("data").join(name).exists();
        assert!(!there(".new-a1B2c3") && !there(".tmpa1B2c3"));
        assert!(there(".tmp-of-somebody-else") && there(KMS_KEYS));
    }

    #[test]
    fn a_private_file_replaces_a_link_and_asks_the_folder_to_be_ours() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("new/data");
        let path = write_private(&folder, "settings", b"secret").unwrap();
        assert_eq!((mode(&path), mode(&folder)), (0o600, 0o700));
        let victim = place.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        write_private(&folder, "settings", b"secret").unwrap();
        assert!(!path.is_symlink());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        chmod(&folder, 0o777);
        assert!(write_private(&folder, "settings", b"secret").is_err());
    }
}

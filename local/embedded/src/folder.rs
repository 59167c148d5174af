//! What the embedded services keep on disk: a lock, the KMS key material and the database.
//!
//! A file that is damaged or missing its partner is named and nothing is touched: a new KMS key
//! beside an old database would close every key in it for ever.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{StartError, kms::Key};

/// Version of `kms.json`; read for ever.
const FORMAT: u32 = 1;
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// An AES-256 key.
const MATERIAL_BYTES: usize = 32;

/// A locked data folder.
pub(crate) struct Folder {
    path: PathBuf,
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
        let failed = |source| StartError::File {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StartError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The database's file; refused when it is not one.
    pub(crate) fn database(&self) -> Result<PathBuf, StartError> {
        let path = self.path.join("dynamodb.sqlite");
        let mut start = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(16)
                    .read_to_end(&mut start)
                    .map_err(|source| StartError::File {
                        path: path.clone(),
                        source,
                    })?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path),
            Err(source) => return Err(StartError::File { path, source }),
        };
        // Empty: made, and then the process ended before the first write.
        match start.is_empty() || start == SQLITE_MAGIC {
            true => Ok(path),
            false => Err(StartError::Damaged(path)),
        }
    }

    /// The saved KMS keys, oldest first; a new one, saved first, when the folder is empty.
    pub(crate) fn kms_keys(&self) -> Result<Vec<Key>, StartError> {
        let path = self.kms_file();
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes).ok_or(StartError::Damaged(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if self.path.join("dynamodb.sqlite").exists() {
                    return Err(StartError::KmsKeyMissing(path));
                }
                let keys = vec![Key::first()?];
                self.save_kms_keys(&keys)?;
                Ok(keys)
            }
            Err(source) => Err(StartError::File { path, source }),
        }
    }

    /// Writes all of them; the file is the old one or the new one, never less.
    pub(crate) fn save_kms_keys(&self, keys: &[Key]) -> Result<(), StartError> {
        let path = self.kms_file();
        self.replace(&path, keys)
            .map_err(|source| StartError::File { path, source })
    }

    fn kms_file(&self) -> PathBuf {
        self.path.join("kms.json")
    }

    fn replace(&self, path: &Path, keys: &[Key]) -> std::io::Result<()> {
        let stored = |key: &Key| StoredKey {
            id: key.id.clone(),
            material: STANDARD.encode(&key.material),
            retired: key.retired,
        };
        let stored = Stored {
            format: FORMAT,
            keys: keys.iter().map(stored).collect(),
        };
        let mut file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&self.path)?;
        file.write_all(&serde_json::to_vec_pretty(&stored)?)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(&self.path)?.sync_all()
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

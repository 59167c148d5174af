//! The embedded KMS: rustack's cryptography and checks over a key store we can save.
//!
//! rustack's own provider keeps its key store private, so nothing could put a key back at start.
//! Each of the operations we use is handed to rustack's public parts; nothing is decided about
//! ciphertexts here.

use std::sync::Arc;

use chrono::Utc;
use hyper::{StatusCode, body::Bytes};
use rustack_kms_core::{
    ciphertext, crypto,
    key::{KeyMaterial, KmsKey},
    resolve::resolve_key_id,
    state::KmsStore,
    validation,
};
use rustack_kms_model::{
    error::{KmsError, KmsErrorCode},
    input::{DecryptInput, DisableKeyInput, EnableKeyInput, EncryptInput, ReEncryptInput},
    output::{DecryptResponse, EncryptResponse, ReEncryptResponse},
    types::{EncryptionAlgorithmSpec, KeySpec, KeyState, KeyUsageType, OriginType},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{REGION, StartError, services::Answer};

/// What `X-Amz-Target` begins with.
pub(crate) const TARGET: &str = "TrentService.";
/// What KMS' `Encrypt` takes; rustack takes anything.
const PLAINTEXT_MAX_BYTES: usize = 4_096;
/// The account rustack answers with.
const ACCOUNT: &str = "000000000000";
/// Id of a folder's first KMS key.
const FIRST_ID: &str = "00000000-0000-4000-8000-000000000001";

/// A KMS key as `kms.json` keeps it. No `Debug`: it holds key material.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) material: Vec<u8>,
    /// Disabled after a rotation; it opens nothing any more.
    pub(crate) retired: bool,
}

impl Key {
    /// The first key of a folder: its id is always the same.
    pub(crate) fn first() -> Result<Self, StartError> {
        let key = Self::generate()?;
        let id = FIRST_ID.to_owned();
        Ok(Self { id, ..key })
    }

    /// A new 256-bit key.
    pub(crate) fn generate() -> Result<Self, StartError> {
        match crypto::generate_key_material(&KeySpec::SymmetricDefault) {
            Ok(KeyMaterial::Symmetric { key }) => Ok(Self {
                id: uuid::Uuid::new_v4().to_string(),
                material: key,
                retired: false,
            }),
            _ => Err(StartError::Service("no random KMS key".to_owned())),
        }
    }

    pub(crate) fn arn(&self) -> String {
        KmsKey::build_arn(ACCOUNT, REGION, &self.id)
    }

    fn into_stored(self) -> KmsKey {
        let key_state = match self.retired {
            true => KeyState::Disabled,
            false => KeyState::Enabled,
        };
        KmsKey {
            arn: self.arn(),
            key_id: self.id,
            account_id: ACCOUNT.to_owned(),
            region: REGION.to_owned(),
            key_spec: KeySpec::SymmetricDefault,
            key_usage: KeyUsageType::EncryptDecrypt,
            key_state,
            description: String::new(),
            enabled: !self.retired,
            creation_date: Utc::now(),
            deletion_date: None,
            pending_deletion_window_in_days: None,
            origin: OriginType::AwsKms,
            multi_region: false,
            policy: String::new(),
            tags: std::collections::HashMap::new(),
            rotation_enabled: false,
            rotation_period_in_days: None,
            key_material: KeyMaterial::Symmetric { key: self.material },
            encryption_algorithms: vec![EncryptionAlgorithmSpec::SymmetricDefault],
            signing_algorithms: Vec::new(),
            mac_algorithms: Vec::new(),
        }
    }
}

/// The KMS keys that are served now.
#[derive(Clone)]
pub(crate) struct Keys(Arc<KmsStore>);

impl Keys {
    pub(crate) fn new(keys: &[Key]) -> Self {
        let served = Self(Arc::new(KmsStore::new(
            ACCOUNT.to_owned(),
            REGION.to_owned(),
        )));
        keys.iter().for_each(|key| served.put(key.clone()));
        served
    }

    /// Adds a key, or puts it in the place of its former state.
    pub(crate) fn put(&self, key: Key) {
        self.0.put_key(key.into_stored());
    }
}

/// Answers one call.
pub(crate) fn answer(keys: &Keys, operation: &str, body: &[u8]) -> Answer {
    match call(&keys.0, operation, body) {
        Ok(body) => Answer {
            status: StatusCode::OK,
            body: body.into(),
        },
        Err(error) => Answer::failure(error.status_code, error.error_type(), &error.message),
    }
}

fn call(store: &KmsStore, operation: &str, body: &[u8]) -> Result<Vec<u8>, KmsError> {
    match operation {
        "Encrypt" => written(&encrypt(store, &read(body)?)?),
        "Decrypt" => written(&decrypt(store, &read(body)?)?),
        "ReEncrypt" => written(&re_encrypt(store, &read(body)?)?),
        "EnableKey" => {
            let input: EnableKeyInput = read(body)?;
            enable(store, &input.key_id, true)
        }
        "DisableKey" => {
            let input: DisableKeyInput = read(body)?;
            enable(store, &input.key_id, false)
        }
        other => Err(KmsError::not_implemented(other)),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, KmsError> {
    serde_json::from_slice(body)
        .map_err(|_| KmsError::with_message(KmsErrorCode::ValidationException, "malformed request"))
}

fn written(output: &impl Serialize) -> Result<Vec<u8>, KmsError> {
    serde_json::to_vec(output).map_err(|_| KmsError::internal_error("no answer"))
}

/// A key that is there, enabled and meant for encryption, and its bytes.
fn usable(store: &KmsStore, key: &str) -> Result<(KmsKey, Vec<u8>), KmsError> {
    let id = resolve_key_id(store, key)?;
    let key = store.get_key(&id).ok_or_else(|| {
        KmsError::with_message(KmsErrorCode::NotFoundException, "no such KMS key")
    })?;
    validation::validate_key_enabled(&key)?;
    validation::validate_key_usage(&key, &KeyUsageType::EncryptDecrypt)?;
    match key.key_material.clone() {
        KeyMaterial::Symmetric { key: bytes } => Ok((key, bytes)),
        _ => Err(KmsError::with_message(
            KmsErrorCode::InvalidKeyUsageException,
            "not a symmetric KMS key",
        )),
    }
}

fn encrypt(store: &KmsStore, input: &EncryptInput) -> Result<EncryptResponse, KmsError> {
    if !(1..=PLAINTEXT_MAX_BYTES).contains(&input.plaintext.len()) {
        return Err(KmsError::with_message(
            KmsErrorCode::ValidationException,
            "plaintext is 1 to 4096 bytes",
        ));
    }
    let (key, bytes) = usable(store, &input.key_id)?;
    let blob = crypto::symmetric_encrypt(
        &key.key_id,
        &bytes,
        &input.plaintext,
        &input.encryption_context,
    )?;
    Ok(EncryptResponse {
        ciphertext_blob: Some(Bytes::from(blob)),
        key_id: Some(key.arn),
        encryption_algorithm: Some(EncryptionAlgorithmSpec::SymmetricDefault),
    })
}

fn decrypt(store: &KmsStore, input: &DecryptInput) -> Result<DecryptResponse, KmsError> {
    let invalid = |what| KmsError::with_message(KmsErrorCode::InvalidCiphertextException, what);
    let blob = input.ciphertext_blob.as_ref();
    let blob = blob.ok_or_else(|| invalid("no ciphertext"))?;
    let (sealed_under, ..) = ciphertext::parse_symmetric_blob(blob)?;
    if let Some(asked) = &input.key_id
        && resolve_key_id(store, asked)? != sealed_under
    {
        return Err(KmsError::with_message(
            KmsErrorCode::IncorrectKeyException,
            "sealed under another KMS key",
        ));
    }
    let (key, bytes) = usable(store, sealed_under)?;
    let (_, plaintext) = crypto::symmetric_decrypt(&bytes, blob, &input.encryption_context)?;
    Ok(DecryptResponse {
        plaintext: Some(Bytes::from(plaintext)),
        key_id: Some(key.arn),
        encryption_algorithm: Some(EncryptionAlgorithmSpec::SymmetricDefault),
        ..DecryptResponse::default()
    })
}

fn re_encrypt(store: &KmsStore, input: &ReEncryptInput) -> Result<ReEncryptResponse, KmsError> {
    let opened = decrypt(
        store,
        &DecryptInput {
            ciphertext_blob: input.ciphertext_blob.clone(),
            encryption_context: input.source_encryption_context.clone(),
            key_id: input.source_key_id.clone(),
            ..DecryptInput::default()
        },
    )?;
    let sealed = encrypt(
        store,
        &EncryptInput {
            key_id: input.destination_key_id.clone(),
            plaintext: opened.plaintext.unwrap_or_default(),
            encryption_context: input.destination_encryption_context.clone(),
            ..EncryptInput::default()
        },
    )?;
    Ok(ReEncryptResponse {
        ciphertext_blob: sealed.ciphertext_blob,
        key_id: sealed.key_id,
        source_key_id: opened.key_id,
        source_encryption_algorithm: Some(EncryptionAlgorithmSpec::SymmetricDefault),
        destination_encryption_algorithm: Some(EncryptionAlgorithmSpec::SymmetricDefault),
        ..ReEncryptResponse::default()
    })
}

/// Enables or disables a key until the process ends.
fn enable(store: &KmsStore, key: &str, enabled: bool) -> Result<Vec<u8>, KmsError> {
    let id = resolve_key_id(store, key)?;
    let mut key = store
        .get_key(&id)
        .ok_or_else(|| KmsError::with_message(KmsErrorCode::NotFoundException, "no such key"))?;
    key.enabled = enabled;
    key.key_state = match enabled {
        true => KeyState::Enabled,
        false => KeyState::Disabled,
    };
    store.put_key(key);
    Ok(b"{}".to_vec())
}

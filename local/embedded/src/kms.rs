//! The embedded KMS: rustack's cryptography, checks and HTTP service over a key store we can save.
//!
//! rustack's own provider keeps its key store private, so nothing could put a key back at start.
//! This handler hands each of the operations we use to rustack's public parts; it decides nothing
//! about ciphertexts itself.

use std::{future::Future, pin::Pin, sync::Arc};

use chrono::Utc;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustack_kms_core::{
    ciphertext, crypto,
    key::{KeyMaterial, KmsKey},
    resolve::resolve_key_id,
    state::KmsStore,
    validation,
};
use rustack_kms_http::{
    body::KmsResponseBody,
    dispatch::KmsHandler,
    response::json_response,
    service::{KmsHttpConfig, KmsHttpService},
};
use rustack_kms_model::{
    error::{KmsError, KmsErrorCode},
    input::{DecryptInput, EncryptInput},
    operations::KmsOperation,
    output::{DecryptResponse, EncryptResponse},
    types::{EncryptionAlgorithmSpec, KeySpec, KeyState, KeyUsageType, OriginType},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpListener;

use crate::{REGION, StartError};

/// The account rustack answers with.
const ACCOUNT: &str = "000000000000";

/// A KMS key as `kms.json` keeps it.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) material: Vec<u8>,
}

impl Key {
    /// A new 256-bit key.
    pub(crate) fn generate() -> Result<Self, StartError> {
        match crypto::generate_key_material(&KeySpec::SymmetricDefault) {
            Ok(KeyMaterial::Symmetric { key }) => Ok(Self {
                id: uuid::Uuid::new_v4().to_string(),
                material: key,
            }),
            _ => Err(StartError::Service("no random KMS key".to_owned())),
        }
    }

    pub(crate) fn arn(&self) -> String {
        KmsKey::build_arn(ACCOUNT, REGION, &self.id)
    }

    fn into_stored(self) -> KmsKey {
        KmsKey {
            arn: self.arn(),
            key_id: self.id,
            account_id: ACCOUNT.to_owned(),
            region: REGION.to_owned(),
            key_spec: KeySpec::SymmetricDefault,
            key_usage: KeyUsageType::EncryptDecrypt,
            key_state: KeyState::Enabled,
            description: String::new(),
            enabled: true,
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

/// Serves `keys` until the process ends.
pub(crate) async fn serve(listener: TcpListener, keys: Vec<Key>) {
    let store = KmsStore::new(ACCOUNT.to_owned(), REGION.to_owned());
    for key in keys {
        store.put_key(key.into_stored());
    }
    let handler = Arc::new(Handler(Arc::new(store)));
    let service = KmsHttpService::new(handler, KmsHttpConfig::default());
    loop {
        // A failed accept is one lost connection; the SDK tries again.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(connection);
    }
}

struct Handler(Arc<KmsStore>);

type Answer = Result<hyper::http::Response<KmsResponseBody>, KmsError>;

impl KmsHandler for Handler {
    fn handle_operation(
        &self,
        operation: KmsOperation,
        body: Bytes,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            match operation {
                KmsOperation::Encrypt => written(&encrypt(&store, &read(&body)?)?),
                KmsOperation::Decrypt => written(&decrypt(&store, &read(&body)?)?),
                other => Err(KmsError::not_implemented(other.as_str())),
            }
        })
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, KmsError> {
    serde_json::from_slice(body)
        .map_err(|_| KmsError::with_message(KmsErrorCode::ValidationException, "malformed request"))
}

fn written(output: &impl Serialize) -> Answer {
    let json = serde_json::to_vec(output).map_err(|_| KmsError::internal_error("no answer"))?;
    Ok(json_response(json, &uuid::Uuid::new_v4().to_string()))
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

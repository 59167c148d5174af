//! One key, one KMS call, bound to its owner outside and inside.
//!
//! Authority is a type: [`Sealer`] can only encrypt, [`Opener`] only decrypt, [`Rewrapper`] only
//! re-encrypt. The encryption context is built from the authenticated user and the requested
//! provider, never from what the row says about itself, so a ciphertext moved to another row neither
//! opens nor moves on. The plaintext repeats the binding (the module `plaintext` has its layout),
//! because whoever may re-encrypt may change a context: such a ciphertext decrypts, and is refused.

mod plaintext;

use std::collections::HashMap;

use aws_sdk_kms::{Client, error::SdkError, primitives::Blob};
use zeroize::Zeroizing;

use crate::{
    api_key::ApiKey,
    config::{Config, KeyArn},
    provider::Provider,
    user::UserId,
};

/// Tag of the stored form: KMS `Encrypt` of the key behind its binding. Stored for ever; changing it
/// orphans every row.
pub const FORMAT: &str = "kms2";
/// Version of the context's shape; part of what KMS authenticates, so it may never change.
pub const CONTEXT_VERSION: &str = "2";
const PURPOSE: &str = "user-api-key";

/// Everything that is bound into a ciphertext besides the stack's name.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// The authenticated user.
    pub user: &'a UserId,
    /// The requested provider.
    pub provider: Provider,
    /// The key's own id.
    pub kid: &'a str,
}

/// A sealed key, as stored.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// What KMS returned.
    pub ciphertext: Vec<u8>,
    /// ARN of the KMS key it was sealed under.
    pub key_arn: KeyArn,
}

/// Why KMS did not do what was asked. The text is for the log and holds no key and no ARN.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// Throttled, timed out or failed after retries; worth trying again.
    #[error("KMS is temporarily unavailable ({0})")]
    Unavailable(&'static str),
    /// Not a ciphertext of this user, provider, key id and stack. An alarm.
    #[error("ciphertext does not open here ({0})")]
    DoesNotOpen(&'static str),
    /// KMS decrypted it, and inside stands another user, provider, key id or stack than was asked
    /// for: somebody who may re-encrypt, or encrypt, redirected it. An alarm.
    #[error("the plaintext is bound to something else")]
    InnerBinding,
    /// KMS refused the KMS key itself: disabled, denied or gone. An alarm.
    #[error("KMS refuses the KMS key ({0})")]
    KeyRefused(&'static str),
    /// This function may not open keys of that provider. An alarm.
    #[error("this function may not open {0} keys")]
    NotGranted(Provider),
    /// KMS answered with something other than what was asked for.
    #[error("KMS answered unexpectedly ({0})")]
    Unexpected(&'static str),
}

/// The exact encryption context; a drift of one byte closes every stored key.
fn context(deploy_env: &str, binding: &Binding<'_>) -> HashMap<String, String> {
    [
        ("purpose", PURPOSE),
        ("ctxv", CONTEXT_VERSION),
        ("env", deploy_env),
        ("user_id", binding.user.as_str()),
        ("provider", binding.provider.name()),
        ("kid", binding.kid),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Can only encrypt.
#[derive(Clone)]
pub struct Sealer {
    kms: Client,
    key_arn: KeyArn,
    deploy_env: String,
}

impl Sealer {
    /// Seals as `config` says.
    #[must_use]
    pub fn new(kms: Client, config: &Config) -> Self {
        Self {
            kms,
            key_arn: config.kms_key_arn.clone(),
            deploy_env: config.deploy_env.clone(),
        }
    }

    /// The KMS key that seals.
    #[must_use]
    pub fn kms_key(&self) -> &KeyArn {
        &self.key_arn
    }

    /// One `Encrypt` call.
    ///
    /// # Errors
    /// [`SealingError`]; nothing has changed.
    pub async fn seal(&self, key: &ApiKey, binding: &Binding<'_>) -> Result<Sealed, SealingError> {
        let plaintext = plaintext::write(&self.deploy_env, binding, key)?;
        let answer = self
            .kms
            .encrypt()
            .key_id(self.key_arn.as_str())
            // A copy that the SDK keeps for the call, and whose Debug it redacts.
            .plaintext(Blob::new(plaintext.as_slice()))
            .set_encryption_context(Some(context(&self.deploy_env, binding)))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        if answer.key_id() != Some(self.key_arn.as_str()) {
            return Err(SealingError::Unexpected("another KMS key answered"));
        }
        sealed_under(&self.key_arn, answer.ciphertext_blob)
    }
}

/// Can only decrypt, only under the configured KMS keys, and only keys of the providers it was made
/// for: the same list stands as a condition in the function's role.
#[derive(Clone)]
pub struct Opener {
    kms: Client,
    allowed: Vec<KeyArn>,
    deploy_env: String,
    providers: Vec<Provider>,
}

impl Opener {
    /// Opens keys of `providers` as `config` says.
    #[must_use]
    pub fn new(kms: Client, config: &Config, providers: &[Provider]) -> Self {
        let mut allowed = config.kms_decrypt_key_arns.clone();
        allowed.push(config.kms_key_arn.clone());
        Self {
            kms,
            allowed,
            deploy_env: config.deploy_env.clone(),
            providers: providers.to_vec(),
        }
    }

    /// One `Decrypt` call.
    ///
    /// # Errors
    /// [`SealingError::DoesNotOpen`] for a ciphertext of anybody or anything else, and
    /// [`SealingError::InnerBinding`] for one that was given this context later.
    pub async fn open(
        &self,
        sealed: &Sealed,
        binding: &Binding<'_>,
    ) -> Result<ApiKey, SealingError> {
        if !self.providers.contains(&binding.provider) {
            return Err(SealingError::NotGranted(binding.provider));
        }
        listed(&self.allowed, sealed)?;
        let answer = self
            .kms
            .decrypt()
            .key_id(sealed.key_arn.as_str())
            .ciphertext_blob(Blob::new(sealed.ciphertext.as_slice()))
            .set_encryption_context(Some(context(&self.deploy_env, binding)))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        // Before anything is refused: what is dropped from here on is wiped.
        let (key_id, plaintext) = (answer.key_id, answer.plaintext);
        let plaintext = plaintext.map(|plaintext| Zeroizing::new(plaintext.into_inner()));
        if key_id.as_deref() != Some(sealed.key_arn.as_str()) {
            return Err(SealingError::Unexpected("another KMS key answered"));
        }
        let plaintext = plaintext.ok_or(SealingError::Unexpected("no plaintext"))?;
        plaintext::read(&plaintext, &self.deploy_env, binding)
    }
}

/// Can only re-encrypt: KMS opens under an older KMS key and seals under the current one, and the
/// plaintext never leaves it.
#[derive(Clone)]
pub struct Rewrapper {
    kms: Client,
    to: KeyArn,
    from: Vec<KeyArn>,
    deploy_env: String,
}

impl Rewrapper {
    /// From the older KMS keys of `config` to the one that seals.
    #[must_use]
    pub fn new(kms: Client, config: &Config) -> Self {
        Self {
            kms,
            to: config.kms_key_arn.clone(),
            from: config.kms_decrypt_key_arns.clone(),
            deploy_env: config.deploy_env.clone(),
        }
    }

    /// Whether this ciphertext is where it should be.
    #[must_use]
    pub fn is_current(&self, sealed: &Sealed) -> bool {
        sealed.key_arn == self.to
    }

    /// One `ReEncrypt` call.
    ///
    /// # Errors
    /// [`SealingError::DoesNotOpen`] for a ciphertext that is not what its row says it is.
    pub async fn rewrap(
        &self,
        sealed: &Sealed,
        binding: &Binding<'_>,
    ) -> Result<Sealed, SealingError> {
        listed(&self.from, sealed)?;
        let context = context(&self.deploy_env, binding);
        let answer = self
            .kms
            .re_encrypt()
            .ciphertext_blob(Blob::new(sealed.ciphertext.as_slice()))
            .source_key_id(sealed.key_arn.as_str())
            .set_source_encryption_context(Some(context.clone()))
            .destination_key_id(self.to.as_str())
            .set_destination_encryption_context(Some(context))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let keys = (answer.source_key_id(), answer.key_id());
        if keys != (Some(sealed.key_arn.as_str()), Some(self.to.as_str())) {
            return Err(SealingError::Unexpected("another KMS key answered"));
        }
        sealed_under(&self.to, answer.ciphertext_blob)
    }
}

/// Only KMS keys of the configuration are asked to open anything.
fn listed(keys: &[KeyArn], sealed: &Sealed) -> Result<(), SealingError> {
    match keys.contains(&sealed.key_arn) {
        true => Ok(()),
        false => Err(SealingError::DoesNotOpen(
            "KMS key is not on the configured list",
        )),
    }
}

/// What KMS answered to `Encrypt` or `ReEncrypt` under this key.
fn sealed_under(key_arn: &KeyArn, ciphertext: Option<Blob>) -> Result<Sealed, SealingError> {
    let ciphertext = ciphertext.ok_or(SealingError::Unexpected("no ciphertext"))?;
    Ok(Sealed {
        ciphertext: ciphertext.into_inner(),
        key_arn: key_arn.clone(),
    })
}

/// Sorts KMS failures by their code alone; messages may name ARNs and are dropped.
fn failure<E: aws_sdk_kms::error::ProvideErrorMetadata>(error: &SdkError<E>) -> SealingError {
    let Some(service) = error.as_service_error() else {
        return SealingError::Unavailable("no answer");
    };
    match service.code() {
        Some("InvalidCiphertextException") => SealingError::DoesNotOpen("invalid ciphertext"),
        Some("IncorrectKeyException") => SealingError::DoesNotOpen("incorrect KMS key"),
        Some("DisabledException") => SealingError::KeyRefused("disabled"),
        Some("NotFoundException") => SealingError::KeyRefused("not found"),
        Some("AccessDeniedException") => SealingError::KeyRefused("access denied"),
        Some("InvalidKeyUsageException") => SealingError::KeyRefused("wrong usage"),
        Some("KMSInvalidStateException" | "KeyUnavailableException") => {
            SealingError::KeyRefused("wrong state")
        }
        Some("ThrottlingException" | "LimitExceededException") => {
            SealingError::Unavailable("throttled")
        }
        Some("DependencyTimeoutException" | "KMSInternalException") => {
            SealingError::Unavailable("KMS failed")
        }
        _ => SealingError::Unavailable("unrecognised failure"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encryption_context_is_exactly_these_six_pairs() {
        let user = UserId::clerk("user_2abcDEF9").unwrap();
        let binding = Binding {
            user: &user,
            provider: Provider::Gemini,
            kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        };
        let mut pairs: Vec<_> = context("prod", &binding).into_iter().collect();
        pairs.sort();
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [
                ("ctxv", "2"),
                ("env", "prod"),
                ("kid", "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
                ("provider", "gemini"),
                ("purpose", "user-api-key"),
                ("user_id", "user_2abcDEF9"),
            ]
        );
    }
}

//! Both services behind one function; must not know what carries a call to it.

use dynoxide::Database;
use hyper::{StatusCode, body::Bytes};

use crate::{
    dynamodb,
    kms::{self, Keys},
};

/// DynamoDB and KMS of one start.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) database: Database,
    pub(crate) keys: Keys,
}

/// A status and its JSON.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Services {
    /// Carries out the call that `X-Amz-Target` names. It blocks for as long as SQLite writes.
    pub(crate) fn answer(&self, target: &str, body: &[u8]) -> Answer {
        if let Some(operation) = target.strip_prefix(dynamodb::TARGET) {
            return dynamodb::answer(&self.database, operation, body);
        }
        if let Some(operation) = target.strip_prefix(kms::TARGET) {
            return kms::answer(&self.keys, operation, body);
        }
        Answer::failure(
            StatusCode::BAD_REQUEST,
            "UnknownOperationException",
            "neither DynamoDB nor KMS",
        )
    }
}

impl Answer {
    /// A failure in AWS's form.
    pub(crate) fn failure(status: StatusCode, name: &str, message: &str) -> Self {
        let body = serde_json::json!({"__type": name, "message": message});
        Self {
            status,
            body: Bytes::from(body.to_string()),
        }
    }
}

//! The embedded DynamoDB: dynoxide's own operations, by the name that the SDK gives them.
//!
//! dynoxide's HTTP server takes only a TCP port and lets every web page in, so it is left out. An operation
//! that nothing here calls is not answered.

use dynoxide::{Database, DynoxideError, Result};
use hyper::{StatusCode, body::Bytes};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::services::Answer;

/// What `X-Amz-Target` begins with.
pub(crate) const TARGET: &str = "DynamoDB_20120810.";

/// Answers one call.
pub(crate) fn answer(database: &Database, operation: &str, body: &[u8]) -> Answer {
    match call(database, operation, body) {
        Ok(body) => Answer {
            status: StatusCode::OK,
            body: body.into(),
        },
        Err(error) => Answer {
            status: StatusCode::from_u16(error.status_code()).unwrap_or(StatusCode::BAD_REQUEST),
            body: Bytes::from(error.to_json()),
        },
    }
}

/// Whether a start that was killed gave the table its name and had not made its rows' place yet. dynoxide
/// then takes the table for made, and answers every call with this failure.
pub(crate) fn half_made(database: &Database, table: &str) -> bool {
    let key = json!({"pk": {"S": "-"}, "sk": {"S": "-"}});
    let request = json!({"TableName": table, "Key": key}).to_string();
    let failed = call(database, "GetItem", request.as_bytes()).err();
    failed.is_some_and(|error| error.to_json().contains("no such table"))
}

/// Takes its name back, so that it can be made anew. Nothing was ever in it.
pub(crate) fn remove_half_made(database: &Database, table: &str) {
    let request = json!({"TableName": table}).to_string();
    // The creation after this says whether it went.
    call(database, "DeleteTable", request.as_bytes()).ok();
}

fn call(database: &Database, operation: &str, body: &[u8]) -> Result<Vec<u8>> {
    match operation {
        "BatchGetItem" => run(body, |request| database.batch_get_item(request)),
        "BatchWriteItem" => run(body, |request| database.batch_write_item(request)),
        "CreateTable" => run(body, |request| database.create_table(request)),
        "DeleteItem" => run(body, |request| database.delete_item(request)),
        "DeleteTable" => run(body, |request| database.delete_table(request)),
        "DescribeTable" => run(body, |request| database.describe_table(request)),
        "GetItem" => run(body, |request| database.get_item(request)),
        "ListTables" => run(body, |request| database.list_tables(request)),
        "PutItem" => run(body, |request| database.put_item(request)),
        "Query" => run(body, |request| database.query(request)),
        "Scan" => run(body, |request| database.scan(request)),
        "TagResource" => run(body, |request| database.tag_resource(request)),
        "TransactGetItems" => run(body, |request| database.transact_get_items(request)),
        "TransactWriteItems" => run(body, |request| database.transact_write_items(request)),
        "UpdateItem" => run(body, |request| database.update_item(request)),
        _ => Err(DynoxideError::ValidationException(
            "the embedded DynamoDB does not have this operation".to_owned(),
        )),
    }
}

fn run<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    act: impl FnOnce(Q) -> Result<A>,
) -> Result<Vec<u8>> {
    let request = serde_json::from_slice(body)
        .map_err(|_| DynoxideError::SerializationException("malformed request".to_owned()))?;
    serde_json::to_vec(&act(request)?)
        .map_err(|error| DynoxideError::InternalServerError(error.to_string()))
}

//! What IAM is told of a request to DynamoDB or KMS, in the words of `roles/roles.txt`.
//!
//! Never a value, a key, a ciphertext or a person: attributes' names, the shape of a partition key, the
//! purpose and the provider of an encryption context. Nothing of Local mode's one developer, since no
//! role is theirs.

use std::collections::BTreeSet;

use serde_json::Value;

/// Words of DynamoDB's expressions that are no attribute.
const WORDS: &[&str] = &[
    "ADD", "AND", "BETWEEN", "DELETE", "IN", "NOT", "OR", "REMOVE", "SET",
];

/// What IAM decides about one request: a transaction is as many calls as it has parts, a `ReEncrypt`
/// is two.
pub(crate) fn calls(operation: &str, body: &Value) -> Vec<String> {
    let kms = |action: &str, which: &str, context: &str| {
        let context = &body[context];
        let text = |name: &str| context[name].as_str().unwrap_or("-").to_owned();
        let local = text("user_id") == "local";
        let (purpose, provider) = (text("purpose"), text("provider"));
        let call =
            format!("kms:{action} key={which} purpose={purpose} env=ours provider={provider}");
        (!local).then_some(call)
    };
    match operation {
        "Encrypt" => Vec::from_iter(kms("Encrypt", "sealing", "EncryptionContext")),
        "Decrypt" => Vec::from_iter(kms("Decrypt", "opening", "EncryptionContext")),
        "ReEncrypt" => [
            kms("ReEncryptFrom", "older", "SourceEncryptionContext"),
            kms("ReEncryptTo", "sealing", "DestinationEncryptionContext"),
        ]
        .into_iter()
        .flatten()
        .collect(),
        "TransactWriteItems" => {
            let parts = body["TransactItems"].as_array();
            let parts = parts.into_iter().flatten().filter_map(Value::as_object);
            let named = parts.flat_map(|part| part.iter());
            named
                .filter_map(|(kind, part)| {
                    let call = item_call(&format!("{kind}Item"), part)?;
                    Some(format!("{call} within=TransactWriteItems"))
                })
                .collect()
        }
        _ => Vec::from_iter(item_call(operation, body)),
    }
}

fn item_call(action: &str, body: &Value) -> Option<String> {
    let whole = &body["Key"]["pk"]["S"];
    let partition = [whole, &body["Item"]["pk"]["S"]];
    let partition = partition.into_iter().find_map(Value::as_str);
    let partition = partition.or_else(|| body["ExpressionAttributeValues"][":pk"]["S"].as_str());
    if partition == Some("USER#local") {
        return None;
    }
    let mut call = format!("dynamodb:{action}");
    if let Some(partition) = partition {
        // Whose it is says nothing more than that it is a person's.
        let shape = match partition.split_once('#') {
            Some(("USER", sub)) if sub.starts_with("user_") => "USER#user_x",
            Some(("JOB", _)) => "JOB#x",
            _ => partition,
        };
        call.push_str(&format!(" pk={shape}"));
    }
    let mut attributes: BTreeSet<String> = BTreeSet::new();
    for name in ["Item", "Key"] {
        let item = body[name].as_object().into_iter().flatten();
        attributes.extend(item.map(|(name, _)| name.clone()));
    }
    for (name, expression) in body.as_object()? {
        if name.ends_with("Expression") {
            let words = names(expression.as_str()?, &body["ExpressionAttributeNames"]);
            attributes.extend(words);
        }
    }
    let reads = matches!(action, "GetItem" | "Query" | "Scan");
    let projected = body["ProjectionExpression"].is_string();
    if reads {
        let select = match projected {
            true => "SPECIFIC_ATTRIBUTES",
            false => "ALL_ATTRIBUTES",
        };
        call.push_str(&format!(
            " select={}",
            body["Select"].as_str().unwrap_or(select)
        ));
    }
    if !reads || projected {
        let attributes = Vec::from_iter(attributes).join(",");
        call.push_str(&format!(" attributes={attributes}"));
    }
    if let Some(returned) = body["ReturnValues"].as_str() {
        call.push_str(&format!(" return={returned}"));
    }
    Some(call)
}

/// Attributes that an expression names.
fn names<'a>(expression: &'a str, aliases: &'a Value) -> impl Iterator<Item = String> + 'a {
    let part = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '#' | ':'));
    let words = expression.split_inclusive(part);
    words.filter_map(move |word| {
        // A name before a bracket is a function's.
        let name = word.trim_end_matches(part);
        let function = word.ends_with('(');
        let other = name.is_empty() || name.starts_with(':') || WORDS.contains(&name);
        let attribute = aliases[name].as_str().unwrap_or(name);
        (!function && !other).then(|| attribute.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_recorded_call_names_attributes_and_neither_values_nor_people() {
        let update = json!({"Key": {"pk": {"S": "USER#user_2abcDEF9"}, "sk": {"S": "KEY#gemini"}},
            "UpdateExpression": "SET n = if_not_exists(n, :zero) + :one, #ttl = :ttl REMOVE gone",
            "ConditionExpression": "attribute_not_exists(rev) OR kid<:limit",
            "ExpressionAttributeNames": {"#ttl": "ttl"}, "ReturnValues": "UPDATED_NEW",
            "ExpressionAttributeValues": {":limit": {"S": "secret"}}});
        assert_eq!(
            calls("UpdateItem", &update),
            [
                "dynamodb:UpdateItem pk=USER#user_x attributes=gone,kid,n,pk,rev,sk,ttl \
              return=UPDATED_NEW"
            ]
        );
        let moved = json!({"SourceEncryptionContext": {"purpose": "user-api-key", "provider": "exa"},
            "DestinationEncryptionContext": {"user_id": "user_2abcDEF9"}, "CiphertextBlob": "c2VjcmV0"});
        assert_eq!(
            calls("ReEncrypt", &moved),
            [
                "kms:ReEncryptFrom key=older purpose=user-api-key env=ours provider=exa",
                "kms:ReEncryptTo key=sealing purpose=- env=ours provider=-",
            ]
        );
        let local = json!({"Key": {"pk": {"S": "USER#local"}, "sk": {"S": "SESSION"}}});
        assert!(calls("GetItem", &local).is_empty());
        let put = json!({"TransactItems": [{"Put": {"Item": {"pk": {"S": "USER#user_a"}, "ct": {"B": "c2VjcmV0"}}}}]});
        assert_eq!(
            calls("TransactWriteItems", &put),
            ["dynamodb:PutItem pk=USER#user_x attributes=ct,pk within=TransactWriteItems"]
        );
    }
}

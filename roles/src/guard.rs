//! IAM before the embedded DynamoDB and KMS: a caller is the function that its access key names, and
//! what its role and the key policy do not allow never reaches the service.
//!
//! Signatures are not verified: this is for tests on one machine.

use std::{collections::BTreeMap, fs, io::Write, process::ExitCode, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    Error,
    calls::calls,
    stack::{Sides, Stack, allowed, documents},
    table::parse,
};

struct Guard {
    stack: Stack,
    /// The stack's ARN of each of the embedded service's.
    kms_keys: BTreeMap<String, String>,
    table_name: String,
    dynamodb: String,
    kms: String,
    /// What the services want to see in the caller's place.
    access_key_id: String,
    client: Client,
}

/// Serves on a free loopback port until it is killed; prints the address.
pub(crate) fn guard(files: &[String]) -> Result<ExitCode, Error> {
    let [roles, settings] = files else {
        return Err("name roles.json and the settings of the services".into());
    };
    let stacks: Vec<Stack> = serde_json::from_str(&fs::read_to_string(roles)?)?;
    let settings: Value = serde_json::from_str(&fs::read_to_string(settings)?)?;
    let setting = |name: &str| settings[name].as_str().unwrap_or_default().to_owned();
    // The stack during a rotation: two KMS keys.
    let stack = stacks
        .into_iter()
        .find(|stack| stack.key_policies.len() == 2);
    let stack = stack.ok_or("no stack has two KMS keys")?;
    let older = stack.key_policies.keys().find(|arn| **arn != stack.sealing);
    let kms_keys = [
        (setting("KMS_KEY_ARN"), stack.sealing.clone()),
        (
            setting("KMS_DECRYPT_KEY_ARNS"),
            older.cloned().unwrap_or_default(),
        ),
    ];
    let guard = Guard {
        kms_keys: kms_keys.into(),
        table_name: setting("TABLE_NAME"),
        dynamodb: setting("AWS_ENDPOINT_URL_DYNAMODB"),
        kms: setting("AWS_ENDPOINT_URL_KMS"),
        access_key_id: setting("AWS_ACCESS_KEY_ID"),
        client: Client::new(),
        stack,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        writeln!(std::io::stdout(), "http://{}", listener.local_addr()?)?;
        axum::serve(
            listener,
            Router::new()
                .route("/ping", get(healthy))
                .fallback(decide)
                .with_state(Arc::new(guard)),
        )
        .await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What services of AWS answer to anybody.
async fn healthy() -> &'static str {
    "healthy"
}

async fn decide(State(guard): State<Arc<Guard>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let target = text("x-amz-target");
    let caller = text(AUTHORIZATION.as_str()).split_once("Credential=");
    let caller = caller
        .and_then(|(_, rest)| rest.split('/').next())
        .unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default();
    let request = serde_json::from_slice(&body).unwrap_or_default();
    if !guard
        .allows(caller, operation, &request)
        .unwrap_or_default()
    {
        let message = format!("User is not authorized to perform: {operation}");
        let refusal = json!({"__type": "AccessDeniedException", "message": message});
        return (StatusCode::BAD_REQUEST, refusal.to_string()).into_response();
    }
    match guard.pass_on(target, &headers, body).await {
        Ok(answer) => answer,
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

impl Guard {
    /// Whether the caller's role allows every call that is in the request.
    fn allows(&self, caller: &str, operation: &str, request: &Value) -> Result<bool, Error> {
        let functions = self.stack.functions();
        let role = functions.get(caller).ok_or("not a function")?;
        let names = functions.keys().map(|name| (*name).to_owned()).collect();
        let identity = documents(&role.policies)?;
        let parts = calls(operation, request);
        let tables = tables(request);
        let ours = tables.iter().all(|name| *name == self.table_name);
        for part in &parts {
            let line = parse(&format!("{part} : nobody"), &[], &names)?;
            let resource = match line.action.as_str() {
                "kms:ReEncryptFrom" => self.kms_key(&request["SourceKeyId"])?,
                "kms:ReEncryptTo" => self.kms_key(&request["DestinationKeyId"])?,
                action if action.starts_with("kms:") => self.kms_key(&request["KeyId"])?,
                _ => self.stack.table.clone(),
            };
            let mut context = line.told(&self.stack)?;
            // In a test the stack's name is what the functions were told, too.
            let env = [
                &request["EncryptionContext"],
                &request["SourceEncryptionContext"],
            ];
            if let Some(env) = env.iter().find_map(|context| context["env"].as_str()) {
                let key = "kms:EncryptionContext:env".to_owned();
                context.insert(key, awsim_iam_policy::ContextValue::String(env.to_owned()));
            }
            let policy = self.stack.key_policy(&resource)?;
            let call = (line.action.as_str(), resource.as_str(), &context);
            if !ours || !allowed(&role.arn, Sides::Both, &identity, policy.as_ref(), call) {
                return Ok(false);
            }
        }
        Ok(!parts.is_empty())
    }

    fn kms_key(&self, id: &Value) -> Result<String, Error> {
        let arn = self.kms_keys.get(id.as_str().unwrap_or_default());
        Ok(arn.ok_or("a KMS key that the stack does not have")?.clone())
    }

    async fn pass_on(
        &self,
        target: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, Error> {
        let to = if target.starts_with("DynamoDB") {
            &self.dynamodb
        } else {
            &self.kms
        };
        let mut request = self.client.post(to).body(body);
        for (name, value) in headers {
            if name.as_str().starts_with("x-amz-") || name == CONTENT_TYPE {
                request = request.header(name, value);
            }
        }
        let credential = format!("AWS4-HMAC-SHA256 Credential={}/", self.access_key_id);
        let request = request.header(AUTHORIZATION, credential);
        let answer = request.send().await?;
        let status = answer.status();
        let mut passed = HeaderMap::new();
        for (name, value) in answer.headers() {
            if !matches!(
                name.as_str(),
                "content-length" | "transfer-encoding" | "connection"
            ) {
                passed.insert(name.clone(), value.clone());
            }
        }
        Ok((status, passed, answer.bytes().await?).into_response())
    }
}

/// Every table that a request names.
fn tables(request: &Value) -> Vec<&str> {
    match request {
        Value::Object(of) => {
            let own = of.get("TableName").and_then(Value::as_str);
            own.into_iter()
                .chain(of.values().flat_map(tables))
                .collect()
        }
        Value::Array(of) => of.iter().flat_map(tables).collect(),
        _ => Vec::new(),
    }
}

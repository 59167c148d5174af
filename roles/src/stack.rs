//! The roles and key policies, and what a policy engine decides by them.

use std::collections::{BTreeMap, HashMap};

use awsim_iam_policy::{
    AuthzRequest, ContextValue, Decision, EvalContext, PolicyDocument, evaluate, parse_value,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, table::Line};

/// What IAM is told of a call, by condition key.
pub(crate) type Told = HashMap<String, ContextValue>;

/// An action, a resource, and what IAM is told.
pub(crate) type Call<'a> = (&'a str, &'a str, &'a Told);

pub(crate) const ACCOUNT: &str = "111122223333";

#[derive(Deserialize)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) function: Option<String>,
    pub(crate) managed: Vec<String>,
    pub(crate) trusts: Value,
    pub(crate) policies: Vec<Value>,
}

/// One way in which the stack can be set.
#[derive(Deserialize)]
pub(crate) struct Stack {
    pub(crate) stack: String,
    pub(crate) table: String,
    pub(crate) sealing: String,
    pub(crate) keys: Vec<String>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) key_policies: BTreeMap<String, Value>,
}

impl Line {
    /// The resources that the call may be about, with what IAM is told; none where the stack as it is
    /// set has no such KMS key.
    pub(crate) fn requests(&self, stack: &Stack) -> Result<Vec<(String, Told)>, Error> {
        let told = self.told(stack)?;
        if let Some(rotation) = self.told.get("rotation")
            && (rotation == "yes") != stack.rotates()
        {
            return Ok(Vec::new());
        }
        let named = |name| self.told.get(name).map(String::as_str);
        let resources = match (named("key").or(named("log")), named("table")) {
            (Some(log), _) if self.action.starts_with("logs:") => vec![stack.log_stream(log)],
            (Some(which), _) => stack.kms_keys(which)?,
            (_, Some("index")) => vec![format!("{}/index/other", stack.table)],
            (_, Some(_)) => vec![stack.table.replace("table/", "table/other-")],
            _ => vec![stack.table.clone()],
        };
        Ok(resources
            .into_iter()
            .map(|resource| (resource, told.clone()))
            .collect())
    }

    /// The condition keys of the call.
    pub(crate) fn told(&self, stack: &Stack) -> Result<Told, Error> {
        let text = |value: &str| ContextValue::String(value.to_owned());
        let list =
            |value: &str| ContextValue::StringList(value.split(',').map(str::to_owned).collect());
        let mut told = Told::new();
        for (name, value) in &self.told {
            let (key, value) = match name.as_str() {
                "table" | "key" | "log" | "rotation" => continue,
                "pk" => ("dynamodb:LeadingKeys", list(value)),
                "attributes" => ("dynamodb:Attributes", list(value)),
                "select" => ("dynamodb:Select", text(value)),
                "return" => ("dynamodb:ReturnValues", text(value)),
                "within" => ("dynamodb:EnclosingOperation", text(value)),
                "env" if value == "ours" => ("kms:EncryptionContext:env", text(&stack.stack)),
                "env" => ("kms:EncryptionContext:env", text(value)),
                "purpose" => ("kms:EncryptionContext:purpose", text(value)),
                "provider" => ("kms:EncryptionContext:provider", text(value)),
                _ => return Err(format!("{name} is not known: {}", self.call).into()),
            };
            told.insert(key.to_owned(), value);
        }
        Ok(told)
    }
}

impl Stack {
    pub(crate) fn kms_keys(&self, which: &str) -> Result<Vec<String>, Error> {
        let others = self
            .key_policies
            .keys()
            .filter(|arn| **arn != self.sealing)
            .cloned();
        Ok(match which {
            "sealing" => vec![self.sealing.clone()],
            "older" => others.collect(),
            "opening" => self.key_policies.keys().cloned().collect(),
            "foreign" => vec![
                "arn:aws:kms:us-east-1:111122223333:key/ffffffff-0000-4000-8000-000000000000"
                    .to_owned(),
            ],
            which => return Err(format!("no KMS key is called {which}").into()),
        })
    }

    /// Whether both KMS keys open.
    pub(crate) fn rotates(&self) -> bool {
        self.key_policies.len() == 2
    }

    /// A stream in the log group of a function.
    fn log_stream(&self, function: &str) -> String {
        let group = format!("/aws/lambda/{}-{function}", self.stack);
        format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{group}:log-stream:2026/11/25/[1]0a1b")
    }

    /// The key policy of a resource that is a KMS key of the stack.
    pub(crate) fn key_policy(&self, resource: &str) -> Result<Option<PolicyDocument>, Error> {
        self.key_policies.get(resource).map(document).transpose()
    }

    pub(crate) fn functions(&self) -> BTreeMap<&str, &Role> {
        let named = self
            .roles
            .values()
            .filter_map(|role| Some((role.function.as_deref()?, role)));
        named.collect()
    }
}

/// Who is asked.
#[derive(Clone, Copy)]
pub(crate) enum Sides {
    /// The role alone, as if there were no key policy.
    Role,
    /// The role, and the key policy where there is a KMS key.
    Both,
}

/// Whether it is allowed. Both sides: the identity's policies, and the key policy where there is a KMS key.
/// A key policy that names the account lets IAM decide, so neither is enough alone.
pub(crate) fn allowed(
    principal: &str,
    sides: Sides,
    identity: &[PolicyDocument],
    key_policy: Option<&PolicyDocument>,
    (action, resource, context): Call<'_>,
) -> bool {
    let mut context = context.clone();
    context.insert(
        "aws:PrincipalArn".to_owned(),
        ContextValue::String(principal.to_owned()),
    );
    let request = AuthzRequest {
        principal_arn: principal,
        principal_account: ACCOUNT,
        action,
        resource_arn: resource,
        context: &context,
    };
    let says = |identity_policies, resource_policy| {
        let policies = EvalContext {
            identity_policies,
            resource_policy,
            ..EvalContext::default()
        };
        evaluate(&request, &policies) == Decision::Allow
    };
    let kms = action.starts_with("kms:");
    match sides {
        Sides::Role => says(identity, None),
        Sides::Both => {
            says(identity, None) && (!kms || (key_policy.is_some() && says(&[], key_policy)))
        }
    }
}

pub(crate) fn document(policy: &Value) -> Result<PolicyDocument, Error> {
    Ok(parse_value(policy).map_err(|error| format!("{error:?}"))?)
}

pub(crate) fn documents(policies: &[Value]) -> Result<Vec<PolicyDocument>, Error> {
    policies.iter().map(document).collect()
}

pub(crate) fn list(value: &Value) -> Vec<String> {
    let texts = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::Array(values) => values.iter().filter_map(texts).collect(),
        value => texts(value).into_iter().collect(),
    }
}

pub(crate) fn statements(policies: &[Value]) -> impl Iterator<Item = &Value> {
    policies
        .iter()
        .flat_map(|policy| policy["Statement"].as_array().into_iter().flatten())
}

//! Holds the roles and key policies of the template against `roles.txt`:
//! `roles <what template.py prints> <roles.txt> <recorded calls>`.
//!
//! Decides every line for every function with an IAM policy engine; then every call that the tests
//! recorded. Then widens the policies, one action, one resource, one value or one condition at a time,
//! and fails if that would not be noticed. Names the function and the call that is wrong.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::Write,
    process::ExitCode,
};

use awsim_iam_policy::{
    AuthzRequest, ContextValue, Decision, EvalContext, PolicyDocument, evaluate, parse_value,
};
use serde::Deserialize;
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;
/// What IAM is told of a call, by condition key.
type Told = HashMap<String, ContextValue>;

const ACCOUNT: &str = "111122223333";
const ADMINISTRATOR: &str = "administrator";
#[derive(Deserialize)]
struct Role {
    arn: String,
    function: Option<String>,
    managed: Vec<String>,
    trusts: Value,
    policies: Vec<Value>,
}

/// One way in which the stack can be set.
#[derive(Deserialize)]
struct Stack {
    stack: String,
    table: String,
    sealing: String,
    keys: Vec<String>,
    roles: BTreeMap<String, Role>,
    key_policies: BTreeMap<String, Value>,
}

/// A line of the table, or a recorded call.
struct Line {
    /// As written, without those who may.
    call: String,
    action: String,
    told: BTreeMap<String, String>,
    may: BTreeSet<String>,
}

#[derive(Default)]
struct Expected {
    roles: Vec<Line>,
    key_policy: Vec<Line>,
    services: BTreeSet<String>,
    /// Condition keys with values that are added to them, one at a time.
    others: Vec<(String, Vec<String>)>,
}

fn read(text: &str, functions: &BTreeSet<String>) -> Result<Expected, Error> {
    let mut sets: Vec<(String, String)> = Vec::new();
    let mut expected = Expected::default();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            section = line;
        } else if section == "[services]" {
            expected.services.insert(line.to_owned());
        } else if let Some(others) = line.strip_prefix("other ") {
            let (key, values) = others.split_once(' ').ok_or("a key without other values")?;
            let values = values.trim().split(',').map(str::to_owned).collect();
            expected.others.push((key.to_owned(), values));
        } else if let Some(set) = line.strip_prefix("set ") {
            let (name, of) = set.split_once(' ').ok_or("a set without attributes")?;
            sets.push((format!("${name}"), of.trim().to_owned()));
        } else {
            let line = parse(line, &sets, functions)?;
            match section {
                "[key policy]" => expected.key_policy.push(line),
                _ => expected.roles.push(line),
            }
        }
    }
    Ok(expected)
}

fn parse(
    line: &str,
    sets: &[(String, String)],
    functions: &BTreeSet<String>,
) -> Result<Line, Error> {
    let (call, may) = line
        .rsplit_once(" : ")
        .ok_or_else(|| format!("nobody is named: {line}"))?;
    let mut words = call.split(' ');
    let action = words.next().unwrap_or_default().to_owned();
    let mut told = BTreeMap::new();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("not name=value: {word}"))?;
        let value = sets
            .iter()
            .fold(value.to_owned(), |value, (set, of)| value.replace(set, of));
        told.insert(name.to_owned(), value);
    }
    let mut named = BTreeSet::new();
    for name in may.split(' ').filter(|name| *name != "nobody") {
        match name {
            "everybody" => named.extend(functions.iter().cloned()),
            ADMINISTRATOR => drop(named.insert(name.to_owned())),
            name if functions.contains(name) => drop(named.insert(name.to_owned())),
            name => return Err(format!("no function is called {name}").into()),
        }
    }
    Ok(Line {
        call: call.to_owned(),
        action,
        told,
        may: named,
    })
}

impl Line {
    /// The resources that the call may be about, with what IAM is told; none where the stack as it is
    /// set has no such KMS key.
    fn requests(&self, stack: &Stack) -> Result<Vec<(String, Told)>, Error> {
        let mut context = HashMap::new();
        let text = |value: &str| ContextValue::String(value.to_owned());
        let list =
            |value: &str| ContextValue::StringList(value.split(',').map(str::to_owned).collect());
        let mut resources = vec![stack.table.clone()];
        for (name, value) in &self.told {
            match name.as_str() {
                "pk" => drop(context.insert("dynamodb:LeadingKeys".to_owned(), list(value))),
                "attributes" => drop(context.insert("dynamodb:Attributes".to_owned(), list(value))),
                "select" => drop(context.insert("dynamodb:Select".to_owned(), text(value))),
                "return" => drop(context.insert("dynamodb:ReturnValues".to_owned(), text(value))),
                "within" => {
                    drop(context.insert("dynamodb:EnclosingOperation".to_owned(), text(value)))
                }
                "table" if value == "index" => {
                    resources = vec![format!("{}/index/other", stack.table)]
                }
                "table" => resources = vec![stack.table.replace("table/", "table/other-")],
                "key" => resources = stack.kms_keys(value)?,
                "env" if value == "ours" => {
                    context.insert("kms:EncryptionContext:env".to_owned(), text(&stack.stack));
                }
                "purpose" | "env" | "provider" => {
                    context.insert(format!("kms:EncryptionContext:{name}"), text(value));
                }
                _ => return Err(format!("{name} is not known: {}", self.call).into()),
            }
        }
        Ok(resources
            .into_iter()
            .map(|resource| (resource, context.clone()))
            .collect())
    }
}

impl Stack {
    fn kms_keys(&self, which: &str) -> Result<Vec<String>, Error> {
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

    fn functions(&self) -> BTreeMap<&str, &Role> {
        let named = self
            .roles
            .values()
            .filter_map(|role| Some((role.function.as_deref()?, role)));
        named.collect()
    }
}

/// Who is asked.
#[derive(Clone, Copy)]
enum Sides {
    /// The role alone, as if there were no key policy.
    Role,
    /// The role, and the key policy where there is a KMS key.
    Both,
}

/// Whether it is allowed. Both sides: the identity's policies, and the key policy where there is a KMS key.
/// A key policy that names the account lets IAM decide, so neither is enough alone.
fn allowed(
    principal: &str,
    sides: Sides,
    identity: &[PolicyDocument],
    key_policy: Option<&PolicyDocument>,
    (action, resource, context): (&str, &str, &Told),
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

fn document(policy: &Value) -> Result<PolicyDocument, Error> {
    Ok(parse_value(policy).map_err(|error| format!("{error:?}"))?)
}

fn documents(policies: &[Value]) -> Result<Vec<PolicyDocument>, Error> {
    policies.iter().map(document).collect()
}

/// What is wrong with one principal's policies, judged by these lines.
fn wrong(
    stack: &Stack,
    lines: &[Line],
    sides: &[Sides],
    (name, arn): (&str, &str),
    policies: &[Value],
    key_policies: &BTreeMap<String, Value>,
) -> Result<(usize, Vec<String>), Error> {
    let identity = documents(policies)?;
    let key_policies: BTreeMap<_, _> = key_policies
        .iter()
        .map(|(arn, policy)| Ok((arn, document(policy)?)))
        .collect::<Result<_, Error>>()?;
    let (mut decided, mut wrong) = (0, Vec::new());
    for line in lines {
        for (resource, context) in line.requests(stack)? {
            let key_policy = key_policies.get(&resource);
            for sides in sides {
                let call = (line.action.as_str(), resource.as_str(), &context);
                let may = allowed(arn, *sides, &identity, key_policy, call);
                decided += 1;
                match (may, line.may.contains(name)) {
                    (true, false) => wrong.push(format!("{name} may, and must not: {}", line.call)),
                    (false, true) => wrong.push(format!("{name} may not, and must: {}", line.call)),
                    _ => {}
                }
            }
        }
    }
    Ok((decided, wrong))
}

fn list(value: &Value) -> Vec<String> {
    let texts = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::Array(values) => values.iter().filter_map(texts).collect(),
        value => texts(value).into_iter().collect(),
    }
}

fn statements(policies: &[Value]) -> impl Iterator<Item = &Value> {
    policies
        .iter()
        .flat_map(|policy| policy["Statement"].as_array().into_iter().flatten())
}

/// What no line can say: nothing is a pattern, and no action is there that the table does not know.
fn shape(name: &str, policies: &[Value], lines: &[Line]) -> Vec<String> {
    let mut wrong = Vec::new();
    for statement in statements(policies) {
        for action in list(&statement["Action"]) {
            let known = lines
                .iter()
                .any(|line| line.action == action && line.may.contains(name));
            if !known {
                wrong.push(format!(
                    "{name} may {action}, of which no line of the table says so"
                ));
            }
        }
        if list(&statement["Resource"])
            .iter()
            .any(|resource| resource.contains('*'))
        {
            wrong.push(format!(
                "{name}: a resource of {} is a pattern",
                statement["Sid"]
            ));
        }
        if ["NotAction", "NotResource"]
            .iter()
            .any(|not| !statement[not].is_null())
        {
            wrong.push(format!("{name}: {} says what not", statement["Sid"]));
        }
    }
    wrong
}

/// Every role's trust and managed policies, and all of those that are no function's.
fn services(stack: &Stack) -> BTreeSet<String> {
    let mut said = BTreeSet::new();
    let tail = |arn: &str, by: char, n| arn.splitn(n, by).last().unwrap_or_default().to_owned();
    for (name, role) in &stack.roles {
        for statement in role.trusts["Statement"].as_array().into_iter().flatten() {
            for (kind, who) in statement["Principal"].as_object().into_iter().flatten() {
                let service = if kind == "Service" {
                    list(who).join(" ")
                } else {
                    format!("{kind} {who}")
                };
                said.insert(format!("{name} trusts {service}"));
            }
        }
        for arn in &role.managed {
            said.insert(format!(
                "{name} managed {}",
                arn.rsplit('/').next().unwrap_or_default()
            ));
        }
        if role.function.is_none() {
            for statement in statements(&role.policies) {
                for (action, resource) in
                    list(&statement["Action"]).into_iter().flat_map(|action| {
                        list(&statement["Resource"])
                            .into_iter()
                            .map(move |r| (action.clone(), r))
                    })
                {
                    said.insert(format!("{name} {action} {}", tail(&resource, ':', 6)));
                }
            }
        }
    }
    said
}

/// A policy that is a little wider.
struct Wider {
    what: String,
    policies: Vec<Value>,
    /// The action that was added, if that is what was done.
    added: Option<String>,
}

/// Whether `action` could be allowed now where it was not, by any resource and condition of the table:
/// to a statement whose resource or condition no such call can meet, it adds nothing.
fn matters(
    stack: &Stack,
    lines: &[Line],
    action: &str,
    decide: impl Fn(&str, &Told) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let (service, name) = action.split_once(':').unwrap_or_default();
    let reads = matches!(name, "GetItem" | "BatchGetItem" | "Query" | "Scan");
    for line in lines {
        let told = |name| line.told.contains_key(name);
        let possible = line.action.starts_with(service)
            && !(reads && (told("return") || told("within")))
            && (reads || !told("select"))
            && !(name == "Scan" && told("pk"));
        if possible {
            for (resource, context) in line.requests(stack)? {
                if decide(&resource, &context)? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Every policy that is a little wider.
fn widened(
    policies: &[Value],
    actions: &BTreeSet<String>,
    others: &[(String, Vec<String>)],
) -> Vec<Wider> {
    let mut all = Vec::new();
    for (p, policy) in policies.iter().enumerate() {
        let of = policy["Statement"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        for (s, statement) in of.iter().enumerate() {
            let mut add = |what: String, added: Option<&String>, change: &dyn Fn(&mut Value)| {
                let mut changed = policies.to_vec();
                change(&mut changed[p]["Statement"][s]);
                all.push(Wider {
                    what: format!("{}: {what}", statement["Sid"].as_str().unwrap_or("?")),
                    policies: changed,
                    added: added.cloned(),
                });
            };
            let there = list(&statement["Action"]);
            let denies = statement["Effect"] == "Deny";
            if denies {
                add("removed".to_owned(), None, &|statement| {
                    statement["Effect"] = json!("Allow")
                });
                add("removed, allowing nothing".to_owned(), None, &|statement| {
                    statement["Action"] = json!("none:None")
                });
            }
            let lacking = actions
                .iter()
                .filter(|action| !there.contains(action) && !denies);
            for action in lacking {
                let more: Vec<_> = there.iter().chain([action]).collect();
                add(format!("{action} added"), Some(action), &|statement| {
                    statement["Action"] = json!(more)
                });
            }
            if !denies && statement["Principal"].is_null() {
                add("any resource".to_owned(), None, &|statement| {
                    statement["Resource"] = json!("*")
                });
            }
            for (operator, keys) in statement["Condition"].as_object().into_iter().flatten() {
                for (key, values) in keys.as_object().into_iter().flatten() {
                    add(format!("without {operator} {key}"), None, &|statement| {
                        if let Some(keys) = statement["Condition"][operator].as_object_mut() {
                            keys.remove(key);
                        }
                    });
                    let others = others
                        .iter()
                        .filter(|(name, _)| name == key && operator != "Null");
                    let others = others.flat_map(|(_, others)| others.iter());
                    for other in others.filter(|other| !list(values).contains(other)) {
                        let more: Vec<_> =
                            list(values).into_iter().chain([other.clone()]).collect();
                        add(format!("{key} may be {other}"), None, &|statement| {
                            statement["Condition"][operator][key] = json!(more);
                        });
                    }
                }
            }
        }
    }
    all
}

fn main() -> Result<ExitCode, Error> {
    let files: Vec<_> = std::env::args().skip(1).collect();
    let [roles, table, calls] = files.as_slice() else {
        return Err("name roles.json, roles.txt and the recorded calls".into());
    };
    let stacks: Vec<Stack> = serde_json::from_str(&fs::read_to_string(roles)?)?;
    let all = stacks.first().ok_or("no stack")?.functions();
    let functions: BTreeSet<String> = all.keys().map(|name| (*name).to_owned()).collect();
    let expected = read(&fs::read_to_string(table)?, &functions)?;
    let mut recorded: Vec<Line> = Vec::new();
    let recordings: BTreeSet<_> = fs::read_to_string(calls)?
        .lines()
        .map(str::to_owned)
        .collect();
    for line in &recordings {
        recorded.push(parse(line, &[], &functions)?);
    }
    let (mut decided, mut tried, mut problems) = (0, 0, BTreeSet::new());
    let everything = [json!({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})];
    let known = |lines: &[Line]| {
        lines
            .iter()
            .map(|line| line.action.clone())
            .collect::<BTreeSet<_>>()
    };
    for stack in &stacks {
        let said = services(stack);
        problems.extend(
            expected
                .services
                .difference(&said)
                .map(|line| format!("is not so: {line}")),
        );
        problems.extend(
            said.difference(&expected.services)
                .map(|line| format!("is not in the table: {line}")),
        );
        let administrator = format!("arn:aws:iam::{ACCOUNT}:role/admin/Administrator");
        for (name, role) in stack.functions() {
            let judge = |policies: &[Value]| -> Result<_, Error> {
                let (n, mut problems) = wrong(
                    stack,
                    &expected.roles,
                    &[Sides::Role, Sides::Both],
                    (name, &role.arn),
                    policies,
                    &stack.key_policies,
                )?;
                problems.extend(shape(name, policies, &expected.roles));
                Ok((n, problems))
            };
            let (n, found) = judge(&role.policies)?;
            decided += n;
            problems.extend(found);
            // Of these only those that it made itself.
            let own = recorded.iter().filter(|line| line.may.contains(name));
            for line in own {
                for (resource, context) in line.requests(stack)? {
                    let key_policy = stack
                        .key_policies
                        .get(&resource)
                        .map(document)
                        .transpose()?;
                    let identity = documents(&role.policies)?;
                    let call = (line.action.as_str(), resource.as_str(), &context);
                    if !allowed(&role.arn, Sides::Both, &identity, key_policy.as_ref(), call) {
                        problems.insert(format!(
                            "{name} makes this call, and may not: {}",
                            line.call
                        ));
                    }
                }
            }
            for action in
                statements(&role.policies).flat_map(|statement| list(&statement["Action"]))
            {
                let used = recorded
                    .iter()
                    .any(|line| line.action == action && line.may.contains(name));
                if !used {
                    problems.insert(format!("{name} may {action}, and no test makes it do so"));
                }
            }
            let before = documents(&role.policies)?;
            for wider in widened(&role.policies, &known(&expected.roles), &expected.others) {
                let after = documents(&wider.policies)?;
                let decide = |action: &str, resource: &str, context: &HashMap<_, _>| {
                    let call = (action, resource, context);
                    let may = |policies| allowed(&role.arn, Sides::Role, policies, None, call);
                    Ok(may(&after) && !may(&before))
                };
                if let Some(action) = &wider.added
                    && !matters(stack, &expected.roles, action, |r, c| decide(action, r, c))?
                {
                    continue;
                }
                tried += 1;
                if judge(&wider.policies)?.1.is_empty() {
                    problems.insert(format!("{name}, {}: would not be noticed", wider.what));
                }
            }
        }
        let at_most = |key_policies: &BTreeMap<String, Value>| -> Result<_, Error> {
            let (mut decided, mut found) = (0, Vec::new());
            let roles = stack
                .functions()
                .into_iter()
                .map(|(name, role)| (name, role.arn.as_str()));
            for (name, arn) in roles.chain([(ADMINISTRATOR, administrator.as_str())]) {
                let (n, problems) = wrong(
                    stack,
                    &expected.key_policy,
                    &[Sides::Both],
                    (name, arn),
                    &everything,
                    key_policies,
                )?;
                decided += n;
                found.extend(
                    problems
                        .into_iter()
                        .map(|problem| format!("key policy: {problem}")),
                );
            }
            Ok((decided, found))
        };
        let (n, found) = at_most(&stack.key_policies)?;
        decided += n;
        problems.extend(found);
        for (arn, policy) in &stack.key_policies {
            // The older key's own lines are fewer; it has the same policy.
            if *arn != stack.sealing {
                continue;
            }
            let before = document(policy)?;
            let everything = documents(&everything)?;
            let principals: Vec<_> = stack.functions().values().map(|role| &role.arn).collect();
            for wider in widened(
                std::slice::from_ref(policy),
                &known(&expected.key_policy),
                &expected.others,
            ) {
                let changed = wider.policies.into_iter().next().unwrap_or_default();
                let after = document(&changed)?;
                let decide = |action: &str, resource: &str, context: &HashMap<_, _>| {
                    let call = (action, resource, context);
                    let may = |arn: &str, policy| {
                        allowed(arn, Sides::Both, &everything, Some(policy), call)
                    };
                    let now = |arn: &&String| may(arn, &after) && !may(arn, &before);
                    Ok(principals.iter().any(now))
                };
                if let Some(action) = &wider.added
                    && !matters(stack, &expected.key_policy, action, |r, c| {
                        decide(action, r, c)
                    })?
                {
                    continue;
                }
                tried += 1;
                let mut policies = stack.key_policies.clone();
                policies.insert(arn.clone(), changed);
                if at_most(&policies)?.1.is_empty() {
                    problems.insert(format!("key policy, {}: would not be noticed", wider.what));
                }
            }
        }
        let policies: BTreeSet<_> = stack.key_policies.values().map(Value::to_string).collect();
        if policies.len() != 1 || stack.keys.len() != 2 {
            problems.insert("the two KMS keys differ in their policies".to_owned());
        }
    }
    let mut out = std::io::stdout();
    for problem in &problems {
        writeln!(out, "{problem}")?;
    }
    writeln!(
        out,
        "{} lines, {decided} decisions in {} settings of the stack; {} kinds of calls recorded; \
         {tried} policies widened, {}",
        expected.roles.len() + expected.key_policy.len(),
        stacks.len(),
        recorded.len(),
        if problems.is_empty() {
            "each noticed"
        } else {
            "see above"
        }
    )?;
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

//! Every line of the table decided for every function, then every recorded call, then every widening.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::Write,
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{
    Error,
    stack::{ACCOUNT, Sides, Stack, allowed, document, documents, list, statements},
    table::{Line, parse, read},
    widen::{matters, widened},
};

pub(crate) const ADMINISTRATOR: &str = "administrator";

/// What is wrong with one principal's policies, judged by these lines.
pub(crate) fn wrong(
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

/// What no line can say: nothing is a pattern, and no action is there that the table does not know.
pub(crate) fn shape(name: &str, policies: &[Value], lines: &[Line]) -> Vec<String> {
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
pub(crate) fn services(stack: &Stack) -> BTreeSet<String> {
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

/// Holds everything against the table. Prints what is wrong, and counts.
pub(crate) fn check(files: &[String]) -> Result<ExitCode, Error> {
    let [roles, table, calls] = files else {
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
            // The providers that a role may open are those that the function opens.
            let granted = expected.roles.iter().filter(|line| {
                line.action == "kms:Decrypt" && line.may.contains(name) && line.told.len() == 4
            });
            for line in granted {
                let provider = line.told.get("provider");
                let used = recorded.iter().any(|made| {
                    (&made.action, made.told.get("provider")) == (&line.action, provider)
                        && made.may.contains(name)
                });
                if !used {
                    problems.insert(format!("{name} never makes this call: {}", line.call));
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

//! Every line of the table decided for every function, then every recorded call, then every widening.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{
    Error,
    stack::{ACCOUNT, Call, Role, Sides, Stack, allowed, document, documents, list, statements},
    table::{Expected, Line, parse, read},
    widen::widened,
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
        // A log group's ARN ends so, for its streams.
        let pattern = |resource: &String| match resource.strip_suffix(":*") {
            Some(group) if group.starts_with("arn:aws:logs:") => group.contains('*'),
            _ => resource.contains('*'),
        };
        if list(&statement["Resource"]).iter().any(pattern) {
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

/// What is found on the way.
struct Check<'a> {
    stack: &'a Stack,
    expected: &'a Expected,
    recorded: &'a [Line],
    found: &'a mut Found,
}

#[derive(Default)]
struct Found {
    decided: usize,
    widened: usize,
    problems: BTreeSet<String>,
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
    let recordings = fs::read_to_string(calls)?;
    let recordings: BTreeSet<_> = recordings.lines().collect();
    let recorded = recordings.iter().map(|line| parse(line, &[], &functions));
    let recorded: Vec<_> = recorded.collect::<Result<_, _>>()?;
    let mut found = Found::default();
    for stack in &stacks {
        let (expected, recorded, found) = (&expected, recorded.as_slice(), &mut found);
        Check {
            stack,
            expected,
            recorded,
            found,
        }
        .stack()?;
    }
    let mut out = std::io::stdout();
    for problem in &found.problems {
        writeln!(out, "{problem}")?;
    }
    let lines = expected.roles.len() + expected.key_policy.len();
    let (decided, widened, good) = (found.decided, found.widened, found.problems.is_empty());
    writeln!(
        out,
        "{lines} lines, {decided} decisions in {} settings of the stack; {} kinds of calls recorded; \
         {widened} policies widened, {}",
        stacks.len(),
        recorded.len(),
        if good { "each noticed" } else { "see above" }
    )?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn known(lines: &[Line]) -> BTreeSet<String> {
    lines.iter().map(|line| line.action.clone()).collect()
}

impl Check<'_> {
    fn stack(&mut self) -> Result<(), Error> {
        self.services();
        for (name, role) in self.stack.functions() {
            let (decided, problems) = self.judge(name, role, &role.policies)?;
            self.found.decided += decided;
            self.found.problems.extend(problems);
            self.recorded_calls(name, role)?;
            self.use_of_everything(name, role);
            self.widen_role(name, role)?;
        }
        let (decided, problems) = self.judge_key_policies(&self.stack.key_policies)?;
        self.found.decided += decided;
        self.found.problems.extend(problems);
        self.widen_key_policies()
    }

    fn problem(&mut self, problem: String) {
        self.found.problems.insert(problem);
    }

    fn services(&mut self) {
        let (wanted, said) = (&self.expected.services, services(self.stack));
        let missing = wanted
            .difference(&said)
            .map(|line| format!("is not so: {line}"));
        let extra = said
            .difference(wanted)
            .map(|line| format!("is not in the table: {line}"));
        self.found.problems.extend(missing.chain(extra));
        // But for the one statement that says which of them a ciphertext leaves and which it enters.
        let same = |policy: &Value| -> String {
            let of = policy["Statement"].as_array().into_iter().flatten();
            let same = of.filter(|statement| statement["Sid"] != "RotateKeysMoves");
            same.map(Value::to_string).collect()
        };
        let policies: BTreeSet<_> = self.stack.key_policies.values().map(same).collect();
        if policies.len() != 1 || self.stack.keys.len() != 2 {
            self.problem("the two KMS keys differ in their policies".to_owned());
        }
    }

    /// One role with these policies: every line, with and without the key policy, and what no line says.
    fn judge(
        &self,
        name: &str,
        role: &Role,
        policies: &[Value],
    ) -> Result<(usize, Vec<String>), Error> {
        let lines = &self.expected.roles;
        let (decided, mut problems) = wrong(
            self.stack,
            lines,
            &[Sides::Role, Sides::Both],
            (name, &role.arn),
            policies,
            &self.stack.key_policies,
        )?;
        problems.extend(shape(name, policies, lines));
        Ok((decided, problems))
    }

    /// Every call that the function made in the tests is allowed.
    fn recorded_calls(&mut self, name: &str, role: &Role) -> Result<(), Error> {
        let identity = documents(&role.policies)?;
        for line in self.recorded.iter().filter(|line| line.may.contains(name)) {
            // A ciphertext is moved only while there is an older key.
            if line.action.starts_with("kms:ReEncrypt") && !self.stack.rotates() {
                continue;
            }
            for (resource, context) in line.requests(self.stack)? {
                let key_policy = self.stack.key_policy(&resource)?;
                let call = (line.action.as_str(), resource.as_str(), &context);
                if !allowed(&role.arn, Sides::Both, &identity, key_policy.as_ref(), call) {
                    self.problem(format!(
                        "{name} makes this call, and may not: {}",
                        line.call
                    ));
                }
            }
        }
        Ok(())
    }

    /// Nothing is granted that the function did not do in the tests: no action, no provider's keys.
    fn use_of_everything(&mut self, name: &str, role: &Role) {
        let recorded = self.recorded;
        let made = |action: &str, provider: Option<&String>| {
            recorded.iter().any(|line| {
                let same = provider.is_none() || line.told.get("provider") == provider;
                line.action == action && same && line.may.contains(name)
            })
        };
        for action in statements(&role.policies).flat_map(|statement| list(&statement["Action"])) {
            // Lambda itself writes the log, in the role's name.
            if !action.starts_with("logs:") && !made(&action, None) {
                self.problem(format!("{name} may {action}, and no test makes it do so"));
            }
        }
        for line in self
            .expected
            .roles
            .iter()
            .filter(|line| line.action == "kms:Decrypt")
        {
            let provider = line.told.get("provider");
            if line.may.contains(name) && !made(&line.action, provider) {
                self.problem(format!("{name} never makes this call: {}", line.call));
            }
        }
    }

    fn widen_role(&mut self, name: &str, role: &Role) -> Result<(), Error> {
        let lines = &self.expected.roles;
        let before = documents(&role.policies)?;
        for wider in widened(&role.policies, &known(lines), &self.expected.others) {
            let after = documents(&wider.policies)?;
            let newly = |call: Call<'_>| {
                let may = |policies| allowed(&role.arn, Sides::Role, policies, None, call);
                may(&after) && !may(&before)
            };
            if !wider.matters(self.stack, lines, newly)? {
                continue;
            }
            self.found.widened += 1;
            if self.judge(name, role, &wider.policies)?.1.is_empty() {
                self.problem(format!("{name}, {}: would not be noticed", wider.what));
            }
        }
        Ok(())
    }

    /// What these key policies would let each role do, and an administrator, if IAM gave them all.
    fn judge_key_policies(
        &self,
        key_policies: &BTreeMap<String, Value>,
    ) -> Result<(usize, Vec<String>), Error> {
        let administrator = format!("arn:aws:iam::{ACCOUNT}:role/admin/Administrator");
        let functions = self.stack.functions();
        let roles = functions
            .iter()
            .map(|(name, role)| (*name, role.arn.as_str()));
        let (mut decided, mut problems) = (0, Vec::new());
        for principal in roles.chain([(ADMINISTRATOR, administrator.as_str())]) {
            let lines = &self.expected.key_policy;
            let all = [everything()];
            let (n, wrong) = wrong(
                self.stack,
                lines,
                &[Sides::Both],
                principal,
                &all,
                key_policies,
            )?;
            decided += n;
            problems.extend(wrong.iter().map(|problem| format!("key policy: {problem}")));
        }
        Ok((decided, problems))
    }

    fn widen_key_policies(&mut self) -> Result<(), Error> {
        let mut policies = self.stack.key_policies.iter();
        policies.try_for_each(|(key, policy)| self.widen_key_policy(key, policy))
    }

    fn widen_key_policy(&mut self, key: &str, policy: &Value) -> Result<(), Error> {
        let lines = &self.expected.key_policy;
        let (before, all) = (document(policy)?, [document(&everything())?]);
        let functions = self.stack.functions();
        for wider in widened(
            std::slice::from_ref(policy),
            &known(lines),
            &self.expected.others,
        ) {
            let changed = wider.policies.first().ok_or("no policy")?;
            let after = document(changed)?;
            let newly = |call: Call<'_>| {
                let may = |arn: &str, policy| allowed(arn, Sides::Both, &all, Some(policy), call);
                let mut roles = functions.values();
                roles.any(|role| may(&role.arn, &after) && !may(&role.arn, &before))
            };
            if !wider.matters(self.stack, lines, newly)? {
                continue;
            }
            self.found.widened += 1;
            let mut policies = self.stack.key_policies.clone();
            policies.insert(key.to_owned(), changed.clone());
            if self.judge_key_policies(&policies)?.1.is_empty() {
                self.problem(format!("key policy, {}: would not be noticed", wider.what));
            }
        }
        Ok(())
    }
}

/// Whatever IAM can give.
fn everything() -> Value {
    json!({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
}

//! Holds the roles and key policies of the template against `roles.txt`, with an IAM policy engine.
//!
//! `roles check <what template.py prints> <roles.txt> <recorded calls>` decides every line for every
//! function; then every call that the tests recorded. Then it widens the policies, one action, one
//! resource, one value or one condition at a time, and fails if that would not be noticed. Names the
//! function and the call that is wrong.
//!
//! `roles guard <what template.py prints> <settings of the services>` stands before the embedded
//! DynamoDB and KMS and lets pass what the caller's role allows.

use std::process::ExitCode;

#[path = "../../local/embedded/src/calls.rs"]
mod calls;
mod check;
mod guard;
mod stack;
mod table;
mod widen;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<ExitCode, Error> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, files)) if command == "check" => check::check(files),
        Some((command, files)) if command == "guard" => guard::guard(files),
        _ => Err("say check or guard".into()),
    }
}

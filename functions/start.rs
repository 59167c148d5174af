//! Where the real binary refuses to start; run by each function for its own.

use std::process::Command;

fn says(settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME"))));
    let output = command
        .env_clear()
        .envs(settings.iter().copied())
        .output()
        .expect("the binary runs");
    assert!(!output.status.success(), "it started");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn local_mode_on_a_real_lambda_is_refused() {
    let lambda = ("AWS_LAMBDA_FUNCTION_NAME", env!("CARGO_PKG_NAME"));
    let debug = [lambda, ("DEBUG", "true"), ("DEPLOY_ENV", "prod")];
    for settings in [&[lambda][..], &debug] {
        let said = says(settings);
        assert!(said.contains("Local mode on a real Lambda"), "{said}");
    }
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let said = says(&[("DEPLOY_ENV", "prod")]);
    for name in [
        "TABLE_NAME",
        "KMS_KEY_ARN",
        "CLERK_JWT_KEY",
        "CLERK_ISSUER",
        "CLERK_AUTHORIZED_PARTIES",
    ] {
        assert!(said.contains(name), "{said}");
    }
}

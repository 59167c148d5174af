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

/// As AWS starts a function, whatever else somebody has set on it.
const ON_AWS: [(&str, &str); 3] = [
    ("AWS_LAMBDA_FUNCTION_NAME", env!("CARGO_PKG_NAME")),
    ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
    (
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "2026/11/25/[$LATEST]0123456789abcdef0123456789abcdef",
    ),
];

#[test]
fn the_mark_of_sam_local_does_not_open_local_mode_on_a_real_lambda() {
    for more in [
        &[("AWS_SAM_LOCAL", "true")][..],
        &[
            ("AWS_SAM_LOCAL", "true"),
            ("DEBUG", "true"),
            ("DEPLOY_ENV", "prod"),
        ],
    ] {
        let said = says(&[&ON_AWS, more].concat());
        assert!(said.contains("Local mode on a real Lambda"), "{said}");
    }
}

#[test]
fn what_redirects_a_real_lambda_is_refused_by_name_and_never_shown() {
    let redirects = [
        ("AWS_SAM_LOCAL", "true"),
        ("AWS_ENDPOINT_URL", "https://elsewhere.test"),
        ("AWS_ENDPOINT_URL_KMS", "https://elsewhere.test"),
        ("AWS_ENDPOINT_URL_SOMETHING_NEW", "https://elsewhere.test"),
        ("GEMINI_BASE_URL", "https://elsewhere.test"),
        ("SSL_CERT_FILE", "/tmp/elsewhere.test"),
        ("https_proxy", "https://elsewhere.test"),
        ("AWS_CONFIG_FILE", "/tmp/elsewhere.test"),
    ];
    let production = [ON_AWS.as_slice(), &[("DEPLOY_ENV", "prod")]].concat();
    let said = says(&[&production[..], &redirects].concat());
    for (name, _) in redirects {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert!(said.contains("on a real Lambda nothing may send"), "{said}");
    assert!(!said.contains("elsewhere.test"), "{said}");
    for redirect in redirects {
        let said = says(&[&production[..], &[redirect]].concat());
        assert!(said.contains(&format!("remove {}: ", redirect.0)), "{said}");
    }
    let said = says(&production);
    assert!(!said.contains("remove "), "{said}");
}

//! Who may reach the embedded services over a port: a process that was told this start's access key id,
//! and never a web page, whatever name it was rebound to.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::{
    Method, Request,
    header::{AUTHORIZATION, HOST, HeaderValue},
};
use user_api_keys::origin::{Origins, one};

/// The rules of one listener.
pub(crate) struct Gate {
    access_key_id: String,
    hosts: RwLock<HashSet<String>>,
}

impl Gate {
    /// One that no host passes yet, with a new access key id: 122 random bits.
    pub(crate) fn new() -> Self {
        Self {
            access_key_id: format!("LOCAL{}", uuid::Uuid::new_v4().simple()),
            hosts: RwLock::default(),
        }
    }

    pub(crate) fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// Lets requests in that say `Host: <host>`.
    pub(crate) fn expect(&self, host: String) {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(host);
    }

    /// Why a request is refused, if it is.
    ///
    /// # Errors
    /// The rule that it breaks; it says nothing about the access key id.
    pub(crate) fn admit<B>(&self, request: &Request<B>) -> Result<(), &'static str> {
        let headers = request.headers();
        if request.method() != Method::POST {
            return Err("calls of AWS are POST");
        }
        if Origins::from_a_browser(headers) {
            return Err("a web page may not call");
        }
        let authority = request.uri().authority().map(|named| named.as_str());
        let host = one(headers, &HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.expects(host))
            || !authority.is_none_or(|named| self.expects(named))
        {
            return Err("the Host is not one that this listener was started for");
        }
        match one(headers, &AUTHORIZATION).is_some_and(|value| self.knows(value)) {
            true => Ok(()),
            false => Err("the access key id is not the one of this start"),
        }
    }

    fn expects(&self, host: &str) -> bool {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.contains(host)
    }

    /// Whether `Credential=<access key id>/…` stands there. The signature is not looked at: whoever knows
    /// the id may sign.
    fn knows(&self, authorization: &HeaderValue) -> bool {
        let credential = authorization
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("AWS4-HMAC-SHA256 "))
            .and_then(|rest| rest.trim_start().strip_prefix("Credential="))
            .and_then(|rest| rest.split_once('/'));
        credential.is_some_and(|(id, _)| {
            verify_slices_are_equal(id.as_bytes(), self.access_key_id.as_bytes()).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        let gate = Gate::new();
        gate.expect("127.0.0.1:8788".to_owned());
        gate
    }

    fn signed(gate: &Gate) -> String {
        let id = gate.access_key_id();
        format!("AWS4-HMAC-SHA256 Credential={id}/20260101/us-east-1/kms/aws4_request, Signature=0")
    }

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method).uri(uri);
        let add = |request: hyper::http::request::Builder, (name, value): &(&str, &str)| {
            request.header(*name, *value)
        };
        headers.iter().fold(request, add).body(()).unwrap()
    }

    fn admits(gate: &Gate, more: &[(&str, &str)]) -> bool {
        let signed = signed(gate);
        let mut headers = vec![("host", "127.0.0.1:8788"), ("authorization", &signed)];
        headers.extend(more);
        gate.admit(&request("POST", "/", &headers)).is_ok()
    }

    #[test]
    fn an_sdk_that_knows_the_access_key_id_passes() {
        assert!(admits(&gate(), &[]));
        assert!(admits(&gate(), &[("x-amz-target", "TrentService.Decrypt")]));
    }

    #[test]
    fn whatever_a_browser_adds_is_refused() {
        for header in [
            ("origin", "http://127.0.0.1:8788"),
            ("origin", "null"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-anything-new", "x"),
        ] {
            assert!(!admits(&gate(), &[header]), "{header:?}");
        }
    }

    #[test]
    fn only_the_expected_host_passes_and_only_once() {
        let gate = gate();
        let signed = signed(&gate);
        for host in [
            "evil.test",
            "evil.test:8788",
            "localhost:8788",
            "127.0.0.1",
            "127.0.0.1:8789",
            "127.0.0.1:8788.evil.test",
            "127.0.0.1:08788",
            "",
        ] {
            let headers = [("host", host), ("authorization", signed.as_str())];
            assert!(
                gate.admit(&request("POST", "/", &headers)).is_err(),
                "{host}"
            );
        }
        assert!(!admits(&gate, &[("host", "127.0.0.1:8788")]), "twice");
        let none = request("POST", "/", &[("authorization", &signed)]);
        assert!(gate.admit(&none).is_err(), "none");
        let headers = [
            ("host", "127.0.0.1:8788"),
            ("authorization", signed.as_str()),
        ];
        let absolute = request("POST", "http://evil.test/", &headers);
        assert!(
            gate.admit(&absolute).is_err(),
            "a request for another server"
        );
    }

    #[test]
    fn another_access_key_id_is_refused() {
        let gate = gate();
        let (own, id) = (signed(&gate), gate.access_key_id());
        for authorization in [
            String::new(),
            own.replace(id, "test"),
            own.replace(id, &id[..id.len() - 1]),
            own.replace(id, &format!("{id}0")),
            own.replace(id, &id.to_lowercase()),
            own.replace("AWS4-HMAC-SHA256", "Bearer"),
            own.replace("Credential=", "SignedHeaders="),
            format!("AWS4-HMAC-SHA256 Credential={id}"),
            format!("AWS4-HMAC-SHA256 Credential=x/, Credential={id}/"),
        ] {
            let headers = [
                ("host", "127.0.0.1:8788"),
                ("authorization", &authorization),
            ];
            let answer = gate.admit(&request("POST", "/", &headers));
            assert!(answer.is_err(), "{authorization}");
        }
        assert!(!admits(&gate, &[("authorization", &own)]), "twice");
        assert_ne!(Gate::new().access_key_id(), id);
    }

    #[test]
    fn nothing_but_a_post_passes() {
        let gate = gate();
        let signed = signed(&gate);
        let headers = [
            ("host", "127.0.0.1:8788"),
            ("authorization", signed.as_str()),
        ];
        for method in ["OPTIONS", "GET", "HEAD", "PUT"] {
            assert!(
                gate.admit(&request(method, "/", &headers)).is_err(),
                "{method}"
            );
        }
    }
}

//! Which web pages may call, and under which host name.
//!
//! In Local mode the server answers with keys and any page the developer visits can reach loopback,
//! so every request must carry a loopback `Host` (DNS rebinding) and, when it has an `Origin`, an
//! allowed one (hostile page). In Production the token decides and `Origin` only steers CORS.

use lambda_http::http::{
    HeaderMap, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
    },
};

use crate::{
    config::Config,
    mode::Mode,
    problem::{Code, Problem},
};

/// The front ends that may call.
#[derive(Debug)]
pub struct Origins {
    allowed: Vec<String>,
    loopback_only: bool,
}

impl Origins {
    /// `ALLOWED_ORIGINS`, and in Local mode loopback only.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            allowed: config.allowed_origins.clone(),
            loopback_only: config.mode == Mode::Local,
        }
    }

    /// Whether a request with these headers may be looked at.
    ///
    /// # Errors
    /// 403, in Local mode only.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.loopback_only {
            return Ok(());
        }
        if !one(headers, &HOST).is_some_and(is_loopback) {
            return Err(Problem::new(
                Code::Forbidden,
                "Local mode answers on this machine only; call it as localhost or 127.0.0.1.",
            ));
        }
        match headers.contains_key(ORIGIN) && self.allowed_origin(headers).is_none() {
            true => Err(Problem::new(
                Code::Forbidden,
                "This web page may not call; add its origin to ALLOWED_ORIGINS if it is yours.",
            )),
            false => Ok(()),
        }
    }

    /// Adds the CORS headers, on failures too.
    pub fn describe(&self, request: &HeaderMap, response: &mut HeaderMap) {
        response.insert(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = self.allowed_origin(request) else {
            return;
        };
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        for (name, value) in [
            (
                ACCESS_CONTROL_ALLOW_METHODS,
                "GET, POST, PATCH, DELETE, OPTIONS",
            ),
            (
                ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, content-type, if-match",
            ),
            (
                ACCESS_CONTROL_EXPOSE_HEADERS,
                "retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset",
            ),
            (ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            response.insert(name, HeaderValue::from_static(value));
        }
    }

    fn allowed_origin<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = one(headers, &ORIGIN)?;
        let text = origin.to_str().ok()?;
        let own = || {
            let host = one(headers, &HOST)?.to_str().ok()?;
            (text.strip_prefix("http://")? == host).then_some(())
        };
        (self.allowed.iter().any(|allowed| allowed == text)
            || (self.loopback_only && own().is_some()))
        .then_some(origin)
    }
}

/// The value of a header that stands there exactly once.
fn one<'h>(
    headers: &'h HeaderMap,
    name: &lambda_http::http::HeaderName,
) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

fn is_loopback(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else {
        return false;
    };
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        host.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
            && match &host[name.len()..] {
                "" => true,
                port => port
                    .strip_prefix(':')
                    .is_some_and(|digits| digits.parse::<u16>().is_ok()),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Origins {
        Origins {
            allowed: vec!["http://localhost:3000".to_owned()],
            loopback_only: true,
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn local_mode_answers_loopback_hosts_only() {
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8787",
            "[::1]:8787",
            "localhost:3000",
        ] {
            assert!(local().admit(&headers(&[("host", host)])).is_ok(), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.nip.io:8787",
            "localhost:",
            "localhost:80@evil.test",
            "127.0.0.2",
            "0.0.0.0:8787",
        ] {
            assert!(
                local().admit(&headers(&[("host", host)])).is_err(),
                "{host}"
            );
        }
        assert!(local().admit(&HeaderMap::new()).is_err(), "no host");
        let twice = headers(&[("host", "localhost"), ("host", "localhost")]);
        assert!(local().admit(&twice).is_err(), "two hosts");
    }

    #[test]
    fn local_mode_refuses_a_hostile_page() {
        for (origin, admitted) in [
            ("http://localhost:3000", true),
            ("http://127.0.0.1:8787", true),
            ("http://localhost:3001", false),
            ("https://localhost:3000", false),
            ("https://evil.test", false),
            ("null", false),
        ] {
            let headers = headers(&[("host", "127.0.0.1:8787"), ("origin", origin)]);
            assert_eq!(local().admit(&headers).is_ok(), admitted, "{origin}");
        }
    }

    #[test]
    fn production_names_an_allowed_origin_and_no_other_and_never_a_wildcard() {
        let production = Origins {
            allowed: vec!["https://app.test".to_owned()],
            loopback_only: false,
        };
        for (origin, named) in [
            ("https://app.test", true),
            ("https://app.test.evil.test", false),
            ("http://api.test", false),
        ] {
            let request = headers(&[("host", "api.test"), ("origin", origin)]);
            assert!(production.admit(&request).is_ok());
            let mut response = HeaderMap::new();
            production.describe(&request, &mut response);
            let allowed = response.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(allowed.is_some_and(|v| v == origin), named, "{origin}");
        }
    }
}

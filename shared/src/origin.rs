//! Which web pages may call, and under which host name.
//!
//! In Local mode the server answers with keys and any page the developer visits can reach loopback,
//! so every request must carry a loopback `Host` (DNS rebinding), must not have come through a proxy
//! or a tunnel (`Via`, `Forwarded` and the like), and must not come from a page that may not call: an
//! `Origin` must be an allowed one, and a browser that says `Sec-Fetch-Site: cross-site` without an
//! `Origin` is a frame, an image or a link. In Production the token decides and `Origin` only steers
//! CORS.

use std::net::{IpAddr, SocketAddr};

use lambda_http::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, FORWARDED, HOST, ORIGIN, VARY,
    },
};

use crate::{
    config::Config,
    mode::Mode,
    problem::{Code, Problem},
};

/// Headers in which proxies name the client, one address or several with commas between.
const CLIENTS: &[&str] = &[
    "x-forwarded-for",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
];
/// Headers in which they name the host that the client asked for.
const HOSTS: &[&str] = &["x-forwarded-host", "x-forwarded-server", "x-original-host"];
/// Headers in which they name the protocol that the client spoke.
const PROTOCOLS: &[&str] = &[
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
];
/// What no development server on this machine sends.
const PROXIES_ONLY: &[&str] = &["via", "cdn-loop"];
/// Where a browser says that a request comes from, unless its user typed the address.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

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
        let refused = |detail| Err(Problem::new(Code::Forbidden, detail));
        let host = one(headers, &HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(is_loopback) {
            return refused(
                "Local mode answers on this machine only; call it as localhost or 127.0.0.1.",
            );
        }
        if !came_directly(headers) {
            return refused(
                "Local mode does not answer through a proxy or a tunnel; call it directly, or set \
                 DEPLOY_ENV so that users sign in.",
            );
        }
        match (headers.contains_key(ORIGIN), self.allowed_origin(headers)) {
            (_, Some(_)) => Ok(()),
            (true, None) => Err(Problem::new(
                Code::Forbidden,
                "This web page may not call; add its origin to ALLOWED_ORIGINS if it is yours.",
            )
            .because(format!(
                "origin {} is not in ALLOWED_ORIGINS",
                shown_origin(headers)
            ))),
            (false, None) if asked_by_another_site(headers) => refused(
                "Another web page asked for this; type the address into the browser instead.",
            ),
            (false, None) => Ok(()),
        }
    }

    /// Whether a browser sent this: a web page, whoever's it is.
    #[must_use]
    pub fn from_a_browser(headers: &HeaderMap) -> bool {
        headers.contains_key(ORIGIN)
            || headers
                .keys()
                .any(|name| name.as_str().starts_with("sec-fetch-"))
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
#[must_use]
pub fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// The origin for the log, shortened: a page chooses it.
fn shown_origin(headers: &HeaderMap) -> String {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    origin.unwrap_or_default().chars().take(100).collect()
}

/// A value that is not known asks as much as `cross-site`.
fn asked_by_another_site(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    !sites.all(|site| site == "same-origin" || site == "none")
}

/// Whether nothing says that somebody beyond this machine is asking. A front end's development server
/// says of itself that it is on loopback and speaks http.
fn came_directly(headers: &HeaderMap) -> bool {
    let all = |names: &[&str], fits: fn(&str) -> bool| {
        let mut values = names.iter().flat_map(|name| headers.get_all(*name));
        values.all(|value| {
            value
                .to_str()
                .is_ok_and(|list| list.split(',').all(|one| fits(one.trim())))
        })
    };
    let forwarded = |value: &HeaderValue| value.to_str().is_ok_and(is_forwarded_here);
    !PROXIES_ONLY.iter().any(|name| headers.contains_key(*name))
        && all(CLIENTS, is_loopback_address)
        && all(HOSTS, is_loopback)
        && all(PROTOCOLS, is_http)
        && headers.get_all(FORWARDED).iter().all(forwarded)
}

/// `Forwarded` (RFC 7239): hops with commas between, each `name=value` with semicolons between.
fn is_forwarded_here(value: &str) -> bool {
    value.split([',', ';']).all(|pair| {
        let Some((name, value)) = pair.split_once('=') else {
            return false;
        };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "for" | "by" => is_loopback_address(value),
            "host" => is_loopback(value),
            "proto" => is_http(value),
            _ => false,
        }
    })
}

fn is_http(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("http") || protocol.eq_ignore_ascii_case("ws")
}

/// An address of this machine's loopback, with or without a port; also IPv4 as IPv6 writes it.
fn is_loopback_address(text: &str) -> bool {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>();
    let address = address.or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_loopback(host: &str) -> bool {
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
    fn local_mode_refuses_what_came_through_a_proxy_or_a_tunnel() {
        let admitted = |name: &'static str, value: &str| {
            let host = ("host", "127.0.0.1:8787");
            local().admit(&headers(&[host, (name, value)])).is_ok()
        };
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "127.0.0.1, 203.0.113.9"),
            ("x-forwarded-for", "203.0.113.9, 127.0.0.1"),
            ("x-forwarded-for", "unknown"),
            ("x-forwarded-for", ""),
            ("x-forwarded-for", "127.0.0.1.nip.io"),
            ("x-forwarded-host", "keys.example.com"),
            ("x-forwarded-host", "localhost, keys.example.com"),
            ("x-forwarded-server", "edge.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-proto", "http,https"),
            ("x-real-ip", "203.0.113.9"),
            ("x-real-ip", "10.0.0.1"),
            ("cf-connecting-ip", "203.0.113.9"),
            ("true-client-ip", "2001:db8::1"),
            ("via", "1.1 nginx"),
            ("via", "1.1 localhost"),
            ("cdn-loop", "cloudflare"),
            ("forwarded", "for=203.0.113.9"),
            ("forwarded", "for=127.0.0.1;proto=https"),
            ("forwarded", "for=127.0.0.1, for=198.51.100.2"),
            ("forwarded", "host=keys.example.com"),
            ("forwarded", "for=_hidden"),
            ("forwarded", "for=unknown;by=127.0.0.1"),
            ("forwarded", "secret=x"),
            ("forwarded", "for"),
        ] {
            assert!(!admitted(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-for", "::1, ::ffff:127.0.0.1"),
            ("x-forwarded-for", "127.0.0.1:50123"),
            ("x-forwarded-host", "localhost:3000"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "3000"),
            ("x-real-ip", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1;host=localhost:3000;proto=http"),
            (
                "forwarded",
                "For=\"[::1]:50123\"; by=\"[::1]\", for=127.0.0.1",
            ),
        ] {
            assert!(admitted(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn local_mode_refuses_a_frame_an_image_or_a_link_of_another_site() {
        for (site, origin, admitted) in [
            ("cross-site", None, false),
            ("same-site", None, false),
            ("unheard-of", None, false),
            ("", None, false),
            ("same-origin", None, true),
            ("none", None, true),
            ("cross-site", Some("http://localhost:3000"), true),
            ("same-site", Some("http://localhost:3000"), true),
            ("cross-site", Some("http://localhost:3001"), false),
            ("same-origin", Some("https://evil.test"), false),
        ] {
            let mut pairs = vec![("host", "127.0.0.1:8787"), ("sec-fetch-site", site)];
            pairs.extend(origin.map(|origin| ("origin", origin)));
            assert_eq!(
                local().admit(&headers(&pairs)).is_ok(),
                admitted,
                "{pairs:?}"
            );
        }
        let twice = [
            ("host", "localhost"),
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert!(local().admit(&headers(&twice)).is_err(), "two sites");
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

//! Events of API Gateway, put right before they become requests.
//!
//! lambda_http 1.3 builds a URL from a request's path, `Host` and `X-Forwarded-Proto` and panics where
//! that is none; it panics at a body that is not the base64 it is said to be, and at an address longer
//! than `http` takes. A release aborts on a panic, and with it the instance. So nothing that a caller
//! wrote is left where it looks. No handler reads the address's host or scheme.

use base64::{Engine, engine::general_purpose::STANDARD};
use lambda_http::{
    Adapter, Error, IntoResponse, LambdaEvent, Request, Response, Service, StreamAdapter,
    aws_lambda_events::apigw::ApiGatewayProxyRequest,
    http::{HeaderMap, HeaderName, header::HOST},
    lambda_runtime::{self, Diagnostic},
    request::LambdaRequest,
    tower::ServiceExt,
};

/// Longest path and query string, in bytes as they arrive: API Gateway takes 10,240 of all headers and the
/// request line together, and a byte can become three in a URL, of which `http` takes 65,534.
const ADDRESS_MAX_BYTES: usize = 20_000;
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// As `lambda_http::run`.
///
/// # Errors
/// When the runtime ends.
pub async fn run<'a, R, S, E>(handler: S) -> Result<(), Error>
where
    S: Service<Request, Response = R, Error = E>,
    S::Future: Send + 'a,
    R: IntoResponse,
    E: std::fmt::Debug + Into<Diagnostic>,
{
    lambda_runtime::run(Adapter::from(handler).map_request(put_right)).await
}

/// As `lambda_http::run_with_streaming_response`.
///
/// # Errors
/// When the runtime ends.
pub async fn run_streaming<'a, S, B, E>(handler: S) -> Result<(), Error>
where
    S: Service<Request, Response = Response<B>, Error = E>,
    S::Future: Send + 'a,
    E: std::fmt::Debug + Into<Diagnostic>,
    B: http_body::Body + Unpin + Send + 'static,
    B::Data: Into<bytes::Bytes> + Send,
    B::Error: Into<Error> + Send + std::fmt::Debug,
{
    lambda_runtime::run(StreamAdapter::from(handler).map_request(put_right)).await
}

fn put_right(mut event: LambdaEvent<LambdaRequest>) -> LambdaEvent<LambdaRequest> {
    if let LambdaRequest::ApiGatewayV1(request) = &mut event.payload {
        put_right_request(request);
    }
    event
}

fn put_right_request(request: &mut ApiGatewayProxyRequest) {
    keep_repeated(request);
    // Handlers see both headers all the same: lists of values are joined in later.
    for name in [HOST, FORWARDED_PROTO] {
        set_aside(
            &name,
            &mut request.headers,
            &mut request.multi_value_headers,
        );
    }
    request.request_context.domain_name = None;
    let length = address_bytes(request);
    let path = request.path.get_or_insert_default();
    if length > ADDRESS_MAX_BYTES {
        // No route is there.
        *path = "/".to_owned();
        request.query_string_parameters = Default::default();
        request.multi_value_query_string_parameters = Default::default();
    }
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let body = request.body.as_deref().unwrap_or_default();
    if request.is_base64_encoded && STANDARD.decode(body).is_err() {
        // An empty one is refused with words.
        request.body = None;
    }
}

/// lambda_http puts a header's last value in the place of all of them. What a caller sent twice must stay
/// two, so that it is refused here as everywhere: two tokens, two content types, two versions.
fn keep_repeated(request: &mut ApiGatewayProxyRequest) {
    let all = &request.multi_value_headers;
    let repeated = all
        .keys()
        .filter(|name| all.get_all(*name).iter().nth(1).is_some());
    for name in repeated {
        request.headers.remove(name);
    }
}

fn set_aside(name: &HeaderName, from: &mut HeaderMap, to: &mut HeaderMap) {
    if let Some(value) = from.remove(name)
        && !to.contains_key(name)
    {
        to.insert(name, value);
    }
}

fn address_bytes(request: &ApiGatewayProxyRequest) -> usize {
    let path = request.path.as_deref().map_or(0, str::len);
    let stage = request.request_context.stage.as_deref().map_or(0, str::len);
    let queries = [
        &request.query_string_parameters,
        &request.multi_value_query_string_parameters,
    ];
    let queries = queries.into_iter().flat_map(|query| query.iter());
    let queries = queries.map(|(name, value)| name.len() + value.len() + 2);
    path + stage + queries.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use lambda_http::{Context, RequestExt};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// What handlers see of it; `None` for what the runtime itself refuses to read.
    fn arrived(event: &Value) -> Option<Request> {
        let payload = serde_json::from_value(event.clone()).ok()?;
        let event = put_right(LambdaEvent::new(payload, Context::default()));
        Some(event.payload.into())
    }

    fn list(change: impl FnOnce(&mut Value)) -> Value {
        let text = include_str!("../../events/fetch-keys/list.json");
        let mut event: Value = serde_json::from_str(text).unwrap();
        change(&mut event);
        event
    }

    #[test]
    fn an_ordinary_event_arrives_with_its_path_query_and_headers() {
        let event = list(|event| {
            event["headers"]["X-Forwarded-Proto"] = json!("https");
            event["multiValueQueryStringParameters"] = json!({"limit": ["5"]});
        });
        let request = arrived(&event).unwrap();
        assert_eq!(request.raw_http_path(), "/api/onboarding/api-keys");
        assert_eq!(request.uri().query(), Some("limit=5"));
        assert_eq!(request.uri().host(), None);
        assert_eq!(request.headers()["x-forwarded-proto"], "https");
        assert!(request.headers().contains_key(HOST));
    }

    #[test]
    fn a_header_that_was_sent_twice_arrives_twice() {
        let event = list(|event| {
            for (name, values) in [
                ("Authorization", ["Bearer one", "Bearer two"]),
                ("Content-Type", ["application/json", "text/plain"]),
                ("Origin", ["https://app.test", "https://evil.test"]),
            ] {
                event["headers"][name] = json!(values[1]);
                event["multiValueHeaders"][name] = json!(values);
            }
        });
        let request = arrived(&event).unwrap();
        for name in ["authorization", "content-type", "origin"] {
            assert_eq!(request.headers().get_all(name).iter().count(), 2, "{name}");
        }
    }

    #[test]
    fn no_forwarded_proto_host_or_path_ends_an_instance() {
        for odd in [
            "http,https",
            "",
            "a b",
            "é",
            "http://",
            "//",
            "\u{0}",
            ":",
            "[",
            "%",
            "java script:",
        ] {
            for name in ["X-Forwarded-Proto", "x-forwarded-proto", "Host", "host"] {
                for map in ["headers", "multiValueHeaders"] {
                    let value = match map {
                        "headers" => json!(odd),
                        _ => json!([odd, odd]),
                    };
                    arrived(&list(|event| event[map][name] = value));
                }
            }
            for field in ["domainName", "stage"] {
                arrived(&list(|event| event["requestContext"][field] = json!(odd)));
            }
            arrived(&list(|event| event["path"] = json!(odd)));
            arrived(&list(|event| {
                event["path"] = json!(odd);
                event["requestContext"]["stage"] = json!(null);
            }));
        }
        for event in [
            list(|event| event["headers"] = json!(null)),
            list(|event| event["path"] = json!(null)),
            list(|event| event["path"] = json!("/é".repeat(40_000))),
            list(|event| event["queryStringParameters"] = json!({"é": "é".repeat(40_000)})),
            list(|event| {
                event["multiValueQueryStringParameters"] = json!({"x": vec!["é"; 40_000]})
            }),
            list(|event| {
                event["isBase64Encoded"] = json!(true);
                event["body"] = json!("not base64!");
            }),
        ] {
            assert!(arrived(&event).is_some());
        }
    }

    proptest! {
        #[test]
        fn no_event_ends_an_instance(
            proto in ".{0,40}", host in ".{0,40}", path in ".{0,40}", stage in ".{0,10}",
            query in proptest::collection::hash_map(".{0,10}", ".{0,10}", 0..3),
            body in ".{0,40}", encoded in any::<bool>(),
        ) {
            arrived(&list(|event| {
                event["headers"]["X-Forwarded-Proto"] = json!(proto);
                event["headers"]["Host"] = json!(host);
                event["multiValueHeaders"]["Host"] = json!([host]);
                event["path"] = json!(path);
                event["requestContext"]["stage"] = json!(stage);
                event["requestContext"]["domainName"] = json!(host);
                event["queryStringParameters"] = json!(query);
                event["body"] = json!(body);
                event["isBase64Encoded"] = json!(encoded);
            }));
        }
    }
}

//! The OpenAPI description: what is the same for every route.
//!
//! Functions describe their own routes with `utoipa`; a failure there is a status whose description
//! lists our codes. [`complete`] turns those into documented failures and adds the ones that every
//! route has. Must not know any route.

use std::collections::{BTreeMap, BTreeSet};

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
        SecurityRequirement, Type,
        example::ExampleBuilder,
        path::Operation,
        schema::{ObjectBuilder, Schema, SchemaType},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::problem::{Code, Problem, Shown};

const SCHEME: &str = "clerk";
/// Failures that any route can answer with.
const ALWAYS: [Code; 5] = [
    Code::Unauthorized,
    Code::Forbidden,
    Code::RateLimited,
    Code::Internal,
    Code::TemporarilyUnavailable,
];

/// A description that names a code or a status which does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not among our codes, or not with this status")]
pub struct UnknownCode(String);

/// Adds every route's failures, with examples, and the security scheme.
///
/// # Errors
/// [`UnknownCode`]
pub fn complete(api: &mut OpenApi) -> Result<(), UnknownCode> {
    let mut ids = BTreeSet::new();
    let components = api.components.get_or_insert_default();
    for item in api.paths.paths.values_mut() {
        for (method, operation) in [
            ("get", &mut item.get),
            ("post", &mut item.post),
            ("patch", &mut item.patch),
            ("delete", &mut item.delete),
        ] {
            let Some(operation) = operation else { continue };
            describe_failures(operation, &mut components.responses)?;
            leave_out_instead_of_null(operation);
            // The same handler may answer two methods; each needs a name of its own.
            let id = operation.operation_id.get_or_insert_default();
            if !ids.insert(id.clone()) {
                *id = format!("{id}_by_{method}");
            }
        }
    }
    let problem = <Shown<'_> as PartialSchema>::schema();
    components
        .schemas
        .insert(Shown::name().into_owned(), problem);
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A Clerk session token. Local mode needs none."));
    components.security_schemes.insert(
        SCHEME.to_owned(),
        SecurityScheme::Http(bearer.build()).into(),
    );
    let nothing: [String; 0] = [];
    api.security = Some(vec![SecurityRequirement::new(SCHEME, nothing)]);
    Ok(())
}

/// `utoipa` says of an optional header or body that it may be null; neither can be, only absent.
fn leave_out_instead_of_null(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema
            && let SchemaType::Array(types) = &object.schema_type
            && let Some(kind) = types.iter().find(|kind| **kind != Type::Null)
        {
            object.schema_type = SchemaType::Type(kind.clone());
        }
    }
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return;
    };
    for content in body.content.values_mut() {
        if let RefOr::T(content) = content
            && let Some(RefOr::T(Schema::OneOf(either))) = &content.schema
            && let Some(body) = either
                .items
                .iter()
                .find(|item| matches!(item, RefOr::Ref(_)))
        {
            content.schema = Some(body.clone());
        }
    }
}

/// Refers to each failure by name; the same one is described once for all routes.
fn describe_failures(
    operation: &mut Operation,
    described: &mut BTreeMap<String, RefOr<Response>>,
) -> Result<(), UnknownCode> {
    let mut failures: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for (status, response) in &operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        let Some(status) = status.parse().ok().filter(|status| *status >= 400) else {
            continue;
        };
        for name in response.description.split(", ") {
            let code = Code::ALL.iter().find(|code| code.as_str() == name);
            let code = code.filter(|code| code.status().as_u16() == status);
            let code = code.ok_or_else(|| UnknownCode(name.to_owned()))?;
            failures.entry(status).or_default().push(*code);
        }
    }
    for code in ALWAYS {
        failures
            .entry(code.status().as_u16())
            .or_default()
            .push(code);
    }
    if operation.request_body.is_some() {
        // Not JSON, or not of its shape; too large; another media type.
        for status in [400, 413, 415] {
            let codes = failures.entry(status).or_default();
            if !codes.contains(&Code::InvalidRequest) {
                codes.push(Code::InvalidRequest);
            }
        }
    }
    for (status, codes) in failures {
        let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
        let name = format!("{status}.{}", names.join("."));
        let reference = Ref::from_response_name(&name);
        described.insert(name, failure(status, &codes).build().into());
        let responses = &mut operation.responses.responses;
        responses.insert(status.to_string(), reference.into());
    }
    Ok(())
}

fn failure(status: u16, codes: &[Code]) -> ResponseBuilder {
    let mut content = ContentBuilder::new().schema(Some(Ref::from_schema_name(Shown::name())));
    for &code in codes {
        let mut problem = match status {
            413 => Problem::too_large(16 * 1024),
            415 => Problem::not_json(),
            _ => Problem::advising(code),
        };
        if status == 429 {
            problem = problem.retry_after(30);
        }
        let shown = serde_json::to_value(problem.shown("c6af9ac6-7b61-11e6-9a41-93e8deadbeef"));
        let example = ExampleBuilder::new().value(shown.ok());
        content = content.examples_from_iter([(code.as_str(), example)]);
    }
    let lines: Vec<_> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.as_str(), code.title()))
        .collect();
    let response = ResponseBuilder::new()
        .description(lines.join("; "))
        .content("application/problem+json", content.build());
    match status {
        429 | 503 => {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
            let header = HeaderBuilder::new().schema(Some(seconds));
            let header = header.description(Some("Seconds after which another try makes sense"));
            response.header("Retry-After", header.build())
        }
        _ => response,
    }
}

//! The OpenAPI description of every HTTP route, made from the code.

use user_api_keys::openapi::{UnknownCode, complete};
use utoipa::OpenApi;

const ABOUT: &str = "Keeps each person's own AI provider keys encrypted, and uses them on that \
                     person's behalf. A path that is not listed answers 404 `not_found`, another \
                     method 405 `method_not_allowed`.";

#[derive(OpenApi)]
#[openapi(info(title = "user-api-keys", description = ABOUT))]
struct Whole;

/// The description as it stands in `openapi.json`.
///
/// # Errors
/// When a route names a failure that does not exist.
pub fn description() -> Result<String, UnknownCode> {
    let mut api = Whole::openapi();
    for (function, mut part) in [
        ("save-keys", save_keys::Api::openapi()),
        ("fetch-keys", fetch_keys::Api::openapi()),
        ("onboarding", onboarding::Api::openapi()),
        ("generate-content", generate_content::Api::openapi()),
    ] {
        for item in part.paths.paths.values_mut() {
            let operations = [
                &mut item.get,
                &mut item.post,
                &mut item.patch,
                &mut item.delete,
            ];
            for operation in operations.into_iter().flatten() {
                operation.tags = Some(vec![function.to_owned()]);
            }
        }
        api.paths.merge(part.paths);
        let schemas = part.components.map(|components| components.schemas);
        api.components
            .get_or_insert_default()
            .schemas
            .extend(schemas.unwrap_or_default());
    }
    complete(&mut api)?;
    // Maps of strings always serialise.
    Ok(api.to_pretty_json().unwrap_or_default() + "\n")
}

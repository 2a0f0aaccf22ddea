//! `/openapi.json` and `/docs`, both from this binary: reading them needs no network.

use std::collections::BTreeMap;

use axum::{Router, routing::get};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::problem::MEDIA_TYPE;

/// Scripts, styles and requests of this origin only. Swagger UI sets styles on elements and shows pictures it holds as data.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The two routes over a finished document.
pub fn router<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    let text = json(document);
    let config =
        Config::new(["/openapi.json"]).validator_url("none").try_it_out_enabled(true).persist_authorization(false);
    let docs: Router<S> = SwaggerUi::new("/docs").config(config).into();
    Router::new()
        .route("/openapi.json", get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text) }))
        .merge(docs.layer(SetResponseHeaderLayer::overriding(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(DOCS_POLICY),
        )))
}

/// The document's text: the same document is the same text, whatever order its maps keep.
pub fn json(document: &OpenApi) -> String {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    if let Some(paths) = document["paths"].as_object_mut() {
        // What takes in slashes has a star for the router alone.
        *paths = std::mem::take(paths).into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                finish(path, method, operation);
            }
        }
    }
    serde_json::to_string_pretty(&sorted(document)).map_or_else(|_| "{}".to_owned(), |text| text + "\n")
}

/// Makes up what handlers can't say for themselves: a name that no other operation has, the problems'
/// media type, and the refusals that need no handler.
fn finish(path: &str, method: &str, operation: &mut Value) {
    let Some(operation) = operation.as_object_mut() else { return };
    if !operation.contains_key("responses") {
        return;
    }
    let words =
        path.trim_start_matches("/api/v1").split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let id = std::iter::once(method).chain(words).collect::<Vec<_>>().join("_");
    operation.insert("operationId".to_owned(), id.into());
    if path.starts_with("/oauth/") {
        // There refusals are RFC 6749's, in plain JSON.
        let schema = json!({ "$ref": "#/components/schemas/OAuthError" });
        let refused =
            json!({ "description": "Any other refusal", "content": { "application/json": { "schema": schema } } });
        if let Some(responses) = operation["responses"].as_object_mut() {
            responses.entry("default").or_insert(refused);
        }
        return;
    }
    // What comes before any handler: a body too long or of another type, too many requests, a defect.
    let refused = json!({
        "description": "Any other refusal",
        "content": { MEDIA_TYPE: { "schema": { "$ref": "#/components/schemas/Problem" } } }
    });
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.entry("default").or_insert(refused);
    }
    for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let content = response.get_mut("content").and_then(Value::as_object_mut);
        if let Some(content) = content.filter(|_| status.starts_with(['4', '5']))
            && let Some(problem) = content.remove("application/json")
        {
            content.insert(MEDIA_TYPE.to_owned(), problem);
        }
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members: BTreeMap<String, Value> =
                members.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(members.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

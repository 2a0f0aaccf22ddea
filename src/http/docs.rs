//! `/openapi.json` and `/docs`, both from this binary: reading them needs no network.

use axum::{Router, routing::get};
use http::{HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

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

/// The document's text: the same document is the same text.
pub fn json(document: &OpenApi) -> String {
    document.to_pretty_json().map_or_else(|_| "{}".to_owned(), |text| text + "\n")
}

//! A service that judges keys in its own process: nothing is asked on a request.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use keyledger_projections::{
    Denied, Surface,
    edge::{Edge, EdgeDenied},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let edge = Edge::connect(&std::env::var("LEDGER_URL")?, &std::env::var("KEYLEDGER_TOKEN")?)?;
    edge.ready().await;
    let service = Router::new().route("/hello", get(hello)).with_state(edge);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
    println!("http://{}/hello", listener.local_addr()?);
    Ok(axum::serve(listener, service).await?)
}

async fn hello(State(edge): State<Edge>, headers: HeaderMap) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = authorization.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match edge.verify(key, Some(Surface::Runtime), edge.now()) {
        Ok(verdict) => format!("hello, {}\n", verdict.credential).into_response(),
        Err(EdgeDenied::Key(Denied::WrongSurface(_))) => StatusCode::FORBIDDEN.into_response(),
        Err(EdgeDenied::Key(_)) => StatusCode::UNAUTHORIZED.into_response(),
        // No news from the ledger: nobody can say.
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

//! A gateway for agents: each holds a WebSocket on its `ak-` key's word, and loses it within milliseconds of the key's
//! end: revoked, ended with its device, or past its end by the clock. Nobody else's socket is touched.
//!
//! ```sh
//! KEYLEDGER_TOKEN=sv-… cargo run --example gateway -- https://ledger.example 127.0.0.1:8080
//! ```
//!
//! An agent connects to `/agent` with `Authorization: Bearer ak-…`. Here its messages come back as they are; a real
//! gateway would do something for them.
//!
//! The edge is strict: when nothing was heard of the ledger for five seconds no new socket is opened, and those that are
//! open are closed, for nobody could say any more whether their keys have ended.

use std::{
    collections::HashMap,
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    response::{IntoResponse as _, Response},
    routing::any,
};
use http::{HeaderMap, StatusCode, header};
use keyledger_events::{
    CredentialId,
    secret::{Presented, SecretHash},
};
use keyledger_projections::{
    Denied, Surface,
    edge::{Edge, EdgeDenied, Ended, EndedReceiver, Question},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::oneshot};

const AGENT: Question =
    Question { surface: Some(Surface::Agent), team: None, address: keyledger_events::presented::AddressClass::Unknown };

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let ledger = arguments.next().ok_or("usage: gateway LEDGER_URL ADDRESS:PORT")?;
    let address = arguments.next().ok_or("usage: gateway LEDGER_URL ADDRESS:PORT")?;
    let edge = Edge::connect(&ledger, &std::env::var("KEYLEDGER_TOKEN")?)?;
    edge.ready().await;
    let listener = TcpListener::bind(address).await?;
    println!("ws://{}/agent", listener.local_addr()?);
    Ok(serve(listener, edge).await?)
}

/// Serves agents until the listener fails.
pub async fn serve(listener: TcpListener, edge: Edge) -> io::Result<()> {
    let gateway = Arc::new(Gateway { edge, sockets: Mutex::default(), next: AtomicU64::new(0) });
    tokio::spawn(close_the_ended(gateway.clone(), gateway.edge.ended()));
    axum::serve(listener, Router::new().route("/agent", any(connect)).with_state(gateway)).await
}

struct Gateway {
    edge: Edge,
    sockets: Mutex<HashMap<CredentialId, Vec<Socket>>>,
    next: AtomicU64,
}

/// An open socket. Of its key only the hash is kept, to ask again.
struct Socket {
    number: u64,
    key: SecretHash,
    close: oneshot::Sender<()>,
}

impl Socket {
    fn end(self) {
        // The agent may have left.
        let _ = self.close.send(());
    }
}

async fn connect(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(key) = bearer.and_then(|key| Presented::parse(key.as_bytes()).ok()).map(|key| key.hash()) else {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    };
    match gateway.edge.verify_hash(&key, &AGENT, gateway.edge.now()) {
        Ok(verdict) => upgrade.on_upgrade(async move |socket| gateway.hold(socket, verdict.credential, key).await),
        Err(EdgeDenied::Key(Denied::WrongSurface(_))) => StatusCode::FORBIDDEN.into_response(),
        Err(EdgeDenied::Key(_)) => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")]).into_response()
        }
        Err(EdgeDenied::Stale | EdgeDenied::Closed(_)) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

impl Gateway {
    /// Talks to an agent until it leaves or its key ends.
    async fn hold(&self, mut socket: WebSocket, credential: CredentialId, key: SecretHash) {
        let (close, closed) = oneshot::channel();
        let number = self.next.fetch_add(1, Relaxed);
        self.sockets.lock().entry(credential).or_default().push(Socket { number, key, close });
        // It may have ended between the answer and here, when nobody would have told this socket.
        if self.edge.verify_hash(&key, &AGENT, self.edge.now()).is_ok() {
            tokio::select! {
                _ = closed => {}
                () = talk(&mut socket) => {}
            }
        }
        self.forget(credential, number);
        // It may be gone already.
        let why = CloseFrame { code: close_code::POLICY, reason: "the key has ended".into() };
        let _ = socket.send(Message::Close(Some(why))).await;
    }

    fn forget(&self, credential: CredentialId, number: u64) {
        let mut sockets = self.sockets.lock();
        if let Some(of_credential) = sockets.get_mut(&credential) {
            of_credential.retain(|socket| socket.number != number);
            if of_credential.is_empty() {
                sockets.remove(&credential);
            }
        }
    }

    /// Closes the sockets of keys that are not good any more.
    fn check_all(&self) {
        let now = self.edge.now();
        self.sockets.lock().retain(|_, sockets| {
            let all = std::mem::take(sockets);
            let (good, ended): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|socket| self.edge.verify_hash(&socket.key, &AGENT, now).is_ok());
            ended.into_iter().for_each(Socket::end);
            *sockets = good;
            !sockets.is_empty()
        });
    }
}

/// What a gateway does for an agent, until the agent leaves.
async fn talk(socket: &mut WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        match message {
            Message::Text(_) | Message::Binary(_) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return,
        }
    }
}

async fn close_the_ended(gateway: Arc<Gateway>, mut ended: EndedReceiver) {
    while let Some(ended) = ended.recv().await {
        match ended {
            Ended::Credential(credential) => {
                let sockets = gateway.sockets.lock().remove(&credential).unwrap_or_default();
                sockets.into_iter().for_each(Socket::end);
            }
            Ended::Any => gateway.check_all(),
        }
    }
}

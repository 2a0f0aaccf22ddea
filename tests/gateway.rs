//! `examples/gateway.rs` against the real server: which sockets close, and which stay.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod gateway;
mod support;

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use keyledger_projections::edge::{Edge, Policy};
use serde_json::json;
use support::ledger::{Ledger, eventually};
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket};

struct Gateway {
    address: SocketAddr,
    edge: Edge,
    _runtime: tokio::runtime::Runtime,
}

impl Gateway {
    fn before(ledger: &Ledger, token: &str) -> Self {
        let policy = Policy::Strict { max: Duration::from_secs(3) };
        let edge = Edge::builder(&ledger.url(), token).policy(policy).connect().unwrap();
        eventually("the edge is ready", || edge.is_ready());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(gateway::serve(listener, edge.clone()));
        Self { address, edge, _runtime: runtime }
    }

    /// The status if it was not taken.
    fn connect(&self, key: &str) -> Result<WebSocket<TcpStream>, u16> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let uri = format!("ws://{}/agent", self.address).parse().unwrap();
        let request = ClientRequestBuilder::new(uri).with_header("Authorization", format!("Bearer {key}"));
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    fn connected(&self, key: &str) -> WebSocket<TcpStream> {
        eventually("the edge knows the key", || self.edge.verify(key, None, self.edge.now()).is_ok());
        self.connect(key).unwrap()
    }
}

fn answers(socket: &mut WebSocket<TcpStream>) -> bool {
    let sent = socket.send(Message::text("hello"));
    sent.is_ok() && matches!(socket.read(), Ok(Message::Text(text)) if text == "hello")
}

#[track_caller]
fn closed(socket: &mut WebSocket<TcpStream>) {
    let Ok(Message::Close(Some(frame))) = socket.read() else { panic!("it was not closed") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1008, "the key has ended"));
}

#[test]
fn exactly_the_sockets_of_ended_keys_are_closed() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let token = owner.post("/api/v1/service-credentials", &json!({ "display_name": "gateway" })).expect(201);
    let gateway = Gateway::before(&ledger, &token.text("raw_key"));
    let (agent_id, agent) = owner.issue("agent", "agent", None);
    let (rotated_id, rotated) = owner.issue("agent", "rotated", None);
    let (_, other) = owner.issue("agent", "other", None);
    let (_, integration) = owner.issue("integration", "no agent", None);
    let [device_id, _, _, companion] = owner.pair("laptop");
    let [mut one, mut two] = [&agent, &agent].map(|key| gateway.connected(key));
    let [mut rotated, mut with_device, mut stays] = [&rotated, &companion, &other].map(|key| gateway.connected(key));
    eventually("it is known", || gateway.edge.verify(&integration, None, gateway.edge.now()).is_ok());
    assert_eq!(gateway.connect(&integration).err(), Some(403));
    assert_eq!(gateway.connect("ak-none").err(), Some(401));
    assert!([&mut one, &mut two, &mut rotated, &mut with_device, &mut stays].into_iter().all(answers));

    owner.delete(&format!("/api/v1/credentials/{agent_id}")).expect(204);
    closed(&mut one);
    closed(&mut two);
    assert_eq!(gateway.connect(&agent).err(), Some(401));
    assert!([&mut rotated, &mut with_device, &mut stays].into_iter().all(answers));

    owner.delete(&format!("/api/v1/credentials/{device_id}")).expect(204);
    closed(&mut with_device);
    assert!([&mut rotated, &mut stays].into_iter().all(answers));

    owner.post(&format!("/api/v1/credentials/{rotated_id}/rotate"), &json!({ "overlap_seconds": 1 })).expect(201);
    closed(&mut rotated);
    assert!(answers(&mut stays));

    // Nobody can say any more which keys have ended.
    let mut ledger = ledger;
    ledger.kill();
    closed(&mut stays);
    assert_eq!(gateway.connect(&other).err(), Some(503));
    ledger.start(&[]);
    assert!(answers(&mut gateway.connected(&other)));
}

//! What the tests of the HTTP platform share: a server on a free port, and a client that may misbehave.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod ledger;
pub mod proxy;
pub mod receiver;
pub mod routes;
pub mod strace;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use keyledger::http::{
    metrics::Metrics,
    server::{Drained, FastPath, Limits, Server},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};

/// A server that runs until it is dropped or stopped.
pub struct Running {
    pub address: SocketAddr,
    pub metrics: Arc<Metrics>,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Drained>>,
}

impl Running {
    pub fn start(limits: Limits, router: Router, fast: impl FastPath) -> Self {
        let metrics = Arc::new(Metrics::new());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::new(limits, router, fast, Arc::clone(&metrics));
        let task = runtime.spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        Self { address, metrics, runtime, stop: Some(stop), task: Some(task) }
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self) -> Drained {
        drop(self.stop.take());
        self.runtime.block_on(self.task.take().unwrap()).unwrap()
    }

    /// Asks it to end without waiting.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    pub fn connect(&self) -> Client {
        Client::to(self.address)
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.answer().expect("an answer")
    }
}

/// A request with a body and the headers that it needs.
pub fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// A socket, and what was read from it beyond the last answer.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// So many bytes, whatever they are.
    pub fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            assert!(self.more(), "closed after {:?}", self.buffer);
        }
        self.buffer.drain(..len).collect()
    }

    /// Sends what it can; the server may have hung up.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Reads one answer with a Content-Length; none if the server closed first.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answer_to("GET")
    }

    /// The same to this method: what answers a HEAD has no body, whatever length it names.
    pub fn answer_to(&mut self, method: &str) -> Option<Answer> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
                let answer = Answer { head, body: String::new() };
                let len = answer.header("content-length").filter(|_| method != "HEAD");
                let len = len.map_or(0, |len| len.parse().unwrap());
                while self.buffer.len() < end + 4 + len {
                    if !self.more() {
                        return None;
                    }
                }
                let body = String::from_utf8_lossy(&self.buffer[end + 4..end + 4 + len]).into_owned();
                self.buffer.drain(..end + 4 + len);
                return Some(Answer { body, ..answer });
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// Waits until the server closes; panics if it doesn't within the socket's timeout.
    pub fn closed(&mut self) {
        while self.more() {}
    }

    fn more(&mut self) -> bool {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(len) => {
                self.buffer.extend_from_slice(&piece[..len]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the server neither answered nor closed")
            }
            Err(_) => false,
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The problem's code.
    pub fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

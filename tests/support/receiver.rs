//! A receiver of webhooks: TLS on a port of its own, and whatever answer the test wants.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::Value;

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers this status, with these header lines.
    Answer(u16, &'static str),
    /// Hangs up without an answer.
    Reset,
    /// Answers nothing for so long.
    Silent(Duration),
    /// Answers 200 and a body without an end.
    Endless,
}

/// A message that has arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub target: String,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
    /// Whether it was answered 2xx.
    pub taken: bool,
}

impl Arrived {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> String {
        self.headers[name].to_str().unwrap().to_owned()
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    pub fn position(&self) -> u64 {
        self.json()["data"]["position"].as_u64().unwrap()
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    /// For the next requests, one each; then 200 for ever.
    pub behaviours: Arc<Mutex<VecDeque<Behaviour>>>,
    pub arrived: Arc<Mutex<Vec<Arrived>>>,
    closing: Arc<AtomicBool>,
}

/// A certificate for 127.0.0.1 and localhost, signed by itself, and its key.
pub struct Identity {
    pub pem: String,
    tls: Arc<ServerConfig>,
}

impl Identity {
    pub fn new() -> Self {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned(), "hooks.example".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self { pem: made.cert.pem(), tls: Arc::new(tls) }
    }

    /// The certificate as a file.
    pub fn write(&self, dir: &Path) -> String {
        let file = dir.join("receiver.pem");
        std::fs::write(&file, &self.pem).unwrap();
        file.display().to_string()
    }
}

impl Receiver {
    pub fn start(identity: &Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            behaviours: Arc::default(),
            arrived: Arc::default(),
            closing: Arc::default(),
        };
        let (tls, behaviours, arrived, closing) = (
            identity.tls.clone(),
            receiver.behaviours.clone(),
            receiver.arrived.clone(),
            receiver.closing.clone(),
        );
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if closing.load(Ordering::Relaxed) {
                    return;
                }
                let (tls, behaviours, arrived) = (tls.clone(), behaviours.clone(), arrived.clone());
                let Ok(socket) = socket else { continue };
                std::thread::spawn(move || serve(socket, tls, &behaviours, &arrived));
            }
        });
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.behaviours.lock().unwrap().extend(behaviours);
    }

    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// What was answered 2xx, in order.
    pub fn taken(&self) -> Vec<Arrived> {
        self.arrived().into_iter().filter(|arrived| arrived.taken).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// One connection: request after request, until either side has enough.
fn serve(
    socket: TcpStream,
    tls: Arc<ServerConfig>,
    behaviours: &Mutex<VecDeque<Behaviour>>,
    arrived: &Mutex<Vec<Arrived>>,
) -> Option<()> {
    socket.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls).ok()?, socket);
    loop {
        let (target, headers, body) = read_request(&mut stream)?;
        let behaviour = behaviours.lock().unwrap().pop_front().unwrap_or(Behaviour::Answer(200, ""));
        let taken = matches!(behaviour, Behaviour::Answer(200..300, _) | Behaviour::Endless);
        arrived.lock().unwrap().push(Arrived { target, headers, body, taken });
        match behaviour {
            Behaviour::Answer(status, lines) => {
                let answer = format!("HTTP/1.1 {status} X\r\n{lines}Content-Length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).ok()?;
            }
            Behaviour::Reset => return None,
            Behaviour::Silent(how_long) => {
                std::thread::sleep(how_long);
                return None;
            }
            Behaviour::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").ok()?;
                while stream.write_all(&[b'x'; 16_384]).is_ok() {}
                return None;
            }
        }
    }
}

fn read_request(stream: &mut impl Read) -> Option<(String, http::HeaderMap, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        more(stream, &mut bytes)?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: http::HeaderMap = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.trim().parse().unwrap()))
        .collect();
    let len: usize = headers["content-length"].to_str().ok()?.parse().ok()?;
    let mut body = bytes.split_off(end + 4);
    while body.len() < len {
        more(stream, &mut body)?;
    }
    Some((target, headers, body))
}

fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece) {
        Ok(len) if len > 0 => {
            bytes.extend_from_slice(&piece[..len]);
            Some(())
        }
        _ => None,
    }
}

//! A real proxy with its configuration from `deploy/`, and an application behind it that remembers what reaches it.

use std::{
    env,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
};

use super::ledger::{Api, Ledger, PATIENCE};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
    Haproxy,
    Traefik,
    Envoy,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
            Self::Haproxy => "haproxy",
            Self::Traefik => "traefik",
            Self::Envoy => "envoy",
        }
    }

    /// Its configuration's files, the one that it is started with first.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &["nginx.conf", "keyledger.conf"],
            Self::Caddy => &["Caddyfile"],
            Self::Haproxy => &["haproxy.cfg", "keyledger.lua"],
            Self::Traefik => &["traefik.yml", "dynamic.yml"],
            Self::Envoy => &["envoy.yaml"],
        }
    }

    /// What it answers to a client while the ledger answers nothing.
    pub const fn status_unanswered(self) -> u16 {
        match self {
            Self::Nginx | Self::Haproxy | Self::Envoy => 503,
            Self::Caddy => 502,
            Self::Traefik => 500,
        }
    }

    /// Its executable, where this machine has it: in the path, or where `tests/run` has put it.
    pub fn executable(self) -> Option<PathBuf> {
        let ours = Path::new(env!("CARGO_BIN_EXE_keyledger")).ancestors().nth(2).unwrap().join("proxies/bin");
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into(), ours]);
        places.map(|place| place.join(self.program())).find(|file| file.is_file())
    }
}

/// What the application got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body_len: usize,
}

impl Seen {
    /// All values of headers of this name, in any spelling that somebody may take for it.
    pub fn like(&self, name: &str) -> Vec<&str> {
        let alike = |given: &str| given.replace('_', "-").eq_ignore_ascii_case(name);
        self.headers.iter().filter(|(given, _)| alike(given)).map(|(_, value)| value.as_str()).collect()
    }
}

#[derive(Default)]
struct Memory {
    seen: Mutex<Vec<Seen>>,
}

/// A proxy before an application, asking a ledger.
pub struct Proxy {
    pub url: String,
    pub port: u16,
    memory: Arc<Memory>,
    child: Child,
    home: TempDir,
    _runtime: Runtime,
}

impl Proxy {
    /// Starts it as `deploy/` has it, on other ports.
    pub fn start(kind: Kind, executable: &Path, ledger: &Ledger) -> Self {
        let (home, port) = (tempfile::tempdir().unwrap(), free_port());
        let memory = Arc::new(Memory::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let app = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(application).with_state(memory.clone());
        runtime.spawn(async { axum::serve(listener, router).await });
        configure(kind, home.path(), &[("7470", ledger.port()), ("8080", app), ("8000", port)]);
        let log = || File::options().create(true).append(true).open(home.path().join("log")).unwrap();
        let child = command(kind, executable, home.path())
            .current_dir(home.path())
            .env("HOME", home.path())
            .env("XDG_DATA_HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let mut proxy = Self { url, port, memory, child, home, _runtime: runtime };
        let (api, began) = (proxy.through(ledger), Instant::now());
        while api.try_send("GET", "/", &[], b"").is_none_or(|reply| reply.status != 401) {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "{kind:?} {ended:?}: {}", proxy.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        proxy
    }

    /// Nobody in particular, who asks the application through the proxy.
    pub fn through(&self, ledger: &Ledger) -> Api {
        Api { url: self.url.clone(), ..ledger.api() }
    }

    /// What has reached the application since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.memory.seen.lock())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy said:\n{}", self.log());
        }
    }
}

/// Copies the files of `deploy/`, and puts these ports in the place of those.
fn configure(kind: Kind, home: &Path, ports: &[(&str, u16)]) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(kind.program());
    let texts: Vec<_> = kind.files().iter().map(|file| fs::read_to_string(deploy.join(file)).unwrap()).collect();
    for (from, _) in ports {
        assert!(texts.iter().any(|text| text.contains(from)), "{from} is in no file of {}", deploy.display());
    }
    for (file, mut text) in kind.files().iter().zip(texts) {
        for (from, to) in ports {
            text = text.replace(from, &to.to_string());
        }
        if kind == Kind::Caddy {
            // Its address for administration is one for the whole machine.
            text = format!("{{\n\tadmin off\n}}\n{text}");
        }
        fs::write(home.join(file), text).unwrap();
    }
}

fn command(kind: Kind, executable: &Path, home: &Path) -> Command {
    let mut command = Command::new(executable);
    let file = kind.files()[0];
    match kind {
        // It ends with its process.
        Kind::Nginx => {
            let one_process = "daemon off; master_process off;";
            command.arg("-p").arg(home).args(["-c", file, "-e", "stderr", "-g", one_process])
        }
        Kind::Caddy => command.args(["run", "--adapter", "caddyfile", "--config", file]),
        Kind::Haproxy => command.args(["-db", "-f", file]),
        Kind::Traefik => command.arg(format!("--configFile={file}")),
        Kind::Envoy => command.args(["-c", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warn"]),
    };
    command
}

/// Remembers every request; an upgrade is granted, and what comes then is sent back.
async fn application(State(memory): State<Arc<Memory>>, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_else(|_| Bytes::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    memory.seen.lock().push(Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect(),
        body_len: body.len(),
    });
    let connection = head.headers.get(header::CONNECTION).map(|value| text(value.as_bytes()).to_ascii_lowercase());
    if !head.headers.contains_key(header::UPGRADE) || !connection.is_some_and(|value| value.contains("upgrade")) {
        return "the application".into_response();
    }
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut piece = [0; 64];
        while let Ok(len @ 1..) = stream.read(&mut piece).await {
            if stream.write_all(&piece[..len]).await.is_err() {
                return;
            }
        }
    });
    let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let switching = switching.header(header::CONNECTION, "upgrade").header(header::UPGRADE, "websocket");
    // To the key of RFC 6455 §1.3, which the tests send. HAProxy wants to see it.
    let switching = switching.header(header::SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    switching.body(Body::empty()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

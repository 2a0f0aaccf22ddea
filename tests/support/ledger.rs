//! The real binary as a process of its own: started, asked over HTTP, killed, and looked at from outside.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use ureq::{
    Agent,
    http::{HeaderValue, Request, Uri},
};

/// How long a start, a shutdown or a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory, and the server on it while there is one.
pub struct Ledger {
    home: TempDir,
    port: u16,
    starts: usize,
    child: Option<Child>,
    environment: Vec<(String, String)>,
}

impl Ledger {
    /// A fresh ledger, not started. Nobody is slowed down by rate limits.
    pub fn new() -> Self {
        let environment = ["ADDRESS", "ANONYMOUS", "VERIFY_FAILURES", "KEY"]
            .map(|what| (format!("KEYLEDGER_RATE_{what}_PER_MINUTE"), "0".to_owned()))
            .into_iter()
            // No test asks anybody outside.
            .chain([("KEYLEDGER_WEBHOOK_ALLOW_NETWORKS".to_owned(), "127.0.0.1".to_owned())])
            .chain([("KEYLEDGER_LEAK_KEYS_URL".to_owned(), String::new())])
            .collect();
        Self { home: tempfile::tempdir().unwrap(), port: free_port(), starts: 0, child: None, environment }
    }

    /// With a setting, named as in the environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((format!("KEYLEDGER_{name}"), value.to_owned()));
        self
    }

    /// A fresh ledger that answers.
    pub fn started() -> Self {
        let mut ledger = Self::new();
        ledger.start(&[]);
        ledger
    }

    pub fn dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A folder beside the data.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The command line of `serve`, ready to run.
    pub fn serve(&self, flags: &[&str]) -> Command {
        let mut command = command();
        command.args(["serve", "--listen", &format!("127.0.0.1:{}", self.port), "--data"]).arg(self.dir()).args(flags);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the server and waits until it is ready.
    pub fn start(&mut self, flags: &[&str]) {
        self.start_as(self.serve(flags));
    }

    /// The same under a command line of the caller's.
    pub fn start_as(&mut self, command: Command) {
        if let Err(status) = self.try_start_as(command) {
            panic!("the server ended with {status}: {}", self.output());
        }
    }

    /// The same where it may end before it is ready.
    pub fn try_start_as(&mut self, mut command: Command) -> Result<(), ExitStatus> {
        assert!(self.child.is_none(), "it runs already");
        self.starts += 1;
        command.stdout(self.file("out")).stderr(self.file("err")).stdin(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let api = self.api();
        let began = Instant::now();
        while api.ready().is_none_or(|status| status != 200) {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                return Err(status);
            }
            assert!(began.elapsed() < PATIENCE, "the server is not ready: {}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn file(&self, what: &str) -> File {
        File::create(self.home.path().join(format!("{what}.{}", self.starts))).unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.ended()
    }

    /// Waits for an end that comes by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if began.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("the server does not end: {}", self.output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What all starts have written to standard error.
    pub fn log(&self) -> String {
        self.written("err")
    }

    /// What the last start printed.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.home.path().join(format!("out.{}", self.starts))).unwrap()
    }

    fn output(&self) -> String {
        self.written("out") + &self.written("err")
    }

    fn written(&self, what: &str) -> String {
        let read = |n| fs::read(self.home.path().join(format!("{what}.{n}"))).unwrap_or_default();
        (1..=self.starts).map(|n| String::from_utf8_lossy(&read(n)).into_owned()).collect()
    }

    /// Nobody in particular.
    pub fn api(&self) -> Api {
        Api { agent: agent(), url: self.url(), token: None, team: None, id: String::new() }
    }

    /// The owner, by the token in the printed curl.
    pub fn owner(&self) -> Api {
        let mut owner = self.owner_if_there();
        owner.id = owner.get("/api/v1/whoami").expect(200).text("user_id");
        owner
    }

    /// The same, without asking the server who that is.
    pub fn owner_if_there(&self) -> Api {
        let printed = self.printed();
        let between = |from: &str| {
            let rest = &printed[printed.find(from).expect("a curl is printed") + from.len()..];
            rest[..rest.find('\'').unwrap()].to_owned()
        };
        let mut owner = self.api();
        owner.token = Some(between("Authorization: Bearer "));
        owner.team = Some(between("X-Team-ID: "));
        owner
    }

    /// `keyledger replay …` over this ledger's directory.
    pub fn replay(&self, arguments: &[&str]) -> Output {
        replay(&self.dir(), arguments)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server said:\n{}", self.output());
        }
    }
}

/// The binary, in an environment without settings.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyledger"));
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| name.to_string_lossy().starts_with("KEYLEDGER_")) {
        command.env_remove(name);
    }
    command
}

/// `keyledger replay WHAT DIR …`.
pub fn replay(dir: &Path, arguments: &[&str]) -> Output {
    let (what, rest) = arguments.split_first().unwrap();
    command().args(["replay", what]).arg(dir).args(rest).output().unwrap()
}

/// What a command said, for a failed assertion.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{} {} {}", output.status, text(&output.stdout), text(&output.stderr))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(PATIENCE))
        // An answer may come before its request's body was read, and then the connection ends with it.
        .max_idle_connections(0)
        .build()
        .new_agent()
}

/// Somebody who asks: with a token or without, in a team or none.
#[derive(Clone)]
pub struct Api {
    pub agent: Agent,
    pub url: String,
    pub token: Option<String>,
    pub team: Option<String>,
    /// The person's id, if it is a person.
    pub id: String,
}

impl Api {
    /// The same place with another bearer and no team.
    pub fn bearing(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), team: None, id: String::new(), ..self.clone() }
    }

    /// The same person in another team.
    pub fn in_team(&self, team: &str) -> Self {
        Self { team: Some(team.to_owned()), ..self.clone() }
    }

    /// Any request; none if the connection broke.
    pub fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Reply> {
        let uri: Uri = format!("{}{path}", self.url).parse().unwrap();
        let mut request = Request::builder().method(method).uri(uri);
        let has = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some(token) = self.token.as_ref().filter(|_| !has("authorization")) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(team) = self.team.as_ref().filter(|_| !has("x-team-id")) {
            request = request.header("X-Team-ID", team);
        }
        if !body.is_empty() && !has("content-type") {
            request = request.header("Content-Type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let what = format!("{method} {path}");
        let response = if body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE") {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body).unwrap())
        };
        let mut response = response.inspect_err(|error| eprintln!("{what}: {error}")).ok()?;
        let headers = response.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let headers = headers.collect();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().ok()?;
        Some(Reply { what, status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_send(method, path, headers, body).unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }

    fn ready(&self) -> Option<u16> {
        self.try_send("GET", "/readyz", &[], b"").map(|reply| reply.status)
    }

    /// Follows a link's URL; whoever comes out of it, in the first of their teams.
    pub fn follow(&self, url: &str, name: Option<&str>) -> Self {
        let token = url.split_once("token=").expect("a link has a token").1;
        let body = match name {
            Some(name) => json!({ "token": token, "name": name }),
            None => json!({ "token": token }),
        };
        let came = self.post("/api/v1/auth/link", &body).expect(200).json();
        Self {
            token: came["access_token"].as_str().map(str::to_owned),
            team: came["teams"]
                .as_array()
                .and_then(|teams| teams.last())
                .and_then(|team| team["id"].as_str())
                .map(str::to_owned),
            id: came["user_id"].as_str().unwrap().to_owned(),
            ..self.clone()
        }
    }

    /// Invites somebody into this team; the new member.
    pub fn invite(&self, role: &str, name: &str) -> Self {
        let url = self.post("/api/v1/members/invitations", &json!({ "role": role })).expect(201).text("url");
        let nobody = Self { token: None, team: None, id: String::new(), ..self.clone() };
        let joined = nobody.follow(&url, Some(name));
        joined.in_team(self.team.as_ref().unwrap())
    }

    /// Issues a key: its id and its secret.
    pub fn issue(&self, kind: &str, name: &str, expires_in_days: Option<u16>) -> (String, String) {
        let body = json!({ "kind": kind, "display_name": name, "expires_in_days": expires_in_days });
        let reply = self.post("/api/v1/credentials", &body).expect(201);
        (reply.text("id"), reply.text("raw_key"))
    }

    /// Pairs a device: its id and its secret, its companion's id and secret.
    pub fn pair(&self, name: &str) -> [String; 4] {
        let anyone = Self { token: None, team: None, ..self.clone() };
        let start = anyone.post("/api/v1/desktop/pair/start", &json!({ "device_name": name })).expect(200);
        self.post("/api/v1/desktop/pair/confirm", &json!({ "user_code": start.text("user_code") })).expect(204);
        let poll = json!({ "device_code": start.text("device_code") });
        let got = anyone.post("/api/v1/desktop/pair/poll", &poll).expect(200);
        let (device, companion) = (got.text("raw_key"), got.text("agent_key"));
        [
            self.verified(&device).text("credential_id"),
            device,
            self.verified(&companion).text("credential_id"),
            companion,
        ]
    }

    /// Checks a key.
    pub fn verify(&self, key: &str, body: &Value) -> Reply {
        self.bearing(key).post("/api/v1/verify", body)
    }

    /// A key that must be good.
    pub fn verified(&self, key: &str) -> Reply {
        self.verify(key, &json!({})).expect(200)
    }

    /// A key that must be dead or unknown: 401, and no hint which.
    pub fn refused(&self, key: &str) {
        let reply = self.verify(key, &json!({})).expect(401);
        assert_eq!(reply.code(), "invalid_token");
        assert!(reply.header("www-authenticate").is_some_and(|value| value.contains("invalid_token")), "{reply:?}");
    }

    /// How many events the log has, as far as answers say.
    pub fn position(&self) -> String {
        self.get("/healthz").header("ledger-position").expect("a position").to_owned()
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What was asked.
    pub what: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// A member that is text.
    #[track_caller]
    pub fn text(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {self:?}")).to_owned()
    }

    /// The problem's code, or OAuth's.
    pub fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["code"].as_str().or(body["error"].as_str()).unwrap_or_default().to_owned()
    }
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it never came about that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All files under a folder.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Copies a folder.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

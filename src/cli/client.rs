//! The way to the server: one request, one JSON answer or one sentence why not.

use std::{
    io::{Read, Write as _},
    net::IpAddr,
    time::Duration,
};

use serde_json::Value;
use ureq::{Agent, Body, http};
use uuid::Uuid;

use super::{
    Failure, Global,
    saved::{self, Saved},
};
use crate::http::problem::ProblemBody;

/// Where a server is if nobody says.
pub const SERVER_DEFAULT: &str = "http://127.0.0.1:7470";
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than the largest page of a list.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whom the requests are from and to.
pub struct Client {
    agent: Agent,
    /// The server's address, without a trailing slash.
    pub server: String,
    /// The token, if there is one.
    pub token: Option<String>,
    /// Whether the token is the saved one.
    pub is_saved: bool,
    team: Option<Uuid>,
    expires_at: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its JSON; null without a body.
    pub body: Value,
    /// Seconds that `Retry-After` asks for.
    pub retry_after_seconds: Option<u64>,
}

/// A long answer on its way.
pub struct Stream {
    /// How many events the team's stream has, if the server says so.
    pub stream_events: Option<u64>,
    /// What comes; an error if it is cut off.
    pub body: Box<dyn Read>,
}

impl Client {
    /// By the flags, the environment and the saved sign-in, in this order.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let saved = saved::load()?;
        let server = match (&global.server, &saved) {
            (Some(server), _) => checked(server)?,
            (None, Some(saved)) => saved.server.clone(),
            (None, None) => SERVER_DEFAULT.to_owned(),
        };
        // A token goes to the server that gave it, and nowhere else.
        let saved = saved.filter(|saved| saved.server == server);
        let of_environment = environment("KEYLEDGER_TOKEN");
        let is_saved = of_environment.is_none() && saved.is_some();
        let (token, expires_at) = match (of_environment, &saved) {
            (Some(token), _) => (Some(token), None),
            (None, Some(Saved { token, expires_at, .. })) => (Some(token.clone()), expires_at.clone()),
            (None, None) => (None, None),
        };
        let team = global.team.or(saved.and_then(|saved| saved.team));
        let client = Self { agent: agent(), server, token, is_saved, team, expires_at };
        client.warn_of_clear_text();
        Ok(client)
    }

    /// To one server, with nothing to show.
    pub fn anonymous(server: &str) -> Result<Self, Failure> {
        let client = Self {
            agent: agent(),
            server: checked(server)?,
            token: None,
            is_saved: false,
            team: None,
            expires_at: None,
        };
        client.warn_of_clear_text();
        Ok(client)
    }

    /// The same with another token.
    pub fn with_token(&self, token: String) -> Self {
        Self {
            agent: self.agent.clone(),
            server: self.server.clone(),
            token: Some(token),
            is_saved: false,
            team: None,
            expires_at: None,
        }
    }

    /// `GET` under `/api/v1`.
    pub fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.done(self.send("GET", path, query, None)?)
    }

    /// Any method with a JSON body under `/api/v1`.
    pub fn write(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        self.done(self.send(method, path, &[], Some(body))?)
    }

    /// One request; the answer whatever its status.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        self.send_to(method, &format!("{}/api/v1{path}", self.server), query, body)
    }

    /// One request outside `/api/v1`.
    pub fn get_outside(&self, path: &str) -> Result<Answer, Failure> {
        self.send_to("GET", &format!("{}{path}", self.server), &[], None)
    }

    /// `GET` of something long under `/api/v1`, to be read piece by piece.
    ///
    /// # Errors
    /// Any refusal.
    pub fn open(&self, path: &str, query: &[(&str, String)]) -> Result<Stream, Failure> {
        let request = self.request("GET", &format!("{}/api/v1{path}", self.server), query, false);
        let request = request.body(()).map_err(unsendable)?;
        let sent = streaming_agent().run(request);
        let response = sent.map_err(|error| Failure::Refused(format!("{} can't be reached: {error}", self.server)))?;
        if !response.status().is_success() {
            let odd = || Failure::Refused(format!("{}: the answer is of no form known here", self.server));
            return Err(self.done(self.read(response)?).err().unwrap_or_else(odd));
        }
        let stream_events = response.headers().get("ledger-stream-events");
        let stream_events = stream_events.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Stream { stream_events, body: Box::new(response.into_body().into_reader()) })
    }

    /// What the ledger signs about the team now.
    pub fn statement(&self) -> Result<String, Failure> {
        let mut note = String::new();
        self.open("/statement", &[])?.body.read_to_string(&mut note).map_err(Failure::io("the answer"))?;
        Ok(note)
    }

    fn send_to(
        &self,
        method: &str,
        url: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let request = self.request(method, url, query, body.is_some());
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(text).map_err(unsendable)?;
        let sent = if body.is_some() { self.agent.run(request) } else { self.agent.run(request.map(|_| ())) };
        self.read(sent.map_err(|error| Failure::Refused(format!("{} can't be reached: {error}", self.server)))?)
    }

    fn request(&self, method: &str, url: &str, query: &[(&str, String)], has_body: bool) -> http::request::Builder {
        let mut url = url.to_owned();
        for (number, (name, value)) in query.iter().enumerate() {
            url.push(if number == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            percent_encode(value, &mut url);
        }
        let mut request = http::Request::builder().method(method).uri(&url).header("accept", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(team) = self.team {
            request = request.header("x-team-id", team.to_string());
        }
        if has_body {
            request = request.header("content-type", "application/json");
        }
        request
    }

    fn read(&self, mut response: http::Response<Body>) -> Result<Answer, Failure> {
        let retry_after_seconds =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| Failure::Refused(format!("{}: the answer broke off: {error}", self.server)))?;
        let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::Null) };
        Ok(Answer { status, body, retry_after_seconds })
    }

    /// The body of a success, or the refusal as one sentence.
    pub fn done(&self, answer: Answer) -> Result<Value, Failure> {
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        let mut sentence = refusal(&answer);
        if answer.status == 401 {
            sentence += match (&self.token, &self.expires_at) {
                (None, _) => " Run `keyledger login`, or set KEYLEDGER_TOKEN.",
                (Some(_), Some(_)) => " The saved sign-in may have ended; run `keyledger login` again.",
                (Some(_), None) => "",
            };
        }
        Err(Failure::Refused(sentence))
    }

    fn warn_of_clear_text(&self) {
        if !is_private_way(&self.server) {
            let _ = writeln!(
                std::io::stderr(),
                "keyledger: warning: {} is not https; what is sent can be read on the way",
                self.server
            );
        }
    }
}

/// A problem as one sentence with its code.
pub fn refusal(answer: &Answer) -> String {
    match serde_json::from_value::<ProblemBody>(answer.body.clone()) {
        Ok(problem) => {
            let detail = if problem.detail.is_empty() { problem.title } else { problem.detail };
            let revision = problem.members.get("revision").map(|revision| format!(" The revision is now {revision}."));
            format!("{detail}{} ({}, {})", revision.unwrap_or_default(), problem.code, answer.status)
        }
        Err(_) => format!("the server answered {} without saying why", answer.status),
    }
}

/// A variable of the environment that is text and not empty.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn unsendable(_: http::Error) -> Failure {
    Failure::Usage("the request can't be sent: the server's address or the token is malformed".to_owned())
}

fn agent() -> Agent {
    agent_of(Some(TIMEOUT))
}

/// For what may take long as a whole, as long as the server begins soon.
fn streaming_agent() -> Agent {
    agent_of(None)
}

fn agent_of(whole: Option<Duration>) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        // A redirect could carry the token elsewhere, and the API has none.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(whole)
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .allow_non_standard_methods(true)
        .user_agent(concat!("keyledger/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// A server's address in the form everything here compares.
pub fn checked(server: &str) -> Result<String, Failure> {
    let wrong = || {
        Failure::Usage("the server must be http:// or https:// and a host, such as http://127.0.0.1:7470".to_owned())
    };
    let uri: http::Uri = server.parse().map_err(|_| wrong())?;
    let good = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none();
    if good { Ok(server.trim_end_matches('/').to_owned()) } else { Err(wrong()) }
}

/// Whether nobody between can read: https, or this machine itself.
fn is_private_way(server: &str) -> bool {
    let Ok(uri) = server.parse::<http::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    uri.scheme_str() == Some("https")
        || host == "localhost"
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses() {
        for (server, good) in [
            ("http://127.0.0.1:7470", true),
            ("https://ledger.example/", true),
            ("http://[::1]:1", true),
            ("ledger.example", false),
            ("ftp://x", false),
            ("http://u:p@x", false),
            ("http://x/path", false),
            ("http://x?q", false),
            ("", false),
            ("http://", false),
        ] {
            assert_eq!(checked(server).is_ok(), good, "{server}");
        }
        for (server, private) in [
            ("http://127.0.0.1:7470", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("https://ledger.example", true),
            ("http://ledger.example", false),
            ("http://127.0.0.1.evil.example", false),
        ] {
            assert_eq!(is_private_way(server), private, "{server}");
        }
    }

    #[test]
    fn refusals_are_one_sentence_with_the_code() {
        let answer = |status, body| Answer { status, body, retry_after_seconds: None };
        assert_eq!(
            refusal(&answer(
                409,
                json!({"status": 409, "code": "stale_revision", "detail": "It changed.", "revision": 9})
            )),
            "It changed. The revision is now 9. (stale_revision, 409)"
        );
        assert_eq!(refusal(&answer(502, Value::Null)), "the server answered 502 without saying why");
    }

    #[test]
    fn queries_are_encoded() {
        let mut text = String::new();
        percent_encode("a b&c=é/+", &mut text);
        assert_eq!(text, "a%20b%26c%3D%C3%A9%2F%2B");
    }
}

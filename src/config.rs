//! The service's settings: defaults, then a TOML file, then `KEYLEDGER_*`, then flags; the later wins.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format as _, Serialized, Toml},
    value::{Dict, Map, Value},
};
use keyledger_events::head::is_origin;
use serde::{Deserialize, Serialize, de};

use crate::{
    http::{limits::Rates, server::Limits},
    leaks::github::KEYS_URL,
    webhooks::RETRY_SECONDS,
};

/// What every environment variable of the service begins with.
pub const ENV_PREFIX: &str = "KEYLEDGER_";

/// Variables with the prefix that are not the service's settings: the command line's, and the tests'.
const OTHER_VARIABLES: &[&str] = &["CONFIG", "SERVER", "TOKEN", "TEAM", "KEY", "LINK", "CONFIG_DIR", "SOAK", "SEED"];

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// All settings. One flat table: a setting has the same name in the file, as a flag and in the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The data directory.
    pub data: PathBuf,
    /// How people and programs reach the service, without a trailing slash; none: `http://` and `listen`.
    pub public_url: Option<String>,
    /// The name in the signed tree heads; none: `public_url` without its scheme. It must never change for a ledger.
    pub origin: Option<String>,
    /// The witnesses that are asked to cosign the tree heads, and how many must: a file in the C2SP tlog-policy form.
    pub witness_policy: Option<PathBuf>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written, as `tracing`'s env-filter.
    pub log_filter: String,
    /// Print a fresh sign-in link for the owner at start.
    pub sign_in_link: bool,
    /// Seconds added to the wall clock. For rehearsals: what is written under it keeps its time for ever.
    pub clock_offset_seconds: i64,
    /// How often the map of all streams is sealed into the log, in seconds, and whether at a clean end; 0: only on demand.
    pub seal_every_seconds: u64,
    /// Where the keys are published by which GitHub signs its reports of leaked secrets; empty: signatures are not looked at.
    pub leak_keys_url: String,
    /// Networks on the inside that webhooks may lead to all the same.
    pub webhook_allow_networks: Vec<Network>,
    /// Certificate authorities that webhooks' receivers are trusted by, beside the system's: a PEM file.
    pub webhook_ca_file: Option<PathBuf>,
    /// How long after each failed delivery to a webhook the next attempt comes, in seconds; after the last it is parked.
    pub webhook_retry_seconds: Vec<u64>,
    /// HTTP connections at once.
    pub connections_max: usize,
    /// The longest request head, in bytes.
    pub header_bytes_max: usize,
    /// How long a request's head may take, in milliseconds.
    pub header_timeout_ms: u64,
    /// How long a request's body may take, in milliseconds.
    pub body_timeout_ms: u64,
    /// How long a connection may wait for its next request, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long an answer may wait for its reader, in milliseconds.
    pub write_timeout_ms: u64,
    /// How long requests in flight may take at shutdown, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Requests a minute and address; 0: no limit.
    pub rate_address_per_minute: u32,
    /// Requests a minute and address that need no credential, such as starting a pairing; 0: no limit.
    pub rate_anonymous_per_minute: u32,
    /// Failed verifications a minute and address; 0: no limit. Those that succeed are not limited.
    pub rate_verify_failures_per_minute: u32,
    /// Requests a minute and person or key; 0: no limit.
    pub rate_key_per_minute: u32,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        let rates = Rates::default();
        let ms = |duration: Duration| duration.as_millis() as u64;
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7470)),
            data: PathBuf::from("keyledger-data"),
            public_url: None,
            origin: None,
            witness_policy: None,
            trusted_proxies: Vec::new(),
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            sign_in_link: false,
            clock_offset_seconds: 0,
            seal_every_seconds: 3600,
            leak_keys_url: KEYS_URL.to_owned(),
            webhook_allow_networks: Vec::new(),
            webhook_ca_file: None,
            webhook_retry_seconds: RETRY_SECONDS.to_vec(),
            connections_max: limits.connections_max,
            header_bytes_max: limits.header_bytes_max,
            header_timeout_ms: ms(limits.header_timeout),
            body_timeout_ms: ms(limits.body_timeout),
            idle_timeout_ms: ms(limits.idle_timeout),
            write_timeout_ms: ms(limits.write_timeout),
            drain_timeout_ms: ms(limits.drain_timeout),
            rate_address_per_minute: rates.address_per_minute,
            rate_anonymous_per_minute: rates.anonymous_per_minute,
            rate_verify_failures_per_minute: rates.verify_failures_per_minute,
            rate_key_per_minute: rates.key_per_minute,
        }
    }
}

/// A setting that can't be used, with where it stands.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the settings. `environment` are the process's variables; of `flags`, what is given.
    ///
    /// # Errors
    /// [`ConfigError`]: an unknown setting or an unusable value, with the file, variable or flag it stands in.
    pub fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &impl Serialize,
    ) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if let Err(error) = std::fs::File::open(file) {
                return Err(ConfigError(format!("the configuration file {}: {error}", file.display())));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let figment = figment.merge(Environment::new(environment)).merge(Flags(flags));
        let config: Self = figment.extract().map_err(|error| ConfigError(sentences(error)))?;
        config.check()?;
        Ok(config)
    }

    /// Reads the settings of this process, without flags. The file is what `KEYLEDGER_CONFIG` names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn of_environment() -> Result<Self, ConfigError> {
        let file = std::env::var_os("KEYLEDGER_CONFIG").map(PathBuf::from);
        Self::read(file.as_deref(), environment(), &Dict::new())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |what: &str| Err(ConfigError(what.to_owned()));
        if self.public_url.as_deref().is_some_and(|url| !is_origin_url(url)) {
            return refuse("public_url must be http:// or https://, a host and perhaps a port, and nothing after them");
        }
        if self.origin.as_deref().is_some_and(|origin| !is_origin(origin)) {
            return refuse(
                "origin must have 1 to 200 bytes and hold neither space nor '+' (C2SP signed-note), and must not be \
                 of the form keyledger-…/…, which the ledger's other notes have",
            );
        }
        if self.seal_every_seconds > 31_536_000 {
            return refuse("seal_every_seconds must be at most 31536000, a year");
        }
        if !self.leak_keys_url.is_empty() && !is_http_url(&self.leak_keys_url) {
            return refuse("leak_keys_url must be empty, or http:// or https:// and a host");
        }
        let retries = &self.webhook_retry_seconds;
        if !(1..=100).contains(&retries.len()) || retries.iter().any(|seconds| *seconds > 604_800) {
            return refuse("webhook_retry_seconds must be 1 to 100 numbers of at most 604800, a week");
        }
        if self.connections_max == 0 {
            return refuse("connections_max must be at least 1");
        }
        if !(8 * 1024..=1024 * 1024).contains(&self.header_bytes_max) {
            return refuse("header_bytes_max must lie between 8192 and 1048576");
        }
        for (name, value) in [
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
        ] {
            if !(100..=3_600_000).contains(&value) {
                return refuse(&format!("{name} must lie between 100 and 3600000"));
            }
        }
        if self.drain_timeout_ms > 3_600_000 {
            return refuse("drain_timeout_ms must be at most 3600000");
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log_filter).is_err() {
            return refuse("log_filter is not a filter such as \"info\" or \"info,keyledger=debug\"");
        }
        Ok(())
    }

    /// How people and programs reach the service, without a trailing slash.
    pub fn public_url(&self) -> String {
        match &self.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if self.listen.ip().is_unspecified() => format!("http://localhost:{}", self.listen.port()),
            None => format!("http://{}", self.listen),
        }
    }

    /// The ledger's name in its signed tree heads.
    pub fn origin(&self) -> String {
        match &self.origin {
            Some(origin) => origin.clone(),
            None => self.public_url().split_once("://").map_or_else(String::new, |(_, rest)| rest.to_owned()),
        }
    }

    /// How often history is sealed; none: only on demand.
    pub fn seal_every(&self) -> Option<Duration> {
        (self.seal_every_seconds > 0).then(|| Duration::from_secs(self.seal_every_seconds))
    }

    /// What a client may take, and for how long.
    pub fn limits(&self) -> Limits {
        let ms = Duration::from_millis;
        Limits {
            connections_max: self.connections_max,
            header_timeout: ms(self.header_timeout_ms),
            body_timeout: ms(self.body_timeout_ms),
            idle_timeout: ms(self.idle_timeout_ms),
            write_timeout: ms(self.write_timeout_ms),
            header_bytes_max: self.header_bytes_max,
            drain_timeout: ms(self.drain_timeout_ms),
        }
    }

    /// How often somebody may ask.
    pub fn rates(&self) -> Rates {
        Rates {
            address_per_minute: self.rate_address_per_minute,
            anonymous_per_minute: self.rate_anonymous_per_minute,
            verify_failures_per_minute: self.rate_verify_failures_per_minute,
            key_per_minute: self.rate_key_per_minute,
        }
    }
}

/// The process's environment, as far as it is text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn is_origin_url(url: &str) -> bool {
    let bare = |uri: http::Uri| matches!(uri.path(), "" | "/") && uri.query().is_none();
    is_http_url(url) && url.parse().is_ok_and(bare) && !url.contains('#')
}

fn is_http_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let authority =
        uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
    authority && matches!(uri.scheme_str(), Some("http" | "https"))
}

/// All of figment's errors as sentences, each with its source.
fn sentences(error: figment::Error) -> String {
    let mut sentences: Vec<String> = error
        .into_iter()
        .map(|error| {
            let setting = error.path.join(".");
            let place = error.metadata.as_ref().map_or_else(String::new, |metadata| {
                let source = metadata.source.as_ref().map_or_else(String::new, |source| format!(" {source}"));
                format!(" (in {}{source})", metadata.name)
            });
            match error.kind {
                figment::error::Kind::UnknownField(name, _) => format!("there is no setting {name}{place}"),
                kind if setting.is_empty() => format!("{kind}{place}"),
                kind => format!("{setting}: {kind}{place}"),
            }
        })
        .collect();
    sentences.dedup();
    sentences.join("; ")
}

/// `KEYLEDGER_*` as a source of settings. figment's own provider would read a directory named 2026 as a number, and
/// panics on some quoted text (0.10.19, `"🌀\\￼"`).
struct Environment(Vec<(String, String)>);

impl Environment {
    fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let settings = variables.into_iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(ENV_PREFIX)?;
            (!OTHER_VARIABLES.contains(&name)).then(|| (name.to_ascii_lowercase(), value))
        });
        Self(settings.collect())
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("the environment, KEYLEDGER_*")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        const TEXT: &[&str] = &[
            "listen",
            "data",
            "public_url",
            "origin",
            "witness_policy",
            "webhook_ca_file",
            "log_format",
            "log_filter",
        ];
        let parsed = |name: &str, text: &str| -> Value {
            if TEXT.contains(&name) {
                return Value::from(text);
            }
            let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let number = |text: &str| text.parse::<i64>().map(Value::from).ok();
            match name {
                "trusted_proxies" | "webhook_allow_networks" => return Value::from(items().collect::<Vec<_>>()),
                "webhook_retry_seconds" => {
                    let seconds = items().map(|item| number(item).unwrap_or_else(|| Value::from(item)));
                    return Value::from(seconds.collect::<Vec<_>>());
                }
                _ => {}
            }
            text.parse::<bool>().map(Value::from).ok().or_else(|| number(text)).unwrap_or_else(|| Value::from(text))
        };
        let dict = self.0.iter().map(|(name, text)| (name.clone(), parsed(name, text))).collect();
        Ok(Profile::Default.collect(dict))
    }
}

/// The flags that were given.
struct Flags<'a, T>(&'a T);

impl<T: Serialize> Provider for Flags<'_, T> {
    fn metadata(&self) -> Metadata {
        Metadata::named("the command line's flags")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let flags = Value::serialize(self.0)?.into_dict().unwrap_or_default();
        let given = flags.into_iter().filter(|(_, value)| !matches!(value, Value::Empty(..)));
        Ok(Profile::Default.collect(given.collect()))
    }
}

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether the address lies in it. An IPv4 address in IPv6's clothes is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let ((one, one_len), (other, other_len)) = (bits(self.address), bits(address.to_canonical()));
        one_len == other_len && (self.prefix_bits == 0 || (one ^ other) >> (128 - u32::from(self.prefix_bits)) == 0)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkError)?
            }
            Some(_) => return Err(NetworkError),
        };
        if prefix_bits > bits_max { Err(NetworkError) } else { Ok(Self { address, prefix_bits }) }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// The text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network such as 10.0.0.0/8")]
pub struct NetworkError;

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_later_source_wins() {
        #[derive(Serialize)]
        struct Given {
            data: Option<PathBuf>,
            listen: Option<SocketAddr>,
        }
        let toml =
            file("listen = \"127.0.0.1:1\"\ndata = \"from-file\"\nidle_timeout_ms = 1000\nlog_format = \"json\"");
        let variables = env(&[
            ("KEYLEDGER_LISTEN", "127.0.0.1:2"),
            ("KEYLEDGER_DATA", "2026"),
            ("KEYLEDGER_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("KEYLEDGER_CONNECTIONS_MAX", "7"),
            ("KEYLEDGER_TOKEN", "not a setting"),
            ("PATH", "/bin"),
        ]);
        let flags = Given { data: None, listen: Some("127.0.0.1:3".parse().unwrap()) };
        let config = Config::read(Some(toml.path()), variables, &flags).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.data, PathBuf::from("2026"));
        assert_eq!((config.idle_timeout_ms, config.connections_max), (1000, 7));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.trusted_proxies.len(), 2);
        assert_eq!(config.public_url(), "http://127.0.0.1:3");
        assert_eq!(config.origin(), "127.0.0.1:3");
        assert_eq!(Config::read(None, [], &Dict::new()).unwrap(), Config::default());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_source() {
        for (toml, variables, needles) in [
            ("liste = 1", env(&[]), vec!["no setting liste", ".toml"]),
            ("listen = 1", env(&[]), vec!["listen", ".toml"]),
            ("[limits]\nx = 1", env(&[]), vec!["no setting limits"]),
            ("listen = ", env(&[]), vec!["TOML"]),
            ("", env(&[("KEYLEDGER_LISTN", "x")]), vec!["no setting listn", "environment"]),
            ("", env(&[("KEYLEDGER_CONNECTIONS_MAX", "many")]), vec!["connections_max", "environment"]),
            ("", env(&[("KEYLEDGER_CONNECTIONS_MAX", "0")]), vec!["connections_max"]),
            ("", env(&[("KEYLEDGER_HEADER_TIMEOUT_MS", "1")]), vec!["header_timeout_ms"]),
            ("", env(&[("KEYLEDGER_HEADER_BYTES_MAX", "100")]), vec!["header_bytes_max"]),
            ("", env(&[("KEYLEDGER_PUBLIC_URL", "https://x.example/path")]), vec!["public_url"]),
            ("", env(&[("KEYLEDGER_PUBLIC_URL", "ftp://x")]), vec!["public_url"]),
            ("", env(&[("KEYLEDGER_LEAK_KEYS_URL", "file:///keys")]), vec!["leak_keys_url"]),
            ("", env(&[("KEYLEDGER_ORIGIN", "a b")]), vec!["origin"]),
            ("", env(&[("KEYLEDGER_ORIGIN", "keyledger-key-rotation/v1")]), vec!["origin"]),
            ("", env(&[("KEYLEDGER_ORIGIN", "keyledger-team-statement/v1")]), vec!["origin", "keyledger-"]),
            ("", env(&[("KEYLEDGER_SEAL_EVERY_SECONDS", "-1")]), vec!["seal_every_seconds", "environment"]),
            ("", env(&[("KEYLEDGER_SEAL_EVERY_SECONDS", "31536001")]), vec!["seal_every_seconds"]),
            ("", env(&[("KEYLEDGER_LOG_FILTER", "==")]), vec!["log_filter"]),
            ("trusted_proxies = [\"10.0.0.0/33\"]", env(&[]), vec!["trusted_proxies", "10.0.0.0/8"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("keyledger.toml");
            std::fs::write(&path, toml).unwrap();
            let error = Config::read(Some(&path), variables, &Dict::new()).unwrap_err().to_string();
            for needle in needles {
                assert!(error.contains(needle), "{needle:?} is not in {error:?}, for {toml:?}");
            }
        }
        let error = Config::read(Some(Path::new("/nowhere/k.toml")), [], &Dict::new()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/k.toml"), "{error}");
    }

    #[test]
    fn networks() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "8.8.8.8", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("192.168.1.128/25", "192.168.1.200", "192.168.1.100"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{inside} in {network}");
            assert!(!network.contains(outside.parse().unwrap()), "{outside} in {network}");
        }
        for bad in ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "x"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,80}|[a-z_]{1,20} = .{0,20}") {
            let toml = file(&text);
            let _ = Config::read(Some(toml.path()), [], &Dict::new());
        }

        #[test]
        fn no_variable_makes_it_panic(name in "[A-Z_]{1,20}", value in "\\PC{0,40}") {
            let _ = Config::read(None, [(format!("KEYLEDGER_{name}"), value)], &Dict::new());
        }

        #[test]
        fn networks_never_panic_and_round_trip(text in "[0-9a-f.:/]{0,24}") {
            if let Ok(network) = text.parse::<Network>() {
                prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
                prop_assert!(network.contains(network.address));
            }
        }
    }
}

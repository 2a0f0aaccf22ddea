//! The real proxies, each with its configuration from `deploy/`, between a client and an application: what reaches the
//! application, and as whom. A proxy that this machine lacks is said aloud and not tried.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::{
    Client,
    ledger::{Api, Ledger, Reply, eventually},
    proxy::{Kind, Proxy, Seen},
};

const IDENTITY: [(&str, &str); 4] = [
    ("x-credential-id", "credential_id"),
    ("x-credential-kind", "kind"),
    ("x-team-id", "team_id"),
    ("x-user-id", "user_id"),
];

/// Ways to write a header's name, of which an application may take each for the same.
const SPELLINGS: [fn(&str) -> String; 4] =
    [str::to_owned, str::to_uppercase, |name| name.replace('-', "_"), |name| name.replacen("-", "_", 1)];

#[test]
fn nginx() {
    guards(Kind::Nginx);
}

#[test]
fn caddy() {
    guards(Kind::Caddy);
}

#[test]
fn haproxy() {
    guards(Kind::Haproxy);
}

#[test]
fn traefik() {
    guards(Kind::Traefik);
}

#[test]
fn envoy() {
    guards(Kind::Envoy);
}

fn guards(kind: Kind) {
    let Some(executable) = kind.executable() else {
        eprintln!("SKIPPED: {kind:?} is not here; its configuration in deploy/ was not tried");
        return;
    };
    let mut ledger = Ledger::started();
    let owner = ledger.owner();
    let (id, key) = owner.issue("integration", "through a proxy", None);
    let (_, other) = owner.issue("integration", "another", None);
    let (_, agent) = owner.issue("agent", "elsewhere", None);
    let proxy = Proxy::start(kind, &executable, &ledger);
    let nobody = proxy.through(&ledger);
    let bearer = nobody.bearing(&key);
    let identity = ledger.api().verified(&key);

    for (asking, status, challenge) in [
        (&nobody, 401, "Bearer realm=\"keyledger\""),
        (&nobody.bearing("sk-kl1nonsense"), 401, "Bearer realm=\"keyledger\", error=\"invalid_token\""),
        (&nobody.bearing(&key[..54]), 401, "Bearer realm=\"keyledger\", error=\"invalid_token\""),
        (
            &nobody.bearing(&agent),
            403,
            "Bearer realm=\"keyledger\", error=\"insufficient_scope\", scope=\"runtime\"",
        ),
    ] {
        for method in ["GET", "POST", "HEAD", "OPTIONS"] {
            let reply = kept_out(&proxy, asking, method, status);
            let challenges: Vec<_> =
                reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate")).collect();
            assert!(matches!(&challenges[..], [(_, told)] if told == challenge), "{reply:?}");
        }
    }

    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let body = if matches!(method, "POST" | "PUT" | "PATCH") { vec![b'x'; 100_000] } else { Vec::new() };
        let seen = let_in(&proxy, &bearer, method, "/orders?page=2&surface=agent", &[], &body, &identity);
        assert_eq!((seen.method.as_str(), seen.body_len), (method, body.len()), "{seen:?}");
        assert_eq!(seen.target, "/orders?page=2&surface=agent");
        // A refused body leaves nothing behind that the next request would have to pay for.
        kept_out_with(&proxy, &nobody, method, 401, &body);
    }
    spoofed(&proxy, &nobody, &bearer, &identity);

    if kind == Kind::Nginx {
        // Where it asks is no page of its own.
        let reply = bearer.get("/_keyledger?surface=agent").expect(404);
        assert!(proxy.seen().is_empty(), "{reply:?}");
    }
    let two = [("Authorization", format!("Bearer {key}")), ("Authorization", format!("Bearer {other}"))];
    let two = two.each_ref().map(|(name, value)| (*name, value.as_str()));
    let reply = nobody.send("GET", "/", &two, b"");
    assert!(matches!(reply.status, 400 | 401) && proxy.seen().is_empty(), "{reply:?}");

    // A key in a URL is the application's and its client's business; the ledger must not keep it.
    let_in(&proxy, &bearer, "GET", &format!("/orders/{other}?key={other}"), &[], b"", &identity);
    many_headers(kind, &proxy, &ledger, &bearer, &identity);
    upgraded(&proxy, &key, &identity);
    connections_are_kept(kind, &proxy, &ledger, &bearer);

    let asking = nobody.bearing(&other);
    assert_eq!(asking.get("/").status, 200);
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    proxy.seen();
    kept_out(&proxy, &bearer, "GET", 401);
    assert_eq!(asking.get("/").status, 200);
    proxy.seen();

    ledger.kill();
    std::thread::scope(|scope| {
        // HAProxy tries for three seconds.
        for asking in [&asking, &bearer, &nobody] {
            scope.spawn(|| kept_out(&proxy, asking, "GET", kind.status_unanswered()));
        }
    });
    ledger.start(&["--sign-in-link"]);
    eventually("the proxy asks the ledger again", || asking.get("/").status == 200);
    proxy.seen();
    kept_out(&proxy, &bearer, "GET", 401);
    assert!(ledger.stop().success());
    assert!(!ledger.log().contains(&other[13..]), "{}", ledger.log());
}

/// A request that must not reach the application.
fn kept_out(proxy: &Proxy, asking: &Api, method: &str, status: u16) -> Reply {
    kept_out_with(proxy, asking, method, status, b"")
}

#[track_caller]
fn kept_out_with(proxy: &Proxy, asking: &Api, method: &str, status: u16, body: &[u8]) -> Reply {
    let reply = asking.send(method, "/orders", &[], body).expect(status);
    let seen = proxy.seen();
    assert!(seen.is_empty(), "{reply:?} {seen:?}");
    assert!(!reply.body.contains("the application"), "{reply:?}");
    reply
}

/// A request that must reach the application, once, as whom the key says and without the key.
#[track_caller]
fn let_in(
    proxy: &Proxy,
    asking: &Api,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    identity: &Reply,
) -> Seen {
    let reply = asking.send(method, target, headers, body).expect(200);
    assert!(reply.header("www-authenticate").is_none(), "{reply:?}");
    came_once(proxy, identity)
}

/// What has reached the application: one request, as whom the key says and without the key.
#[track_caller]
fn came_once(proxy: &Proxy, identity: &Reply) -> Seen {
    let seen = proxy.seen();
    let [one] = seen.as_slice() else { panic!("{seen:?}") };
    for (header, member) in IDENTITY {
        assert_eq!(one.like(header), [identity.text(member)], "{one:?}");
    }
    assert_eq!(one.like("authorization"), [""; 0], "{one:?}");
    one.clone()
}

/// What a client says about itself never reaches the application, in whatever spelling, once or twice.
fn spoofed(proxy: &Proxy, nobody: &Api, bearer: &Api, identity: &Reply) {
    let spoofed: Vec<_> =
        IDENTITY.iter().flat_map(|(header, _)| SPELLINGS.map(|spell| (spell(header), "spoofed"))).collect();
    let spoofed: Vec<_> = spoofed.iter().chain(&spoofed).map(|(name, value)| (name.as_str(), *value)).collect();
    let_in(proxy, bearer, "GET", "/", &spoofed, b"", identity);
    for header in &spoofed {
        let_in(proxy, bearer, "GET", "/", &[*header], b"", identity);
    }
    // Nor can a client have them taken away again, as headers of its connection alone (RFC 9110 §7.6.1).
    let hop_by_hop = "keep-alive, X-Credential-Id, X-Credential-Kind, X-Team-Id, X-User-Id";
    let_in(proxy, bearer, "GET", "/", &[("Connection", hop_by_hop)], b"", identity);
    let reply = nobody.send("GET", "/", &spoofed, b"").expect(401);
    assert!(proxy.seen().is_empty(), "{reply:?}");
}

/// More headers than the ledger would read are no hindrance where the proxy hands on only what the question needs.
fn many_headers(kind: Kind, proxy: &Proxy, ledger: &Ledger, bearer: &Api, identity: &Reply) {
    let few = matches!(kind, Kind::Nginx | Kind::Traefik);
    let names: Vec<_> = (0..if few { 150 } else { 60 }).map(|number| format!("X-Many-{number}")).collect();
    let long = "x".repeat(4_000);
    let mut headers: Vec<_> = names.iter().map(|name| (name.as_str(), "yes")).collect();
    headers.push(("X-Long", &long));
    if !few {
        let_in(proxy, bearer, "GET", "/", &headers, b"", identity);
        return;
    }
    // The application's server takes a hundred as well; its refusal shows that the ledger had none.
    let valid = || sum(ledger, "keyledger_verifications_total{outcome=\"valid\"}");
    let before = valid();
    bearer.send("GET", "/", &headers, b"").expect(431);
    assert_eq!(valid(), before + 1);
}

fn upgraded(proxy: &Proxy, key: &str, identity: &Reply) {
    let ask = |authorization: &str| {
        let mut client = Client::to(([127, 0, 0, 1], proxy.port).into());
        let request = format!(
            "GET /socket HTTP/1.1\r\nHost: app\r\n{authorization}Connection: X-User-Id, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.send(request.as_bytes());
        let status = client.answer().expect("an answer").status();
        (client, status)
    };
    assert_eq!(ask("").1, 401);
    assert!(proxy.seen().is_empty());
    let (mut client, status) = ask(&format!("Authorization: Bearer {key}\r\n"));
    assert_eq!(status, 101);
    came_once(proxy, identity);
    client.send(b"over the socket");
    assert_eq!(client.exactly(15), b"over the socket");
}

/// The proxy does not open a connection to the ledger for each request.
fn connections_are_kept(kind: Kind, proxy: &Proxy, ledger: &Ledger, bearer: &Api) {
    let ended = || sum(ledger, "keyledger_connections_closed_total");
    let before = ended();
    for _ in 0..20 {
        assert_eq!(bearer.get("/").status, 200);
    }
    // The two that asked for the metrics are among them.
    let opened = ended() - before;
    assert!(opened <= 5, "{kind:?}: {opened}");
    proxy.seen();
}

/// What the ledger has counted under all names that begin so.
fn sum(ledger: &Ledger, name: &str) -> u64 {
    let metrics = ledger.api().get("/metrics").expect(200).body;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

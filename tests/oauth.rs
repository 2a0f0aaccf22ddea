//! OAuth as clients meet it: the `oauth2` crate, which nobody wrote for this service, and by hand what it leaves unsaid.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{cell::Cell, time::Duration};

use oauth2::{
    AccessToken, Client, ClientId, ClientSecret, DeviceAuthorizationUrl, ExtraTokenFields, IntrospectionUrl,
    RequestTokenError, RevocationUrl, StandardDeviceAuthorizationResponse, StandardRevocableToken,
    StandardTokenIntrospectionResponse, StandardTokenResponse, TokenIntrospectionResponse, TokenResponse, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenType},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use support::ledger::{Api, Ledger, Reply};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// What the `oauth2` crate is told; it insists on TLS for revocation, which is the gateway's here.
const PUBLIC: &str = "https://ledger.example";

#[derive(Clone, Debug, Deserialize, Serialize)]
struct AgentKey {
    agent_key: String,
}
impl ExtraTokenFields for AgentKey {}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Ours {
    kind: Option<String>,
    team_id: Option<String>,
}
impl ExtraTokenFields for Ours {}

type Stock = Client<
    BasicErrorResponse,
    StandardTokenResponse<AgentKey, BasicTokenType>,
    StandardTokenIntrospectionResponse<Ours, BasicTokenType>,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    oauth2::EndpointNotSet,
    oauth2::EndpointSet,
    oauth2::EndpointSet,
    oauth2::EndpointSet,
    oauth2::EndpointSet,
>;

/// A client with the endpoints that the metadata names.
fn stock(metadata: &Value, client_id: &str) -> Stock {
    let url = |name: &str| metadata[name].as_str().unwrap().to_owned();
    Client::new(ClientId::new(client_id.to_owned()))
        .set_device_authorization_url(DeviceAuthorizationUrl::new(url("device_authorization_endpoint")).unwrap())
        .set_introspection_url(IntrospectionUrl::new(url("introspection_endpoint")).unwrap())
        .set_revocation_url(RevocationUrl::new(url("revocation_endpoint")).unwrap())
        .set_token_uri(TokenUrl::new(url("token_endpoint")).unwrap())
}

/// The crate's transport: the tests' own client, in the place of a gateway that ends TLS.
fn gateway(api: &Api) -> impl Fn(oauth2::HttpRequest) -> Result<oauth2::HttpResponse, std::io::Error> {
    let api = api.clone();
    move |request| {
        let target = request.uri().to_string();
        let path = target.strip_prefix(PUBLIC).expect("only what the metadata names is asked");
        let headers: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let reply = api.send(request.method().as_str(), path, &headers, request.body());
        let mut response = http::Response::builder().status(reply.status);
        for (name, value) in &reply.headers {
            response = response.header(name, value);
        }
        Ok(response.body(reply.body.into_bytes()).unwrap())
    }
}

fn form(api: &Api, path: &str, fields: &[(&str, &str)]) -> Reply {
    raw(api, path, &[], fields)
}

fn raw(api: &Api, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Reply {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut headers = headers.to_vec();
    headers.push(("Content-Type", "application/x-www-form-urlencoded"));
    api.send("POST", path, &headers, body.as_bytes())
}

#[track_caller]
fn refused(reply: Reply, status: u16, error: &str) -> Reply {
    assert_eq!((reply.status, reply.json()["error"].as_str()), (status, Some(error)), "{reply:?}");
    assert!(reply.json()["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    assert_eq!((reply.header("cache-control"), reply.header("pragma")), (Some("no-store"), Some("no-cache")));
    reply
}

fn service_key(owner: &Api) -> String {
    owner.post("/api/v1/service-credentials", &json!({ "display_name": "gateway" })).expect(201).text("raw_key")
}

fn confirm(person: &Api, user_code: &str) {
    person.post("/api/v1/desktop/pair/confirm", &json!({ "user_code": user_code })).expect(204);
}

#[test]
fn a_stock_client_gets_a_device_asks_about_it_and_ends_it() {
    let mut ledger = Ledger::new().with("PUBLIC_URL", PUBLIC);
    ledger.start(&[]);
    let (owner, anyone) = (ledger.owner(), ledger.api());
    let metadata = anyone.get("/.well-known/oauth-authorization-server").expect(200);
    assert_eq!(metadata.text("issuer"), PUBLIC);
    assert!(metadata.header("cache-control").is_some_and(|value| value.contains("max-age")));
    let metadata = metadata.json();
    let client = stock(&metadata, "stock-cli");
    let http = gateway(&anyone);

    let details: StandardDeviceAuthorizationResponse =
        client.exchange_device_code().add_extra_param("device_name", "a stock laptop").request(&http).unwrap();
    assert_eq!(details.verification_uri().as_str(), format!("{PUBLIC}/pair"));
    let code = details.user_code().secret();
    assert!(details.verification_uri_complete().unwrap().secret().ends_with(&format!("?code={code}")));
    // It polls at once (pending), then too soon (slow down), and is let in while it waits longer.
    let waits = Cell::new(0);
    let token = client
        .exchange_device_access_token(&details)
        .request(
            &http,
            |wait| {
                waits.set(waits.get() + 1);
                if waits.get() == 2 {
                    assert_eq!(wait, Duration::from_secs(10), "the crate was told to slow down");
                    confirm(&owner, code);
                } else {
                    assert_eq!(wait, Duration::from_secs(5));
                }
            },
            None,
        )
        .unwrap();
    assert_eq!(waits.get(), 2);
    let (device, companion) = (token.access_token().secret(), &token.extra_fields().agent_key);
    assert!(device.starts_with("dk-") && companion.starts_with("ak-"));
    assert_eq!(token.expires_in(), None, "it never expires");
    let scopes: Vec<_> = token.scopes().unwrap().iter().map(|scope| scope.as_str()).collect();
    assert_eq!(scopes, ["runtime", "management"]);
    assert_eq!(owner.verified(device).text("display_name"), "a stock laptop");

    // A service introspects with HTTP Basic, its key as the client's secret.
    let service = stock(&metadata, "gateway").set_client_secret(ClientSecret::new(service_key(&owner)));
    let introspect = |key: &str| {
        let token = AccessToken::new(key.to_owned());
        let introspected = service.introspect(&token).request(&http).unwrap();
        (introspected.active(), introspected)
    };
    let (active, about) = introspect(companion);
    assert!(active && about.exp().is_none() && about.iat().is_some());
    assert_eq!(about.scopes().unwrap().iter().map(|scope| scope.as_str()).collect::<Vec<_>>(), ["agent"]);
    assert_eq!((about.sub(), about.iss()), (Some(owner.id.as_str()), Some(PUBLIC)));
    assert_eq!(about.extra_fields().kind.as_deref(), Some("agent"));
    assert_eq!(about.extra_fields().team_id, owner.team);

    // Revoking the device ends its companion, too; and again is as good as once.
    for _ in 0..2 {
        let token = StandardRevocableToken::AccessToken(AccessToken::new(device.clone()));
        client.revoke_token(token).unwrap().request(&http).unwrap();
        for key in [device, companion] {
            assert!(!introspect(key).0);
            owner.refused(key);
        }
    }

    // Somebody refuses the next one.
    let details: StandardDeviceAuthorizationResponse = client.exchange_device_code().request(&http).unwrap();
    let deny = json!({ "user_code": details.user_code().secret() });
    owner.post("/api/v1/desktop/pair/deny", &deny).expect(204);
    match client.exchange_device_access_token(&details).request(&http, |_| {}, None) {
        Err(RequestTokenError::ServerResponse(refusal)) => {
            assert_eq!(refusal.error(), &oauth2::DeviceCodeErrorResponseType::AccessDenied);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_code_is_good_once_for_its_client_and_for_its_time() {
    let mut ledger = Ledger::started();
    let (owner, anyone) = (ledger.owner(), ledger.api());
    let started = form(&anyone, "/oauth/device_authorization", &[("client_id", "cli"), ("scope", "x")]).expect(200);
    assert_eq!((started.header("cache-control"), started.header("pragma")), (Some("no-store"), Some("no-cache")));
    assert_eq!((started.json()["interval"].as_u64(), started.json()["expires_in"].as_u64()), (Some(5), Some(300)));
    let (device_code, user_code) = (started.text("device_code"), started.text("user_code"));
    let poll = |client: &str| {
        form(
            &anyone,
            "/oauth/token",
            &[("grant_type", GRANT), ("client_id", client), ("device_code", &device_code)],
        )
    };
    refused(poll("cli"), 400, "authorization_pending");
    refused(poll("cli"), 400, "slow_down");
    refused(poll("other"), 400, "invalid_grant");
    confirm(&owner, &user_code);
    refused(poll("other"), 400, "invalid_grant");
    let contract = json!({ "device_code": device_code });
    anyone.post("/api/v1/desktop/pair/poll", &contract).expect(404);

    // Of many polls at once one gets the keys.
    let got = std::thread::scope(|scope| {
        let polls: Vec<_> = (0..8).map(|_| scope.spawn(|| poll("cli"))).collect();
        polls.into_iter().map(|poll| poll.join().unwrap()).collect::<Vec<_>>()
    });
    let (won, lost): (Vec<_>, Vec<_>) = got.into_iter().partition(|reply| reply.status == 200);
    assert_eq!(won.len(), 1);
    for reply in lost {
        refused(reply, 400, "invalid_grant");
    }
    assert_eq!(won[0].text("token_type"), "Bearer");
    assert_eq!((won[0].header("cache-control"), won[0].header("pragma")), (Some("no-store"), Some("no-cache")));
    assert_eq!(owner.verified(&won[0].text("access_token")).text("display_name"), "cli", "without a device_name");

    // The contract's pairing is not for OAuth clients, either.
    let start = anyone.post("/api/v1/desktop/pair/start", &json!({})).expect(200);
    let fields = [("grant_type", GRANT), ("client_id", "cli"), ("device_code", &start.text("device_code"))];
    refused(form(&anyone, "/oauth/token", &fields), 400, "invalid_grant");

    // A team that allows no key for ever: the device has an end, and the client is told.
    let policy = json!({ "lifetime_days_max": 30, "never_allowed": false, "admins_only": false });
    owner.send("PUT", "/api/v1/policy", &[], policy.to_string().as_bytes()).expect(200);
    let started = form(&anyone, "/oauth/device_authorization", &[("client_id", "cli")]).expect(200);
    confirm(&owner, &started.text("user_code"));
    let fields = [("grant_type", GRANT), ("client_id", "cli"), ("device_code", &started.text("device_code"))];
    let granted = form(&anyone, "/oauth/token", &fields).expect(200);
    let (expires_in, days) = (granted.json()["expires_in"].as_u64().unwrap(), 30 * 86_400);
    assert!((days - 3600..=days).contains(&expires_in), "{expires_in}");
    let (about, until) =
        (introspect(&owner, &granted.text("access_token")), owner.verified(&granted.text("access_token")));
    let until: keyledger_events::Timestamp = until.text("expires_at").parse().unwrap();
    assert_eq!(about["exp"].as_u64(), Some(until.micros() / 1_000_000));

    // A device that was ended before it fetched its keys gets none.
    let started = form(&anyone, "/oauth/device_authorization", &[("client_id", "cli")]).expect(200);
    confirm(&owner, &started.text("user_code"));
    let newest = owner.get("/api/v1/credentials?kind=device&status=active").expect(200).json();
    for device in newest["credentials"].as_array().unwrap() {
        owner.delete(&format!("/api/v1/credentials/{}", device["id"].as_str().unwrap())).expect(204);
    }
    let fields = [("grant_type", GRANT), ("client_id", "cli"), ("device_code", &started.text("device_code"))];
    refused(form(&anyone, "/oauth/token", &fields), 400, "invalid_grant");
    assert!(ledger.stop().success());
    assert!(ledger.replay(&["verify"]).status.success());
}

fn introspect(owner: &Api, key: &str) -> Value {
    let service = owner.bearing(&service_key(owner));
    form(&service, "/oauth/introspect", &[("token", key)]).expect(200).json()
}

#[test]
fn services_authenticate_in_three_ways_and_nobody_else_is_told_anything() {
    let ledger = Ledger::started();
    let (owner, anyone) = (ledger.owner(), ledger.api());
    let (id, key) = owner.issue("integration", "CI", Some(30));
    let sv = service_key(&owner);
    let ask = |headers: &[(&str, &str)], fields: &[(&str, &str)]| {
        let mut fields = fields.to_vec();
        fields.push(("token", &key));
        raw(&anyone, "/oauth/introspect", headers, &fields)
    };
    let basic = |password: &str| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        format!("Basic {}", BASE64_STANDARD.encode(format!("any%20body:{password}")))
    };
    let bearer = format!("Bearer {sv}");
    let good = [
        ask(&[("Authorization", &bearer)], &[]),
        ask(&[("Authorization", &basic(&sv))], &[]),
        ask(&[("Authorization", &basic(&sv.replace('-', "%2D")))], &[]),
        ask(&[], &[("client_id", "edge"), ("client_secret", &sv)]),
        ask(&[("Authorization", &bearer)], &[("client_id", "edge"), ("token_type_hint", "nonsense")]),
    ];
    for reply in good {
        let about = reply.expect(200);
        assert_eq!((about.header("cache-control"), about.header("pragma")), (Some("no-store"), Some("no-cache")));
        let about = about.json();
        let expected = json!({
            "active": true, "scope": "runtime mcp", "client_id": id, "jti": id, "sub": owner.id, "token_type": "Bearer",
            "iss": ledger.url(), "kind": "integration", "team_id": owner.team, "exp": about["exp"], "iat": about["iat"],
        });
        assert_eq!(about, expected);
        let lived = about["exp"].as_u64().unwrap() - about["iat"].as_u64().unwrap();
        assert!((30 * 86_400 - 60..=30 * 86_400 + 60).contains(&lived), "{lived}");
    }
    let typo = format!("{}{}", &sv[..54], if sv.ends_with('x') { 'y' } else { 'x' });
    let both = ["Bearer realm=\"keyledger\"", "Basic realm=\"keyledger\""];
    let rows: [(Reply, u16, &str, &[&str]); 9] = [
        (ask(&[], &[]), 401, "invalid_client", &both),
        (
            ask(&[("Authorization", &format!("Bearer {typo}"))], &[]),
            401,
            "invalid_token",
            &["Bearer realm=\"keyledger\", error=\"invalid_token\""],
        ),
        (ask(&[("Authorization", &basic(&typo))], &[]), 401, "invalid_client", &both[1..]),
        (ask(&[("Authorization", "Basic %%%")], &[]), 401, "invalid_client", &both[1..]),
        (
            ask(&[("Authorization", "Negotiate x")], &[]),
            401,
            "invalid_token",
            &["Bearer realm=\"keyledger\", error=\"invalid_token\""],
        ),
        (ask(&[], &[("client_secret", &typo)]), 401, "invalid_client", &both),
        (ask(&[("Authorization", &bearer)], &[("client_secret", &sv)]), 400, "invalid_request", &[]),
        (ask(&[("Authorization", &basic(&sv))], &[("client_secret", &sv)]), 400, "invalid_request", &[]),
        // Alive, and no service: not even about itself.
        (
            ask(&[("Authorization", &format!("Bearer {key}"))], &[]),
            403,
            "insufficient_scope",
            &["Bearer realm=\"keyledger\", error=\"insufficient_scope\", scope=\"service\""],
        ),
    ];
    for (reply, status, error, challenges) in rows {
        let reply = refused(reply, status, error);
        let sent = reply.headers.iter().filter(|(name, _)| name == "www-authenticate");
        assert_eq!(sent.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), challenges, "{reply:?}");
        assert!(!reply.body.contains(&key[12..]) && !reply.body.contains(&sv[12..]));
    }

    let service = anyone.bearing(&sv);
    let about = |fields: &[(&str, &str)]| form(&service, "/oauth/introspect", fields).expect(200).json();
    let inactive = json!({ "active": false });
    let own = owner.team.clone().unwrap();
    let elsewhere = "0190b5a6-7e0c-7cc0-98c1-00000000dead";
    for (fields, active) in [
        (vec![("token", key.as_str()), ("surface", "runtime"), ("team_id", &own)], true),
        (vec![("token", &key), ("surface", "agent")], false),
        (vec![("token", &key), ("team_id", elsewhere)], false),
        (vec![("token", &typo)], false),
        (vec![("token", "x")], false),
        (vec![("token", owner.token.as_deref().unwrap())], false),
        (vec![("token", &sv)], true),
    ] {
        let about = about(&fields);
        assert_eq!(about["active"], active, "{about}");
        assert!(active || about == inactive, "{about}");
    }
    assert_eq!(about(&[("token", &sv)]).get("scope"), None, "no surface takes a service's key");
    let ask = |fields: &[(&str, &str)]| form(&service, "/oauth/introspect", fields);
    refused(ask(&[]), 400, "invalid_request");
    refused(ask(&[("token", &key), ("surface", "nowhere")]), 400, "invalid_request");
    refused(ask(&[("token", &key), ("team_id", "mine")]), 400, "invalid_request");
    owner.delete(&format!("/api/v1/credentials/{id}")).expect(204);
    assert_eq!(about(&[("token", &key)]), inactive, "revoked");
}

#[test]
fn whoever_has_a_key_may_end_it() {
    let mut ledger = Ledger::started();
    let (owner, anyone) = (ledger.owner(), ledger.api());
    let [device, device_key, companion, companion_key] = owner.pair("laptop");
    let (sk, sk_key) = owner.issue("integration", "CI", None);
    let (ak, ak_key) = owner.issue("agent", "crawler", None);
    let other = owner.issue("integration", "not this one", None).1;
    let sv = owner.post("/api/v1/service-credentials", &json!({ "display_name": "edge" })).expect(201);
    let revoke = |token: &str| form(&anyone, "/oauth/revoke", &[("token", token)]);
    let before = anyone.position();
    // What was no live key is answered as what was, and changes nothing.
    let typo = format!("{}{}", &other[..54], if other.ends_with('x') { 'y' } else { 'x' });
    for token in ["x", &typo, owner.token.as_ref().unwrap()] {
        assert_eq!(revoke(token).expect(200).body, "");
    }
    assert_eq!(anyone.position(), before);
    refused(form(&anyone, "/oauth/revoke", &[]), 400, "invalid_request");
    refused(form(&anyone, "/oauth/revoke", &[("token", &other), ("token", &other)]), 400, "invalid_request");
    owner.verified(&other);

    for (key, hint) in [(&sk_key, "access_token"), (&ak_key, "refresh_token"), (&device_key, "nonsense")] {
        let reply = form(&anyone, "/oauth/revoke", &[("token", key), ("token_type_hint", hint), ("client_id", "cli")]);
        assert_eq!(reply.expect(200).body, "");
        owner.refused(key);
    }
    owner.refused(&companion_key);
    owner.verified(&other);
    let history = |id: &str| owner.get(&format!("/api/v1/credentials/{id}/history")).expect(200).body;
    for id in [&sk, &ak, &device] {
        assert!(history(id).contains("self_revoked"), "{}", history(id));
    }
    assert!(history(&companion).contains("cascade"), "{}", history(&companion));
    // A service's key, too: it lives in the ledger's own stream.
    let sv_key = sv.text("raw_key");
    revoke(&sv_key).expect(200);
    anyone.bearing(&sv_key).post("/api/v1/verify/batch", &json!({ "keys": ["x"] })).expect(401);
    let after = anyone.position();
    for key in [&sk_key, &ak_key, &device_key, &companion_key, &sv_key] {
        revoke(key).expect(200);
    }
    assert_eq!(anyone.position(), after, "dead is dead");
    assert!(ledger.stop().success());
    assert!(ledger.replay(&["verify"]).status.success());
}

#[test]
fn refusals_are_oauths_before_any_handler_too() {
    let ledger = Ledger::new().with("RATE_ANONYMOUS_PER_MINUTE", "2");
    let mut ledger = ledger;
    ledger.start(&[]);
    let anyone = ledger.api();
    for path in ["/oauth/device_authorization", "/oauth/token", "/oauth/introspect", "/oauth/revoke"] {
        refused(anyone.get(path), 405, "invalid_request");
        let json = json!({ "client_id": "cli", "token": "x", "grant_type": GRANT });
        refused(anyone.post(path, &json), 400, "invalid_request");
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        refused(anyone.send("POST", path, &form, &vec![b'a'; 70_000]), 413, "invalid_request");
        let url = format!("{path}?token=sk-kl1{}", "a".repeat(49));
        refused(anyone.send("POST", &url, &form, b"token=x"), 400, "invalid_request");
        let waits = [form[0], ("Ledger-Min-Position", "x")];
        refused(anyone.send("POST", path, &waits, b"token=x"), 400, "invalid_request");
        let elsewhere = [form[0], ("Sec-Fetch-Site", "cross-site")];
        refused(anyone.send("POST", path, &elsewhere, b"token=x"), 403, "invalid_request");
    }
    refused(anyone.get("/oauth/authorize"), 404, "invalid_request");
    let long = "x".repeat(101);
    let secret = format!("sk-kl1{}", "a".repeat(49));
    for (client_id, status, error) in [
        ("", 400, "invalid_request"),
        (&long, 400, "invalid_client"),
        ("a\u{7}b", 400, "invalid_client"),
        (" cli", 400, "invalid_client"),
        (&secret, 400, "invalid_client"),
    ] {
        for path in ["/oauth/device_authorization", "/oauth/token"] {
            let fields = [("client_id", client_id), ("grant_type", GRANT), ("device_code", "x")];
            let reply = refused(form(&anyone, path, &fields), status, error);
            assert!(!reply.body.contains("aaaa"), "{reply:?}");
        }
    }
    let tried = refused(
        raw(&anyone, "/oauth/device_authorization", &[("Authorization", "Basic Y2xpOng=")], &[]),
        401,
        "invalid_client",
    );
    assert_eq!(tried.header("www-authenticate"), Some("Basic realm=\"keyledger\""));
    let fields = [("client_id", "cli"), ("device_name", "a\u{1b}[31mb")];
    refused(form(&anyone, "/oauth/device_authorization", &fields), 400, "invalid_request");
    for (fields, error) in [
        (vec![("client_id", "cli"), ("device_code", "x")], "invalid_request"),
        (
            vec![("client_id", "cli"), ("device_code", "x"), ("grant_type", "password")],
            "unsupported_grant_type",
        ),
        (vec![("client_id", "cli"), ("grant_type", GRANT)], "invalid_request"),
        (vec![("client_id", "cli"), ("grant_type", GRANT), ("device_code", "x")], "invalid_grant"),
        (
            vec![("client_id", "cli"), ("client_id", "cli"), ("grant_type", GRANT), ("device_code", "x")],
            "invalid_request",
        ),
    ] {
        refused(form(&anyone, "/oauth/token", &fields), 400, error);
    }
    for _ in 0..2 {
        form(&anyone, "/oauth/device_authorization", &[("client_id", "cli")]).expect(200);
    }
    let limited = form(&anyone, "/oauth/device_authorization", &[("client_id", "cli")]);
    let limited = refused(limited, 429, "temporarily_unavailable");
    assert!(limited.header("retry-after").is_some());
}

//! Every route of the API document, with an example of its body and who may use it: what the matrices run over. A route
//! without a row here, or a row without a route, fails.

use serde_json::{Value, json};

/// Who may use a route. Roles are named by letters: owner, admin, member, viewer, a`u`ditor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// These roles of the team in `X-Team-ID`.
    Roles(&'static str),
    /// Every signed-in person.
    Person,
    /// The ledger's operators.
    Operator,
    /// A credential of one of these kinds, by itself.
    Keys(&'static [&'static str]),
    /// A signed-in person or any credential.
    Anybody,
    /// Who is not known.
    Anyone,
}

use Who::{Anybody, Anyone, Keys, Operator, Person, Roles};

/// What a route does, and what an answer without authentication may be, is the document's; the rest stands here.
fn table() -> Vec<(&'static str, Who, Value)> {
    let none = || Value::Null;
    let id = "0190b5a6-7e0c-7cc0-98c1-5f0a5a5a5a5a";
    vec![
        ("GET /api/v1/audit", Roles("oau"), none()),
        ("GET /api/v1/audit/export", Roles("oau"), none()),
        ("POST /api/v1/auth/device/revoke", Keys(&["dk"]), none()),
        ("POST /api/v1/auth/link", Anyone, json!({ "token": "lk-none", "name": "Nobody" })),
        ("POST /api/v1/auth/logout", Person, none()),
        ("POST /api/v1/auth/token", Person, none()),
        ("GET /api/v1/credentials", Roles("oamvu"), none()),
        (
            "POST /api/v1/credentials",
            Roles("oam"),
            json!({ "kind": "integration", "display_name": "matrix", "expires_in_days": 30, "purpose": "tests" }),
        ),
        ("GET /api/v1/credentials/{id}", Roles("oamvu"), none()),
        ("DELETE /api/v1/credentials/{id}", Roles("oam"), json!({ "reason": "tests" })),
        ("GET /api/v1/credentials/{id}/history", Roles("oamvu"), none()),
        (
            "POST /api/v1/credentials/{id}/rotate",
            Roles("oam"),
            json!({ "overlap_seconds": 60, "expires_in_days": 30 }),
        ),
        ("GET /api/v1/departures", Roles("oau"), none()),
        ("GET /api/v1/history/as-of", Roles("oau"), none()),
        ("GET /api/v1/history/diff", Roles("oau"), none()),
        ("GET /api/v1/history/explain", Roles("oau"), none()),
        ("GET /api/v1/history/what-if", Roles("oau"), none()),
        ("GET /api/v1/export", Roles("oau"), none()),
        ("GET /api/v1/feed", Keys(&["sv"]), none()),
        ("GET /api/v1/snapshot", Keys(&["sv"]), none()),
        ("GET /api/v1/statement", Roles("oau"), none()),
        ("POST /api/v1/seals", Operator, none()),
        // No such code: it is looked up before the role counts.
        (
            "POST /api/v1/desktop/pair/confirm",
            Roles("oamvu"),
            json!({ "user_code": "XXXX-XXXX", "device_name": "laptop" }),
        ),
        (
            "POST /api/v1/desktop/pair/deny",
            Roles("oamvu"),
            json!({ "user_code": "XXXX-XXXX", "device_name": "laptop" }),
        ),
        ("POST /api/v1/desktop/pair/poll", Anyone, json!({ "device_code": "dc-none" })),
        ("POST /api/v1/desktop/pair/start", Anyone, json!({ "device_name": "laptop" })),
        (
            "POST /api/v1/leaks",
            Anyone,
            json!([{ "token": "x", "type": "t", "url": "https://x.example/", "source": "commit" }]),
        ),
        ("POST /api/v1/leaks/check", Roles("oamvu"), json!({ "hashes": ["ab".repeat(32)] })),
        (
            "POST /api/v1/leaks/revoke",
            Roles("oamv"),
            json!({ "finds": [{ "hash": "ab".repeat(32), "place": "a:1" }], "source": "scan" }),
        ),
        ("GET /api/v1/members", Roles("oamvu"), none()),
        ("POST /api/v1/members/invitations", Roles("oa"), json!({ "role": "viewer" })),
        ("DELETE /api/v1/members/{id}", Roles("oa"), none()),
        ("PATCH /api/v1/members/{id}", Roles("oa"), json!({ "role": "viewer" })),
        ("GET /api/v1/members/{id}/departure", Roles("oau"), none()),
        (
            "POST /api/v1/members/{id}/departure",
            Roles("oa"),
            json!({ "revoke": [id], "hand_over": [{ "id": id, "to": id }], "expected_revision": 1 }),
        ),
        ("POST /api/v1/persons/{id}/erase", Operator, none()),
        ("POST /api/v1/persons/{id}/sign-in-link", Operator, none()),
        ("GET /api/v1/policy", Roles("oamvu"), none()),
        (
            "PUT /api/v1/policy",
            Roles("oa"),
            json!({ "lifetime_days_max": 365, "never_allowed": true, "admins_only": false }),
        ),
        (
            "POST /api/v1/service-credentials",
            Operator,
            json!({ "display_name": "edge", "expires_in_days": 30 }),
        ),
        ("GET /api/v1/teams", Person, none()),
        ("POST /api/v1/teams", Person, json!({ "name": "matrix" })),
        (
            "POST /api/v1/usage",
            Keys(&["sv"]),
            json!({
                "uses": [{ "credential_id": id, "at": "2026-03-03T12:00:00Z", "surface": "mcp", "address": "private" }],
                "dead": [{ "credential_id": id, "at": "2026-03-03T12:00:00Z", "surface": null, "address": "public" }],
            }),
        ),
        ("POST /api/v1/verify", Keys(&["sk", "ak", "dk", "sv"]), json!({ "surface": null, "team_id": null })),
        ("POST /api/v1/verify/batch", Keys(&["sv"]), json!({ "keys": ["x"], "surface": "runtime" })),
        ("GET /api/v1/webhooks", Roles("oau"), none()),
        (
            "POST /api/v1/webhooks",
            Roles("oa"),
            // Nobody listens there, and `Ledger::new` lets webhooks lead there.
            json!({ "url": "https://127.0.0.1:65535/", "event_types": ["credential.revoked"] }),
        ),
        ("GET /api/v1/webhooks/event-types", Roles("oau"), none()),
        ("GET /api/v1/webhooks/{id}", Roles("oau"), none()),
        (
            "PATCH /api/v1/webhooks/{id}",
            Roles("oa"),
            json!({ "url": "https://127.0.0.1:65535/", "event_types": ["credential.revoked"] }),
        ),
        ("DELETE /api/v1/webhooks/{id}", Roles("oa"), none()),
        ("POST /api/v1/webhooks/{id}/rotate-secret", Roles("oa"), none()),
        ("POST /api/v1/webhooks/{id}/resume", Roles("oa"), none()),
        ("POST /api/v1/webhooks/{id}/test", Roles("oa"), none()),
        ("GET /api/v1/webhooks/{id}/deliveries", Roles("oau"), none()),
        ("GET /api/v1/whoami", Anybody, none()),
        ("GET /api/v1/proof/consistency", Anyone, none()),
        ("GET /api/v1/proof/inclusion", Anyone, none()),
        ("GET /checkpoint", Anyone, none()),
        ("GET /forward-auth", Keys(&["sk", "ak", "dk", "sv"]), none()),
        ("GET /healthz", Anyone, none()),
        ("GET /metrics", Anyone, none()),
        ("GET /readyz", Anyone, none()),
        ("GET /.well-known/oauth-authorization-server", Anyone, none()),
        ("POST /oauth/device_authorization", Anyone, json!({ "client_id": "cli", "device_name": "laptop" })),
        (
            "POST /oauth/introspect",
            Keys(&["sv"]),
            // Authenticating in the form and in the header is refused.
            json!({ "token": "x", "token_type_hint": "x", "surface": "runtime", "team_id": id, "client_id": "cli", "client_secret": null }),
        ),
        ("POST /oauth/revoke", Anyone, json!({ "token": "x", "token_type_hint": "x" })),
        (
            "POST /oauth/token",
            Anyone,
            json!({
                "grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": "cli", "device_code": "dc-none",
            }),
        ),
        ("GET /tile/{path}", Anyone, none()),
    ]
}

/// One route.
#[derive(Debug)]
pub struct Route {
    pub method: String,
    pub path: String,
    pub who: Who,
    /// A body of the right form; null for none.
    pub example: Value,
    pub required: Vec<String>,
    pub body_is_required: bool,
    /// Its body is a form, and its refusals are OAuth's.
    pub is_form: bool,
    pub refuses_unknown: bool,
    /// Name, type and format of each parameter in the query.
    pub query: Vec<(String, String, String)>,
    pub headers: Vec<String>,
}

impl Route {
    /// The path with an id in it.
    pub fn at(&self, id: &str) -> String {
        self.path.replace("{id}", id).replace("{path}", id)
    }

    pub fn has_id(&self) -> bool {
        self.path.contains('{')
    }

    pub fn has_team(&self) -> bool {
        self.headers.iter().any(|name| name == "X-Team-ID")
    }

    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The example's bytes.
    pub fn body(&self) -> Vec<u8> {
        if self.example.is_null() { Vec::new() } else { self.encoded(&self.example) }
    }

    /// An object as this route takes it; in a form, null is no parameter.
    pub fn encoded(&self, body: &Value) -> Vec<u8> {
        if !self.is_form {
            return body.to_string().into_bytes();
        }
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fields = body.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields.map(|(name, value)| (name, text(value)))).finish().into_bytes()
    }

    /// The headers, with the content type where that is not JSON.
    pub fn with_type<'a>(&self, headers: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut headers = headers.to_vec();
        if self.is_form && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("Content-Type", "application/x-www-form-urlencoded"));
        }
        headers
    }
}

/// All routes of the document.
pub fn routes(document: &Value) -> Vec<Route> {
    let mut rows = table();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let name = format!("{} {path}", method.to_uppercase());
            let at = rows.iter().position(|(row, ..)| *row == name);
            let (_, who, example) =
                rows.swap_remove(at.unwrap_or_else(|| panic!("{name} has no row in tests/support/routes.rs")));
            routes.push(route(document, path, operation, method.to_uppercase(), who, example));
        }
    }
    assert!(rows.is_empty(), "not in the document: {rows:?}");
    routes
}

fn route(document: &Value, path: &str, operation: &Value, method: String, who: Who, example: Value) -> Route {
    let name = format!("{method} {path}");
    let is_public = operation["security"] == json!([{}]);
    assert_eq!(is_public, who == Anyone, "{name}: the document and the table disagree about who may call it");
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let within = |place: &'static str| parameters.iter().filter(move |parameter| parameter["in"] == place).cloned();
    let content = &operation["requestBody"]["content"];
    let form = &content["application/x-www-form-urlencoded"]["schema"];
    let is_form = form.is_object();
    let schema = resolved(document, if is_form { form } else { &content["application/json"]["schema"] });
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let mut documented: Vec<_> = properties.keys().cloned().collect();
    let mut shown: Vec<_> = example.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default();
    documented.sort();
    shown.sort();
    assert_eq!(documented, shown, "{name}: the example must have every property of the document");
    Route {
        method,
        path: path.to_owned(),
        who,
        example,
        required: schema["required"].as_array().into_iter().flatten().map(text).collect(),
        body_is_required: operation["requestBody"]["required"] == true,
        is_form,
        refuses_unknown: schema["additionalProperties"] == false,
        query: within("query")
            .map(|query| (text(&query["name"]), text(&query["schema"]["type"]), text(&query["schema"]["format"])))
            .collect(),
        headers: within("header").map(|header| text(&header["name"])).collect(),
    }
}

/// The object behind references and optional bodies.
fn resolved(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolved(document, document.pointer(reference.trim_start_matches('#')).unwrap());
    }
    match schema["oneOf"].as_array() {
        Some(choices) => resolved(document, choices.iter().find(|choice| choice["type"] != "null").unwrap()),
        None => schema.clone(),
    }
}

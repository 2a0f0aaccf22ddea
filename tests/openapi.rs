//! The OpenAPI document is part of the contract: `docs/openapi.json` is what the handlers say, to the letter.
//!
//! `UPDATE=1 cargo test --test openapi` writes it anew; whoever reviews the change sees what clients will see.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, env, fs, path::Path};

use keyledger::http::{docs, routes};
use serde_json::Value;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document() -> Value {
    serde_json::from_str(&docs::json(&routes::document())).unwrap()
}

/// Every operation: its name as method and path, and what it says.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            METHODS.iter().filter_map(move |method| Some((format!("{method} {path}"), item.get(method)?)))
        })
        .collect()
}

#[test]
fn the_document_is_the_one_on_record() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let present = docs::json(&routes::document());
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &present).unwrap();
    }
    let on_record = fs::read_to_string(&path).unwrap_or_default();
    if on_record != present {
        let first =
            on_record.lines().zip(present.lines()).position(|(one, other)| one != other).map_or(0, |line| line + 1);
        panic!(
            "docs/openapi.json differs from the handlers, first in line {first}; if that is meant: UPDATE=1 cargo test --test openapi"
        );
    }
}

#[test]
fn every_operation_is_named_once_described_and_refuses_with_problems() {
    let document = document();
    assert_eq!(document["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{name} has no summary");
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{name} shares its operationId {id}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let Some(content) = response.get("content") else { continue };
            if status.starts_with(['4', '5']) {
                let (kind, refusal) = match name.contains(" /oauth/") {
                    true => ("application/json", "/OAuthError"),
                    false => ("application/problem+json", "/Problem"),
                };
                let schema = content.get(kind).map(|media| media["schema"]["$ref"].to_string()).unwrap_or_default();
                assert!(schema.contains(refusal), "{name}: {status} is no {refusal} but {response}");
            }
        }
    }
    assert!(ids.len() > 25, "{ids:?}");
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| walk(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut references = BTreeSet::new();
    walk(&document, &mut references);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

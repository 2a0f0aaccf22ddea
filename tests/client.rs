//! The Rust client against the real server: verdicts, a key's life, and a write whose answer is lost on the way.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
};

use keyledger_client::{Client, CredentialId, Error, Issue, Kind, List, Surface, Verification, types::PairingPolled};
use support::ledger::{Api, Ledger};

fn of(owner: &Api, url: &str) -> Client {
    let team = owner.team.as_ref().unwrap().parse().unwrap();
    Client::new(url).unwrap().with_token(owner.token.clone().unwrap()).with_team(team)
}

fn issue(name: &str) -> Issue<'_> {
    Issue { kind: Kind::Integration, display_name: name, expires_in_days: Some(30), purpose: None }
}

#[tokio::test]
async fn a_keys_life() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let client = of(&owner, &ledger.url());
    let issued = client.issue(&issue("CI")).await.unwrap();
    let key = issued.raw_key.clone().unwrap();
    assert!(!format!("{issued:?} {client:?}").contains(key.expose()), "a secret is shown");

    let Verification::Accepted(accepted) = client.verify(key.expose(), Some(Surface::Mcp), None).await.unwrap() else {
        panic!("a fresh key is refused");
    };
    assert_eq!((accepted.credential_id, accepted.display_name.as_deref()), (issued.id.uuid(), Some("CI")));
    let wrong = client.verify(key.expose(), Some(Surface::Agent), None).await.unwrap();
    assert_eq!(wrong, Verification::WrongSurface);

    let successor = client.rotate(issued.id, 0, None).await.unwrap();
    assert_eq!(successor.rotated_from, Some(issued.id));
    assert_eq!(client.verify(key.expose(), None, None).await.unwrap(), Verification::Invalid);
    client.revoke(successor.id, Some("the test is over")).await.unwrap();
    client.revoke(successor.id, None).await.unwrap();
    let shown = client.credential(successor.id).await.unwrap();
    assert_eq!((shown.key_status.as_str(), shown.revoke_note.as_deref()), ("revoked", Some("the test is over")));

    for number in 0..3 {
        client.issue(&issue(&format!("key {number}"))).await.unwrap();
    }
    let list = List { q: Some("key "), status: Some("active"), ..List::default() };
    let page = client.list(&list, 2, 2).await.unwrap();
    assert_eq!((page.page_meta.total_count, page.credentials.len()), (3, 1));

    let refused = client.credential(CredentialId::from_bytes([7; 16])).await.unwrap_err();
    assert_eq!(refused.code(), Some("not_found"));
    let long = Issue { expires_in_days: Some(366), ..issue("too long") };
    assert_eq!(client.issue(&long).await.unwrap_err().code(), Some("invalid_field"));
}

#[tokio::test]
async fn many_at_once_and_a_device() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let client = of(&owner, &ledger.url());
    let started = client.start_pairing("laptop").await.unwrap();
    assert!(matches!(client.poll_pairing(&started.device_code).await.unwrap(), PairingPolled::Pending));
    let code = serde_json::json!({ "user_code": started.user_code });
    owner.post("/api/v1/desktop/pair/confirm", &code).expect(204);
    let PairingPolled::Approved { raw_key, agent_key } = client.poll_pairing(&started.device_code).await.unwrap()
    else {
        panic!("a confirmed pairing is not approved");
    };

    let service = owner.post("/api/v1/service-credentials", &serde_json::json!({ "display_name": "gateway" }));
    let service = Client::new(&ledger.url()).unwrap().with_token(service.expect(201).text("raw_key"));
    let keys = [raw_key.expose(), agent_key.expose(), "nonsense"];
    let answer = service.verify_batch(&keys, Some(Surface::Agent)).await.unwrap();
    let codes: Vec<_> = answer.results.iter().map(|verdict| (verdict.valid, verdict.code.as_str())).collect();
    assert_eq!(codes, [(false, "insufficient_scope"), (true, "valid"), (false, "malformed")]);
    assert_eq!(answer.results[1].accepted.as_ref().unwrap().kind, Kind::Agent);
    assert!(answer.results[0].accepted.is_none());
}

/// A proxy that passes everything on, but cuts the first connection instead of giving its answer back.
fn losing_the_first_answer(server: &str) -> String {
    let server = server.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (mut client, mut upstream) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            let (mut up_reader, mut up_writer) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut up_reader, &mut up_writer));
            if number == 0 {
                let answered = upstream.read(&mut [0; 4096]).unwrap();
                assert!(answered > 0);
                client.shutdown(Shutdown::Both).unwrap();
                continue;
            }
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = upstream.read(&mut buffer) {
                if client.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_done_once() {
    let ledger = Ledger::started();
    let owner = ledger.owner();
    let through = of(&owner, &losing_the_first_answer(&ledger.url()));
    let issued = through.issue(&issue("once")).await.unwrap();
    assert!(issued.raw_key.is_none(), "the secret went with the first answer");
    let direct = of(&owner, &ledger.url());
    let list = List { q: Some("once"), ..List::default() };
    assert_eq!(direct.list(&list, 1, 20).await.unwrap().page_meta.total_count, 1);
}

#[tokio::test]
async fn what_is_no_key_or_no_address_asks_nobody() {
    let nobody = Client::new("http://127.0.0.1:9").unwrap();
    assert_eq!(nobody.verify("sk-kl1nonsense", None, None).await.unwrap(), Verification::Invalid);
    for address in ["ledger.example", "ftp://127.0.0.1", "http://192.0.2.1", "http://ledger.example", ""] {
        assert!(matches!(Client::new(address), Err(Error::Address)), "{address}");
    }
    let key = "sk-kl1SjegWNfxY7Q4VOdBDyui5NUIRCtFiC9BfnlCEDv2H2X2WFUar";
    assert!(matches!(nobody.verify(key, None, None).await, Err(Error::Unreachable(_))), "a doubt is no verdict");
}

"""The client against a real server. `LEDGER_BINARY` names the binary.

Every request goes through a proxy that writes it down; at the end each is held against the API document, and the README's
table against what was asked.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import re
import ssl
import threading
import traceback
import unittest
import unittest.mock
import uuid

from keyledger import Accepted, Client, Denied, KeyledgerError, Secret
from keyledger._transport import Route
from support import DOCUMENT, Proxy, Server

README = pathlib.Path(__file__).parents[1] / "README.md"
server: Server
proxy: Proxy
owner: Client
secrets: list[Secret] = []


def setUpModule() -> None:
    global server, proxy, owner
    server = Server()
    unittest.addModuleCleanup(server.stop)
    proxy = Proxy(server.url)
    unittest.addModuleCleanup(proxy.stop)
    owner = client(read_your_writes=True)
    owner.sign_in(re.sub(r".*token=", "", server.link))


def client(**more: object) -> Client:
    opened = Client(proxy.url, **more)
    unittest.addModuleCleanup(opened.close)
    return opened


def key(display_name: str = "CI", kind: str = "integration", **more: object) -> tuple[str, Secret]:
    issued = owner.credentials.issue(kind, display_name, **more)
    assert issued.raw_key is not None
    secrets.append(issued.raw_key)
    return issued.id, issued.raw_key


class Faults(unittest.TestCase):
    def asked_during(self, faults: list[object]) -> int:
        proxy.faults[:] = faults
        return len(proxy.asked)

    def tearDown(self) -> None:
        self.assertEqual(proxy.faults, [], "a fault was not met")


class Verification(unittest.TestCase):
    def test_a_keys_life(self) -> None:
        id, raw_key = key(expires_in_days=30)
        verdict = owner.verify(raw_key, surface="runtime")
        assert isinstance(verdict, Accepted)
        self.assertTrue(verdict)
        self.assertEqual((verdict.credential_id, verdict.kind, verdict.team_id), (id, "integration", owner.team_id))
        self.assertEqual(verdict.display_name, "CI")
        self.assertGreater(verdict.expires_at, datetime.datetime.now(datetime.timezone.utc))
        self.assertEqual(owner.verify(raw_key.expose(), team_id=owner.team_id).credential_id, id)
        self.assertEqual(owner.verify(raw_key, surface="agent"), Denied("insufficient_scope"))
        self.assertEqual(owner.verify(raw_key, team_id=str(uuid.uuid4())), Denied("invalid_token"))
        owner.credentials.revoke(id, reason="left in a log")
        self.assertEqual(owner.verify(raw_key), Denied("invalid_token"))
        owner.credentials.revoke(id)
        shown = owner.credentials.show(id)
        self.assertEqual((shown.key_status, shown.revoke_note), ("revoked", "left in a log"))
        # That it was presented after its end may be on record behind them.
        types = [event.type for event in owner.credentials.history(id).events]
        self.assertEqual(types[:2], ["credential_issued", "credential_revoked"])

    def test_verifying_needs_no_token(self) -> None:
        _, raw_key = key()
        with Client(proxy.url) as anybody:
            self.assertTrue(anybody.verify(raw_key))
            self.assertEqual(anybody.position, owner.position)

    def test_nonsense_is_not_sent(self) -> None:
        before = len(proxy.asked)
        _, raw_key = "", "sk-kl100000000000000000000000000000000000000000001d2j2c"
        for text in ("", "password", raw_key, raw_key + "\r\nX: y"):
            self.assertEqual(owner.verify(text), Denied("invalid_token"))
        self.assertEqual(len(proxy.asked), before)
        self.assertEqual(owner.verify("sk-kl100000000000000000000000000000000000000000001d2j2b"), Denied("invalid_token"))
        self.assertEqual(len(proxy.asked), before + 1)

    def test_a_batch_is_told_why(self) -> None:
        issued = owner.credentials.issue_service("edge", expires_in_days=1)
        edge = client(token=issued.raw_key)
        (alive_id, alive), (dead_id, dead), (_, agent) = key(), key(), key(kind="agent")
        owner.credentials.revoke(dead_id)
        unknown = "sk-kl100000000000000000000000000000000000000000001d2j2b"
        verdicts = edge.verify_batch([alive, "password", dead, agent, unknown], surface="runtime")
        codes = ["valid", "malformed", "revoked", "insufficient_scope", "unknown"]
        self.assertEqual([verdict.code for verdict in verdicts], codes)
        self.assertEqual([bool(verdict) for verdict in verdicts], [True, False, False, False, False])
        self.assertEqual(verdicts[0].credential_id, alive_id)
        self.assertNotIn(b"password", proxy.asked[-1].body)
        before = len(proxy.asked)
        many = edge.verify_batch([unknown] * 1_001 + [alive])
        self.assertEqual([verdict.code for verdict in many], ["unknown"] * 1_001 + ["valid"])
        self.assertEqual(len(proxy.asked), before + 2)
        self.assertEqual(edge.verify_batch([]), [])
        with self.assertRaises(KeyledgerError) as raised:
            owner.verify_batch([alive])
        self.assertEqual(raised.exception.status, 401)

    def test_only_the_ledgers_own_no_is_a_verdict(self) -> None:
        _, raw_key = key()
        for status, body in [
            (401, b"<html>log in</html>"),
            (403, b'{"code": "waf"}'),
            (200, b"{}"),
            (200, b'{"valid": false}'),
            (200, b"yes"),
            (200, b'[' * 100_000),
            (302, b""),
            (204, b""),
        ]:
            proxy.faults[:] = [(status, {"Location": "http://127.0.0.1:9/"}, body)]
            with self.assertRaises(KeyledgerError, msg=(status, body[:20])) as raised:
                owner.verify(raw_key)
            self.assertIn(raised.exception.code, ("unreadable_answer", "waf"))

    def test_many_threads_share_one_client(self) -> None:
        _, raw_key = key()
        verdicts: list[bool] = []
        threads = [
            threading.Thread(target=lambda: verdicts.extend(bool(owner.verify(raw_key)) for _ in range(20)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(verdicts, [True] * 160)


class Repeating(Faults):
    def test_a_lost_answer_is_asked_again_under_the_same_key(self) -> None:
        for fault in ("lost", "half"):
            name = f"once {uuid.uuid4()}"
            before = self.asked_during([fault])
            issued = owner.credentials.issue("integration", name)
            first, second = proxy.asked[before:]
            self.assertEqual(first.headers["idempotency-key"], second.headers["idempotency-key"])
            self.assertEqual(first.body, second.body)
            self.assertEqual([key.id for key in owner.credentials.list(q=name)], [issued.id])
            # Its secret was in the answer that was lost, and is nowhere else.
            self.assertIsNone(issued.raw_key)
            rotated = owner.credentials.rotate(issued.id, overlap_seconds=0)
            self.assertTrue(owner.verify(rotated.raw_key))

    def test_what_never_arrived_comes_with_its_secret(self) -> None:
        self.asked_during(["unsent", (503, {"Retry-After": "0"}, b'{"code": "outcome_unknown"}')])
        _, raw_key = key()
        self.assertTrue(owner.verify(raw_key))

    def test_two_calls_have_two_keys(self) -> None:
        before = self.asked_during([])
        key("same"), key("same")
        first, second = proxy.asked[before:]
        self.assertNotEqual(first.headers["idempotency-key"], second.headers["idempotency-key"])

    def test_a_key_of_ones_own(self) -> None:
        own = str(uuid.uuid4())
        first = owner.credentials.issue("agent", "mine", idempotency_key=own)
        again = owner.credentials.issue("agent", "mine", idempotency_key=own)
        self.assertEqual((again.id, again.raw_key), (first.id, None))
        with self.assertRaises(KeyledgerError) as raised:
            owner.credentials.issue("agent", "another", idempotency_key=own)
        self.assertEqual((raised.exception.status, raised.exception.code), (422, "idempotency_key_reused"))
        self.assertEqual(raised.exception.idempotency_key, own)

    def test_retries_are_bounded(self) -> None:
        busy = (503, {"Retry-After": "0"}, b'{"status": 503, "code": "busy", "detail": "Later."}')
        before = self.asked_during([busy] * 4)
        with self.assertRaises(KeyledgerError) as raised:
            owner.credentials.issue("agent", "never")
        self.assertEqual((raised.exception.code, raised.exception.detail), ("busy", "Later."))
        self.assertEqual(len(proxy.asked) - before, 4)
        # The connection was an older one, which may have been closed meanwhile: that is not counted.
        before = self.asked_during(["lost"] * 5)
        with self.assertRaises(KeyledgerError) as raised:
            owner.teams.list()
        self.assertEqual((raised.exception.status, raised.exception.code), (None, "unreachable"))
        self.assertEqual(len(proxy.asked) - before, 5)

    def test_retry_after_is_kept_and_bounded(self) -> None:
        limited = b'{"status": 429, "code": "rate_limited"}'
        self.asked_during([(429, {"Retry-After": "1"}, limited), (429, {"Retry-After": "Tue, 01 Jan 2019 00:00:00 GMT"}, limited)])
        with unittest.mock.patch("time.sleep") as sleep:
            self.assertTrue(owner.teams.list())
        waits = [call.args[0] for call in sleep.call_args_list]
        self.assertTrue(1 <= waits[0] <= 1.1 and 0 <= waits[1] <= 0.2, waits)
        before = self.asked_during([(429, {"Retry-After": "3600"}, limited)])
        with self.assertRaises(KeyledgerError) as raised:
            owner.teams.list()
        self.assertEqual((raised.exception.retry_after_seconds, len(proxy.asked) - before), (3600, 1))

    def test_what_can_not_be_repeated_is_sent_once(self) -> None:
        for fault in ("lost", (503, {"Retry-After": "0"}, b'{"code": "outcome_unknown"}')):
            before = self.asked_during([fault])
            self.assertRaises(KeyledgerError, owner.members.invite, "viewer")
            self.assertEqual(len(proxy.asked) - before, 1)
        # It was refused before anything was done.
        before = self.asked_during([(429, {"Retry-After": "0"}, b'{"code": "rate_limited"}')])
        owner.members.invite("viewer")
        self.assertEqual(len(proxy.asked) - before, 2)

    def test_a_closed_connection_is_no_failure(self) -> None:
        with Client(proxy.url, token=owner.token, retries=0) as impatient:
            impatient.teams.list()
            self.asked_during(["unsent"])
            self.assertTrue(impatient.teams.list())


class Reading(unittest.TestCase):
    def test_pages_of_a_list_that_changes(self) -> None:
        name = f"many {uuid.uuid4()}"
        ids = [key(f"{name} {number}")[0] for number in range(105)]
        self.assertEqual([key.id for key in owner.credentials.list(q=name)], ids[::-1])
        # Whoever ends what they meet, and issues more, meets every one once.
        met = []
        for credential in owner.credentials.list(q=name, status="active", per_page=10):
            met.append(credential.id)
            owner.credentials.revoke(credential.id)
            if len(met) % 20 == 0:
                key(f"{name} more")
        self.assertEqual(met, ids[::-1])
        self.assertEqual(len(list(owner.credentials.list(q=name, status="active"))), 5)
        self.assertEqual(list(owner.credentials.list(q=str(uuid.uuid4()))), [])

    def test_filters(self) -> None:
        id, _ = key("filters", expires_in_days=1, purpose="a test")
        soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=2)
        me = owner.whoami()
        self.assertEqual((me.type, me.teams[0].id), ("person", owner.team_id))
        found = list(
            owner.credentials.list(
                kind="integration", status="active", issued_by=me.user_id, expires_before=soon, unused_days=0, q="filters"
            )
        )
        self.assertEqual([(key.id, key.purpose) for key in found], [(id, "a test")])
        self.assertEqual(list(owner.credentials.list(departed=True)), [])
        self.assertEqual(list(owner.credentials.list(q="filters", as_of=found[0].created_at - datetime.timedelta(1))), [])

    def test_the_audit_trail_by_cursor(self) -> None:
        id, _ = key("audited")
        owner.credentials.revoke(id)
        every = list(owner.audit.events(limit=3))
        self.assertEqual([event.revision for event in every], list(range(len(every))))
        self.assertGreater(len(every), 3)
        self.assertEqual(list(owner.audit.events(order="desc", limit=7)), every[::-1])
        self.assertEqual(list(owner.audit.events(after=every[2].position)), every[3:])
        about = list(owner.audit.events(credential=id, type="credential_revoked", actor=owner.whoami().user_id))
        self.assertEqual(about, [*owner.credentials.history(id).events][1:])
        page = owner.audit.page(limit=2, from_=every[0].recorded_at, to=every[-1].recorded_at)
        self.assertEqual((list(page.events), page.next), (every[:2], every[1].position))

    def test_reading_ones_own_writes(self) -> None:
        key()
        owner.teams.list()
        self.assertEqual(proxy.asked[-1].headers["ledger-min-position"], str(owner.position))
        with Client(proxy.url, token=owner.token, retries=0) as other:
            other.teams.list()
            self.assertNotIn("ledger-min-position", proxy.asked[-1].headers)
            other.read_your_writes = True
            other.seen(owner.position + 1_000_000)
            with self.assertRaises(KeyledgerError) as raised:
                other.teams.list()
            self.assertEqual(raised.exception.code, "position_not_reached")


class Writing(unittest.TestCase):
    def test_a_rotation(self) -> None:
        id, old = key("rotated", expires_in_days=30)
        rotated = owner.credentials.rotate(id, overlap_seconds=3600, expires_in_days=7)
        self.assertEqual(rotated.rotated_from, id)
        self.assertTrue(owner.verify(old) and owner.verify(rotated.raw_key))
        last = owner.credentials.rotate(rotated.id, overlap_seconds=0)
        self.assertEqual(owner.verify(rotated.raw_key), Denied("invalid_token"))
        self.assertTrue(owner.verify(last.raw_key))
        with self.assertRaises(KeyledgerError) as raised:
            owner.credentials.rotate(rotated.id, overlap_seconds=0)
        self.assertEqual(raised.exception.status, 409)

    def test_a_pairing(self) -> None:
        device = client()
        started = device.pairing.start("Laptop")
        self.assertNotIn(started.device_code.expose(), repr(started))
        self.assertEqual(device.pairing.poll(started).status, "pending")
        owner.pairing.confirm(started.user_code.lower(), device_name="Their laptop")
        paired = device.pairing.wait(started)
        self.assertEqual(paired.status, "approved")
        self.assertTrue(device.verify(paired.raw_key, surface="management"))
        self.assertTrue(device.verify(paired.agent_key, surface="agent"))
        with self.assertRaises(KeyledgerError) as raised:
            device.pairing.poll(started)
        self.assertEqual(raised.exception.code, "not_found")
        device.token = paired.raw_key
        self.assertEqual((device.whoami().type, device.whoami().kind), ("credential", "device"))
        device.pairing.revoke_self()
        self.assertFalse(device.verify(paired.raw_key) or device.verify(paired.agent_key))
        refused = device.pairing.start()
        owner.pairing.deny(refused.user_code)
        self.assertEqual(device.pairing.wait(refused).status, "denied")

    def test_somebody_leaves(self) -> None:
        invitation = owner.members.invite("member")
        self.assertNotIn(invitation.url.expose(), repr(invitation))
        leaver = client()
        signed_in = leaver.sign_in(re.sub(r".*token=", "", invitation.url.expose()), name="Kim")
        self.assertEqual(leaver.team_id, owner.team_id)
        leaver.renew()
        kept, ended, left = (leaver.credentials.issue("integration", name) for name in ("kept", "ended", "left"))
        owner.members.set_role(signed_in.user_id, "viewer")
        self.assertEqual({m.id: m.role for m in owner.members.list()}[signed_in.user_id], "viewer")
        dossier = owner.departures.dossier(signed_in.user_id)
        self.assertEqual({credential.id for credential in dossier.to_decide}, {kept.id, ended.id, left.id})
        key("meanwhile")
        me = owner.whoami().user_id
        decision = {"revoke": [ended.id], "hand_over": {kept.id: me}}
        with self.assertRaises(KeyledgerError) as raised:
            owner.departures.decide(signed_in.user_id, expected_revision=dossier.revision, **decision)
        self.assertEqual(raised.exception.code, "stale_revision")
        newer = raised.exception.members["revision"]
        receipt = owner.departures.decide(signed_in.user_id, expected_revision=newer, **decision)
        self.assertEqual(receipt.undecided, 1)
        self.assertTrue(owner.verify(kept.raw_key) and owner.verify(left.raw_key))
        self.assertFalse(owner.verify(ended.raw_key))
        self.assertEqual([credential.id for credential in owner.departures.queue().credentials], [left.id])
        owner.credentials.revoke(left.id)
        self.assertEqual(owner.departures.queue().total_count, 0)
        with self.assertRaises(KeyledgerError) as raised:
            leaver.teams.list()
        self.assertEqual(raised.exception.status, 401)

    def test_a_team_and_a_removal(self) -> None:
        with Client(proxy.url, token=owner.token) as mine:
            team = mine.teams.create("Another")
            self.assertIn(team, mine.teams.list())
            mine.team_id = team.id
            guest = client()
            joined = guest.sign_in(re.sub(r".*token=", "", mine.members.invite("auditor").url.expose()), name="Sam")
            mine.members.remove(joined.user_id)
            self.assertTrue({m.id: m for m in mine.members.list()}[joined.user_id].departed_at)

    def test_signing_out(self) -> None:
        with Client(proxy.url) as guest:
            guest.sign_in(re.sub(r".*token=", "", owner.members.invite("viewer").url.expose()), name="Alex")
            token = guest.token
            guest.sign_out()
            self.assertIsNone(guest.token)
            guest.token = token
            with self.assertRaises(KeyledgerError) as raised:
                guest.whoami()
            self.assertEqual(raised.exception.code, "invalid_token")
            self.assertRaises(ValueError, guest.sign_in, "http://ledger.evil.example/sign-in?token=lk-x")


class Refusals(unittest.TestCase):
    def test_one_exception_with_the_servers_own_code(self) -> None:
        nobody, elsewhere = client(), client(token=owner.token, team_id=str(uuid.uuid4()))
        foreign = str(uuid.uuid4())
        rows = [
            (401, "unauthenticated", lambda: nobody.teams.list()),
            (404, "not_found", lambda: elsewhere.members.list()),
            (404, "not_found", lambda: owner.credentials.show(foreign)),
            (404, "not_found", lambda: owner.credentials.revoke(foreign)),
            (400, "invalid_field", lambda: owner.credentials.issue("integration", "")),
            (400, "device_by_pairing", lambda: owner.credentials.issue("device", "x")),
            (404, "unknown_code", lambda: owner.pairing.confirm("AAAA-AAAA")),
            (400, "team_required", lambda: client(token=owner.token).members.list()),
        ]
        for status, code, call in rows:
            with self.assertRaises(KeyledgerError, msg=code) as raised:
                call()
            self.assertEqual((raised.exception.status, raised.exception.code), (status, code))
            self.assertTrue(raised.exception.detail and raised.exception.request_id)
            self.assertEqual(str(raised.exception), f"{raised.exception.detail} ({code}, {status})")
        with self.assertRaises(KeyledgerError) as raised:
            owner.credentials.issue("integration", "", expires_in_days=0)
        self.assertIn("display_name", [error["field"] for error in raised.exception.members["errors"]])

    def test_no_secret_in_any_traceback_even_with_its_frames_variables(self) -> None:
        id, raw_key = key()
        alive = client(token=owner.token, team_id=owner.team_id, retries=0)
        broken = b'{"raw_key": "' + raw_key.expose().encode() + b'", "id": 7'
        for fault in ["lost", "half", (200, {}, broken), (201, {}, broken + b"}"), (500, {}, broken + b"}"), (503, {}, broken)]:
            for call in (lambda: alive.verify(raw_key), lambda: alive.credentials.rotate(id, overlap_seconds=9)):
                proxy.faults[:] = [fault] * 2
                # Not assertRaises: it clears the frames.
                try:
                    call()
                    self.fail(f"no error: {fault!r}")
                except KeyledgerError as error:
                    self.assertIsNone(error.__context__)
                    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
                # The test's own have the secrets, of course.
                ours = [frame for frame in frames if frame.f_code.co_filename != __file__]
                shown = "".join(repr(frame.f_locals) for frame in ours)
                self.assertIn("Answer(" if isinstance(fault, tuple) else "_Lost(", shown)
                for secret in (raw_key.expose(), owner.token.expose()):
                    self.assertNotIn(secret, shown, fault)
        proxy.faults.clear()


class Encrypted(unittest.TestCase):
    def test_a_server_nobody_vouches_for_is_not_spoken_to(self) -> None:
        # The proxy speaks no TLS: the handshake fails, and nothing of the request is sent.
        secure = Client(proxy.url.replace("http://", "https://"), token=owner.token, retries=1)
        before = len(proxy.asked)
        with self.assertRaises(KeyledgerError) as raised:
            secure.teams.list()
        self.assertEqual((raised.exception.code, len(proxy.asked)), ("unreachable", before))
        self.assertEqual(secure._transport._ssl_context.verify_mode, ssl.CERT_REQUIRED)


class ZDocument(unittest.TestCase):
    """Last by name: it judges what all others have asked."""

    def test_every_request_is_in_the_api_document(self) -> None:
        document = json.loads(DOCUMENT.read_text())
        asked = set()
        for request in proxy.asked:
            template = next(path for path in document["paths"] if matches(path, request.path))
            operation = document["paths"][template][request.method.lower()]
            asked.add((request.method, template))
            parameters = {(p["in"], p["name"].lower()) for p in operation.get("parameters", [])}
            for name in request.query:
                self.assertIn(("query", name), parameters, template)
            if "idempotency-key" in request.headers:
                self.assertIn(("header", "idempotency-key"), parameters, template)
            elif request.method != "GET":
                self.assertNotIn(("header", "idempotency-key"), parameters, f"{template} should carry a key")
            if request.body:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                members, required = members_of(document, schema)
                self.assertLessEqual(set(json.loads(request.body)), members, template)
                if "idempotency-key" in request.headers:
                    self.assertLessEqual(required, set(json.loads(request.body)), template)
        self.assertEqual(asked, routes_of_the_client(), "a route of the client that no test has asked")
        self.assertEqual(covered_by_the_readme(), asked, "README.md")

    def test_no_secret_is_left_behind_on_the_server(self) -> None:
        written = server.everything_written()
        self.assertIn(b"CI", written)
        for secret in [*secrets, owner.token]:
            self.assertNotIn(secret.expose().encode(), written)


def matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path) is not None and (
        "{" not in template or not re.fullmatch(r".*/(invitations|export)", path)
    )


def members_of(document: dict, schema: dict) -> tuple[set[str], set[str]]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for one in schema.get("oneOf", []):
        if one.get("type") != "null":
            return members_of(document, one)
    return set(schema["properties"]), set(schema.get("required", []))


def routes_of_the_client() -> set[tuple[str, str]]:
    import keyledger._client
    import keyledger._resources

    modules = (keyledger._client, keyledger._resources)
    routes = [value for module in modules for value in vars(module).values() if isinstance(value, Route)]
    return {(route.method, route.path) for route in routes}


def covered_by_the_readme() -> set[tuple[str, str]]:
    table = README.read_text().partition("## Coverage")[2].partition("\n## ")[0]
    return {(method, "/api/v1" + path) for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", table)}


if __name__ == "__main__":
    unittest.main()

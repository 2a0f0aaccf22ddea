"""What needs no server: the form of keys, secrets that never show, addresses, answers read strictly."""

import copy
import dataclasses
import json
import logging
import pickle
import random
import socket
import string
import unittest

import keyledger
from keyledger import Client, Secret, kind_of
from keyledger import _model as model

# The vector of events/src/secret.rs.
GOOD = "sk-kl100000000000000000000000000000000000000000001d2j2b"
BASE62 = string.digits + string.ascii_letters


class KeyForm(unittest.TestCase):
    def test_the_checksum_is_the_servers(self) -> None:
        self.assertEqual(kind_of(GOOD), "integration")
        self.assertEqual(kind_of(Secret(GOOD)), "integration")

    def test_every_edit_and_truncation_is_refused(self) -> None:
        for at in range(len(GOOD)):
            self.assertIsNone(kind_of(GOOD[:at]))
            for character in BASE62 + "-_ \n\0é٣Ａ\ud800":
                if character != GOOD[at]:
                    self.assertIsNone(kind_of(GOOD[:at] + character + GOOD[at + 1 :]), (at, character))

    def test_nonsense_is_refused_and_never_an_exception(self) -> None:
        seed = random.randrange(2**32)
        rng = random.Random(seed)
        for _ in range(5_000):
            text = "".join(chr(rng.randrange(0x11_0000)) for _ in range(rng.randrange(80)))
            self.assertIsNone(kind_of(text), seed)
        for text in ("", GOOD + "\n", "\n" + GOOD, " " + GOOD, GOOD + "0", GOOD.upper(), "Bearer " + GOOD):
            self.assertIsNone(kind_of(text), repr(text))

    def test_the_pattern_finds_a_key_in_a_text(self) -> None:
        self.assertEqual(keyledger.PATTERN.findall(f"key={GOOD}; x{GOOD}"), [GOOD])


class Secrets(unittest.TestCase):
    def test_nothing_shows_it(self) -> None:
        secret = Secret(GOOD)
        issued = model.Issued("id", "integration", GOOD[:12], 1, raw_key=secret)
        with self.assertLogs() as logs:
            logging.getLogger().warning("%s %r %s", secret, issued, Client("http://localhost", token=secret))
        shown = [repr(secret), str(secret), f"{secret}", "%s" % secret, repr(issued), *logs.output]
        shown += [repr(dataclasses.asdict(issued)), repr(vars(Client("http://localhost", token=GOOD)))]
        for text in shown:
            self.assertNotIn(GOOD[12:], text)
        self.assertEqual(str(secret), "Secret(sk-[redacted])")
        self.assertEqual(str(Secret("eyJ-a-token")), "Secret([redacted])")
        for leak in (json.dumps, pickle.dumps):
            self.assertRaises(TypeError, leak, secret)

    def test_it_is_a_value(self) -> None:
        self.assertEqual(Secret("a"), Secret("a"))
        self.assertNotEqual(Secret("a"), Secret("b"))
        self.assertNotEqual(Secret("a"), "a")
        self.assertEqual(len({Secret("a"), Secret("a"), copy.deepcopy(Secret("a"))}), 1)
        self.assertEqual(Secret("a").expose(), "a")
        with self.assertRaises(AttributeError):
            Secret("a")._text = "b"

    def test_a_token_that_is_no_header_is_refused_without_being_quoted(self) -> None:
        for token in ("", "secret\r\nX: y", "sécret", "sec ret"):
            with self.assertRaises(ValueError) as raised:
                Client("http://localhost", token=token)
            self.assertNotIn("cret\r", str(raised.exception) + repr(raised.exception))

    def test_a_refusals_text_is_scrubbed(self) -> None:
        self.assertNotIn(GOOD, str(keyledger.KeyledgerError(400, "odd", f"no {GOOD} here")))


class Addresses(unittest.TestCase):
    def test_https_or_this_machine(self) -> None:
        good = ["http://127.0.0.1:7470", "http://[::1]:1", "http://localhost/", "https://ledger.example"]
        bad = ["", "ledger.example", "ftp://x", "http://", "https://u:p@x", "https://x/path", "https://x?q", "https://x#f"]
        bad += ["https://x:99999", "https://[::1", "https://x\r\ny", "https://é.example", "http://ledger.example"]
        bad += ["http://127.0.0.1.evil.example", "http://10.0.0.1"]
        for url in good:
            self.assertEqual(Client(url).base_url, url.rstrip("/"))
        for url in bad:
            with self.assertRaises(ValueError, msg=url):
                Client(url)
        self.assertEqual(Client("http://10.0.0.1", allow_cleartext=True).base_url, "http://10.0.0.1")

    def test_nobody_there(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            client = Client(f"http://127.0.0.1:{bound.getsockname()[1]}", token=GOOD, team_id="t", retries=1)
            with self.assertRaises(keyledger.KeyledgerError) as raised:
                client.credentials.issue("agent", "x")
        self.assertEqual((raised.exception.status, raised.exception.code), (None, "unreachable"))
        self.assertTrue(raised.exception.idempotency_key)

    def test_no_secret_goes_into_a_url(self) -> None:
        with self.assertRaises(ValueError) as raised:
            Client("http://localhost", token="t").credentials.revoke(GOOD)
        self.assertNotIn(GOOD, str(raised.exception))


class Answers(unittest.TestCase):
    accepted = {"valid": True, "credential_id": "c", "kind": "agent", "team_id": "t", "user_id": "u", "position": 1}

    def test_read_strictly_and_open_to_new_members(self) -> None:
        read = model.read(model.Accepted, {**self.accepted, "new": 1, "expires_at": "2026-11-25T01:03:55.349548Z"})
        self.assertEqual(read.expires_at.isoformat(), "2026-11-25T01:03:55.349548+00:00")
        odd = [None, [], 1, {}, {**self.accepted, "valid": False}, {**self.accepted, "valid": 1}]
        odd += [{**self.accepted, "position": "1"}, {**self.accepted, "position": True}, {**self.accepted, "kind": None}]
        odd += [{**self.accepted, "expires_at": at} for at in ("", "soon", "2026-11-25T01:03:55", 5)]
        odd += [{name: value for name, value in self.accepted.items() if name != left} for left in self.accepted]
        for value in odd:
            with self.assertRaises(model.NotOfThisForm, msg=value):
                model.read(model.Accepted, value)

    def test_a_denial_counts_as_false(self) -> None:
        self.assertFalse(model.Denied("invalid_token"))
        self.assertFalse(model.BatchVerdict(False, "revoked"))
        self.assertTrue(model.read(model.Accepted, self.accepted))


if __name__ == "__main__":
    unittest.main()

/** What needs no server: the form of keys, secrets that never show, addresses. */

import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";
import util from "node:util";

import { Client, KeyledgerError, PATTERN, Secret, kindOf } from "keyledger";

// The vector of events/src/secret.rs.
const GOOD = "sk-kl100000000000000000000000000000000000000000001d2j2b";
const BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

test("the checksum is the server's", () => {
  assert.equal(kindOf(GOOD), "integration");
  assert.equal(kindOf(new Secret(GOOD)), "integration");
});

test("every edit and truncation is refused", () => {
  for (let at = 0; at < GOOD.length; at++) {
    assert.equal(kindOf(GOOD.slice(0, at)), undefined);
    for (const character of `${BASE62}-_ \n\0é٣Ａ\ud800`) {
      if (character !== GOOD[at]) assert.equal(kindOf(GOOD.slice(0, at) + character + GOOD.slice(at + 1)), undefined);
    }
  }
});

test("nonsense is refused and never an exception", () => {
  for (let round = 0; round < 5_000; round++) {
    const units = Array.from({ length: Math.random() * 80 }, () => Math.floor(Math.random() * 65_536));
    assert.equal(kindOf(String.fromCharCode(...units)), undefined);
  }
  for (const text of ["", `${GOOD}\n`, `\n${GOOD}`, ` ${GOOD}`, `${GOOD}0`, GOOD.toUpperCase(), `Bearer ${GOOD}`]) {
    assert.equal(kindOf(text), undefined);
  }
  assert.deepEqual(`key=${GOOD}; x${GOOD}`.match(PATTERN), [GOOD]);
});

test("nothing shows a secret", () => {
  const secret = new Secret(GOOD);
  const client = new Client("http://localhost", { token: GOOD });
  const shown = [`${secret}`, secret + "", JSON.stringify({ secret, client }), util.inspect({ secret, client }, { depth: 9, showHidden: true })];
  shown.push(util.format("%s %o %j", secret, secret, secret), JSON.stringify(Object.getOwnPropertyNames(secret)));
  for (const text of shown) assert.ok(!text.includes(GOOD.slice(12)), text);
  assert.equal(String(secret), "sk-[redacted]");
  assert.equal(String(new Secret("eyJ-a-token")), "[redacted]");
  assert.equal(secret.expose(), GOOD);
  assert.ok(!String(new KeyledgerError({ code: "odd", detail: `no ${GOOD} here` })).includes(GOOD));
});

test("a token that is no header is refused without being quoted", () => {
  for (const token of ["", "secret\r\nX: y", "sécret", "sec ret"]) {
    assert.throws(() => new Client("http://localhost", { token }), (error) => error instanceof TypeError && !error.message.includes("ret\r"));
  }
});

test("https, or this machine", () => {
  for (const url of ["http://127.0.0.1:7470", "http://[::1]:1", "http://localhost/", "https://ledger.example"]) {
    assert.equal(new Client(url).baseUrl, url.replace(/\/$/, ""));
  }
  const bad = ["", "ledger.example", "ftp://x", "http://", "https://u:p@x", "https://x/path", "https://x?q", "https://x#f"];
  bad.push("https://x:99999", "https://[::1", "https://x\r\ny", "https://é.example", "http://ledger.example");
  bad.push("http://127.0.0.1.evil.example", "http://10.0.0.1", "https://x\\@y");
  for (const url of bad) assert.throws(() => new Client(url), TypeError, url);
  assert.equal(new Client("http://10.0.0.1", { allowCleartext: true }).baseUrl, "http://10.0.0.1");
});

test("nobody there", async () => {
  const free = net.createServer();
  await new Promise((resolve) => free.listen(0, "127.0.0.1", resolve));
  const { port } = free.address();
  await new Promise((resolve) => free.close(resolve));
  const client = new Client(`http://127.0.0.1:${port}`, { token: GOOD, teamId: "t", retries: 1 });
  await assert.rejects(client.credentials.issue({ kind: "agent", display_name: "x" }), (error) => {
    assert.equal(error.code, "unreachable");
    assert.equal(error.status, undefined);
    assert.match(error.detail, /ECONNREFUSED/);
    return Boolean(error.idempotencyKey);
  });
});

test("no secret goes into a URL", async () => {
  const client = new Client("http://localhost", { token: "t" });
  await assert.rejects(client.credentials.revoke(GOOD), (error) => error instanceof TypeError && !error.message.includes(GOOD));
});

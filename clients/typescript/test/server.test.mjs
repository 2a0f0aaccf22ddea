/**
 * The client against a real server. `LEDGER_BINARY` names the binary. Every request goes through a proxy that writes it
 * down; at the end each is held against the API document, and the README's table against what was asked.
 */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import util from "node:util";

import { Client, KeyledgerError, Secret } from "keyledger";
import * as routes from "../dist/routes.js";
import { DOCUMENT, everythingIn, startProxy, startServer } from "./support.mjs";

let server, proxy, owner;
const secrets = [];
const UNKNOWN = "sk-kl100000000000000000000000000000000000000000001d2j2b";
const DENIED = { valid: false, code: "invalid_token" };

before(async () => {
  server = await startServer();
  proxy = await startProxy(server.url);
  owner = client({ readYourWrites: true });
  await owner.signIn(tokenOf(server.link));
});
after(async () => {
  proxy?.stop();
  await server?.stop();
});

const client = (options) => new Client(proxy.url, options);
const tokenOf = (link) => link.replace(/.*token=/, "");
const collect = async (pages) => {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
};
const isValid = async (key) => (await owner.verify(key)).valid;

async function key(display_name = "CI", more = {}) {
  const issued = await owner.credentials.issue({ kind: "integration", display_name, ...more });
  assert.ok(issued.raw_key instanceof Secret);
  secrets.push(issued.raw_key);
  return [issued.id, issued.raw_key];
}

/** Runs something under faults; how many requests it took. */
async function under(faults, run) {
  proxy.faults.splice(0, Infinity, ...faults);
  const from = proxy.asked.length;
  await run();
  assert.deepEqual(proxy.faults, [], "a fault was not met");
  return proxy.asked.slice(from);
}

async function refused(promise, status, code) {
  const error = await promise.then(() => assert.fail(`no ${code}`), (error) => error);
  assert.ok(error instanceof KeyledgerError, util.inspect(error));
  assert.deepEqual([error.status, error.code], [status, code]);
  return error;
}

test("a key's life", async () => {
  const [id, rawKey] = await key("CI", { expires_in_days: 30 });
  const verdict = await owner.verify(rawKey, { surface: "runtime" });
  assert.ok(verdict.valid);
  assert.deepEqual([verdict.credential_id, verdict.kind, verdict.team_id], [id, "integration", owner.teamId]);
  assert.equal(verdict.display_name, "CI");
  assert.ok((await owner.verify(rawKey.expose(), { teamId: owner.teamId })).valid);
  assert.deepEqual(await owner.verify(rawKey, { surface: "agent" }), { valid: false, code: "insufficient_scope" });
  assert.deepEqual(await owner.verify(rawKey, { teamId: randomUUID() }), DENIED);
  await owner.credentials.revoke(id, { reason: "left in a log" });
  assert.deepEqual(await owner.verify(rawKey), DENIED);
  await owner.credentials.revoke(id);
  const shown = await owner.credentials.show(id);
  assert.deepEqual([shown.key_status, shown.revoke_note], ["revoked", "left in a log"]);
  const { events } = await owner.credentials.history(id);
  // That it was presented after its end may be on record behind them.
  assert.deepEqual(events.slice(0, 2).map(({ type }) => type), ["credential_issued", "credential_revoked"]);
});

test("verifying needs no token, and nonsense is not sent", async () => {
  const [, rawKey] = await key();
  assert.ok((await client().verify(rawKey)).valid);
  const none = await under([], async () => {
    for (const text of ["", "password", `${UNKNOWN.slice(0, -1)}c`, `${UNKNOWN}\r\nX: y`]) {
      assert.deepEqual(await owner.verify(text), DENIED);
    }
  });
  assert.equal(none.length, 0);
  assert.equal((await under([], async () => assert.deepEqual(await owner.verify(UNKNOWN), DENIED))).length, 1);
});

test("a batch is told why", async () => {
  const edge = client({ token: (await owner.credentials.issueService({ display_name: "edge", expires_in_days: 1 })).raw_key });
  const [[aliveId, alive], [deadId, dead], [, agent]] = [await key(), await key(), await key("a", { kind: "agent" })];
  await owner.credentials.revoke(deadId);
  const verdicts = await edge.verifyBatch([alive, "password", dead, agent, UNKNOWN], { surface: "runtime" });
  const codes = ["valid", "malformed", "revoked", "insufficient_scope", "unknown"];
  assert.deepEqual(verdicts.map(({ code }) => code), codes);
  assert.deepEqual(verdicts.map(({ valid }) => valid), [true, false, false, false, false]);
  assert.equal(verdicts[0].credential_id, aliveId);
  assert.ok(!proxy.asked.at(-1).body.includes("password"));
  const asked = await under([], async () => {
    const many = await edge.verifyBatch([...Array(1_001).fill(UNKNOWN), alive]);
    assert.deepEqual([many.length, many[1_000].code, many[1_001].code], [1_002, "unknown", "valid"]);
  });
  assert.equal(asked.length, 2);
  assert.deepEqual(await edge.verifyBatch([]), []);
  await refused(owner.verifyBatch([alive]), 401, "invalid_token");
});

test("only the ledger's own no is a verdict", async () => {
  const [, rawKey] = await key();
  const odd = [
    { status: 401, body: "<html>log in</html>" },
    { status: 403, body: '{"code": "waf"}' },
    { status: 200, body: "{}" },
    { status: 200, body: '{"valid": false}' },
    { status: 200, body: '{"valid": "true", "credential_id": "c", "kind": "k", "team_id": "t", "user_id": "u"}' },
    { status: 200, body: "yes" },
    { status: 200, body: "[".repeat(100_000) },
    { status: 302, headers: { location: "http://127.0.0.1:9/" } },
    { status: 204 },
  ];
  for (const fault of odd) {
    await under([fault], async () => {
      const error = await owner.verify(rawKey).then(() => assert.fail(JSON.stringify(fault)), (error) => error);
      assert.ok(["unreadable_answer", "waf"].includes(error.code), String(error));
    });
  }
});

test("a lost answer is asked again under the same key", async () => {
  for (const fault of ["lost", "half"]) {
    const display_name = `once ${randomUUID()}`;
    let issued;
    const [first, second] = await under([fault], async () => {
      issued = await owner.credentials.issue({ kind: "integration", display_name });
    });
    assert.equal(first.headers["idempotency-key"], second.headers["idempotency-key"]);
    assert.equal(first.body, second.body);
    assert.deepEqual((await collect(owner.credentials.list({ q: display_name }))).map(({ id }) => id), [issued.id]);
    // Its secret was in the answer that was lost, and is nowhere else.
    assert.equal(issued.raw_key, undefined);
    const rotated = await owner.credentials.rotate(issued.id, { overlap_seconds: 0 });
    assert.ok(await isValid(rotated.raw_key));
  }
});

test("what never arrived comes with its secret", async () => {
  const later = { status: 503, headers: { "retry-after": "0" }, body: '{"code": "outcome_unknown"}' };
  await under(["unsent", later], async () => assert.ok(await isValid((await key())[1])));
});

test("an idempotency key of one's own", async () => {
  const own = { idempotencyKey: randomUUID() };
  const first = await owner.credentials.issue({ kind: "agent", display_name: "mine" }, own);
  const again = await owner.credentials.issue({ kind: "agent", display_name: "mine" }, own);
  assert.deepEqual([again.id, again.raw_key], [first.id, undefined]);
  const error = await refused(
    owner.credentials.issue({ kind: "agent", display_name: "another" }, own), 422, "idempotency_key_reused");
  assert.equal(error.idempotencyKey, own.idempotencyKey);
  const [one, two] = await under([], async () => (await key("same"), await key("same")));
  assert.notEqual(one.headers["idempotency-key"], two.headers["idempotency-key"]);
});

test("retries are bounded", async () => {
  const busy = { status: 503, headers: { "retry-after": "0" }, body: '{"status": 503, "code": "busy", "detail": "Later."}' };
  const issue = () => owner.credentials.issue({ kind: "agent", display_name: "never" });
  let asked = await under(Array(4).fill(busy), async () => {
    assert.equal((await refused(issue(), 503, "busy")).detail, "Later.");
  });
  assert.equal(asked.length, 4);
  asked = await under(Array(4).fill("lost"), () => refused(owner.teams.list(), undefined, "unreachable"));
  assert.equal(asked.length, 4);
});

test("Retry-After is kept and bounded", async () => {
  const limited = (after) => ({ status: 429, headers: { "retry-after": after }, body: '{"code": "rate_limited"}' });
  const began = Date.now();
  await under([limited("1"), limited("Tue, 01 Jan 2019 00:00:00 GMT")], async () => assert.ok(await owner.teams.list()));
  assert.ok(Date.now() - began >= 990);
  const asked = await under([limited("3600")], async () => {
    assert.equal((await refused(owner.teams.list(), 429, "rate_limited")).retryAfterSeconds, 3600);
  });
  assert.equal(asked.length, 1);
});

test("what can't be repeated is sent once", async () => {
  const unknown = { status: 503, headers: { "retry-after": "0" }, body: '{"code": "outcome_unknown"}' };
  for (const fault of ["lost", unknown]) {
    const asked = await under([fault], () => assert.rejects(owner.members.invite("viewer"), KeyledgerError));
    assert.equal(asked.length, 1);
  }
  // It was refused before anything was done.
  const limited = { status: 429, headers: { "retry-after": "0" }, body: '{"code": "rate_limited"}' };
  assert.equal((await under([limited], () => owner.members.invite("viewer"))).length, 2);
});

test("a slow server is waited for no longer than asked", async () => {
  const hung = await startProxy("http://127.0.0.1:9");
  hung.faults.push({ status: 200, headers: { "content-length": "100" }, body: "{" });
  try {
    const impatient = new Client(hung.url, { timeoutMs: 200, retries: 0 });
    assert.equal((await refused(impatient.teams.list(), undefined, "unreachable")).detail.includes("TimeoutError"), true);
  } finally {
    hung.stop();
  }
});

test("pages of a list that changes", async () => {
  const name = `many ${randomUUID()}`;
  const ids = [];
  for (let number = 0; number < 105; number++) ids.unshift((await key(`${name} ${number}`))[0]);
  assert.deepEqual((await collect(owner.credentials.list({ q: name }))).map(({ id }) => id), ids);
  // Whoever ends what they meet, and issues more, meets every one once.
  const met = [];
  for await (const { id } of owner.credentials.list({ q: name, status: "active", per_page: 10 })) {
    met.push(id);
    await owner.credentials.revoke(id);
    if (met.length % 20 === 0) await key(`${name} more`);
  }
  assert.deepEqual(met, ids);
  assert.equal((await collect(owner.credentials.list({ q: name, status: "active" }))).length, 5);
  assert.deepEqual(await collect(owner.credentials.list({ q: randomUUID() })), []);
});

test("filters, and the list as it stood", async () => {
  const [id] = await key("filters", { expires_in_days: 1, purpose: "a test" });
  const me = await owner.whoami();
  assert.equal(me.type, "person");
  const expires_before = new Date(Date.now() + 2 * 86_400_000).toISOString();
  const filter = { kind: "integration", status: "active", issued_by: me.user_id, expires_before, unused_days: 0, q: "filters" };
  const found = await collect(owner.credentials.list(filter));
  assert.deepEqual(found.map((key) => [key.id, key.purpose]), [[id, "a test"]]);
  assert.deepEqual(await collect(owner.credentials.list({ departed: true })), []);
  assert.deepEqual(await collect(owner.credentials.list({ q: "filters", as_of: 2 })), []);
});

test("the audit trail by cursor", async () => {
  const [id] = await key("audited");
  await owner.credentials.revoke(id);
  const every = await collect(owner.audit.events({ limit: 3 }));
  assert.deepEqual(every.map(({ revision }) => revision), every.map((_, at) => at));
  assert.ok(every.length > 3);
  assert.deepEqual(await collect(owner.audit.events({ order: "desc", limit: 7 })), [...every].reverse());
  assert.deepEqual(await collect(owner.audit.events({ after: every[2].position })), every.slice(3));
  const about = await collect(owner.audit.events({ credential: id, type: "credential_revoked", actor: (await owner.whoami()).user_id }));
  assert.deepEqual(about, (await owner.credentials.history(id)).events.slice(1));
  const page = await owner.audit.page({ limit: 2, from: every[0].recorded_at, to: every.at(-1).recorded_at });
  assert.deepEqual([page.events, page.next], [every.slice(0, 2), every[1].position]);
});

test("reading one's own writes", async () => {
  await key();
  await owner.teams.list();
  assert.equal(proxy.asked.at(-1).headers["ledger-min-position"], String(owner.position));
  const other = client({ token: owner.token, retries: 0 });
  await other.teams.list();
  assert.equal(proxy.asked.at(-1).headers["ledger-min-position"], undefined);
  other.readYourWrites = true;
  other.seen(owner.position + 1_000_000);
  await refused(other.teams.list(), 503, "position_not_reached");
});

test("a rotation", async () => {
  const [id, old] = await key("rotated", { expires_in_days: 30 });
  const rotated = await owner.credentials.rotate(id, { overlap_seconds: 3600, expires_in_days: 7 });
  assert.equal(rotated.rotated_from, id);
  assert.ok((await isValid(old)) && (await isValid(rotated.raw_key)));
  const last = await owner.credentials.rotate(rotated.id, { overlap_seconds: 0 });
  assert.deepEqual(await owner.verify(rotated.raw_key), DENIED);
  assert.ok(await isValid(last.raw_key));
  const error = await owner.credentials.rotate(rotated.id, { overlap_seconds: 0 }).catch((error) => error);
  assert.equal(error.status, 409);
});

test("a pairing", async () => {
  const device = client();
  const started = await device.pairing.start("Laptop");
  assert.ok(!util.inspect(started).includes(started.device_code.expose()));
  assert.deepEqual(await device.pairing.poll(started), { status: "pending" });
  await owner.pairing.confirm(started.user_code.toLowerCase(), "Their laptop");
  const paired = await device.pairing.wait(started);
  assert.ok((await device.verify(paired.raw_key, { surface: "management" })).valid);
  assert.ok((await device.verify(paired.agent_key, { surface: "agent" })).valid);
  await refused(device.pairing.poll(started), 404, "not_found");
  device.token = paired.raw_key;
  assert.deepEqual((await device.whoami()).kind, "device");
  await device.pairing.revokeSelf();
  assert.ok(!(await isValid(paired.raw_key)) && !(await isValid(paired.agent_key)));
  const another = await device.pairing.start();
  await owner.pairing.deny(another.user_code);
  assert.deepEqual(await device.pairing.wait(another), { status: "denied" });
});

test("somebody leaves", async () => {
  const invitation = await owner.members.invite("member");
  assert.ok(!util.inspect(invitation).includes(invitation.url.expose()));
  const leaver = client();
  const { user_id } = await leaver.signIn(tokenOf(invitation.url.expose()), { name: "Kim" });
  assert.equal(leaver.teamId, owner.teamId);
  await leaver.renew();
  const issue = (display_name) => leaver.credentials.issue({ kind: "integration", display_name });
  const [kept, ended, left] = [await issue("kept"), await issue("ended"), await issue("left")];
  await owner.members.setRole(user_id, "viewer");
  assert.equal((await owner.members.list()).find(({ id }) => id === user_id).role, "viewer");
  const dossier = await owner.departures.dossier(user_id);
  assert.deepEqual(dossier.to_decide.map(({ id }) => id).sort(), [kept.id, ended.id, left.id].sort());
  await key("meanwhile");
  const me = (await owner.whoami()).user_id;
  const decision = { revoke: [ended.id], hand_over: [{ id: kept.id, to: me }] };
  const stale = await refused(
    owner.departures.decide(user_id, { ...decision, expected_revision: dossier.revision }), 409, "stale_revision");
  const receipt = await owner.departures.decide(user_id, { ...decision, expected_revision: stale.members.revision });
  assert.equal(receipt.undecided, 1);
  assert.deepEqual([await isValid(kept.raw_key), await isValid(left.raw_key), await isValid(ended.raw_key)], [true, true, false]);
  assert.deepEqual((await owner.departures.queue()).credentials.map(({ id }) => id), [left.id]);
  await owner.credentials.revoke(left.id);
  assert.equal((await owner.departures.queue()).total_count, 0);
  await refused(leaver.teams.list(), 401, "invalid_token");
});

test("a team, a removal, and signing out", async () => {
  const mine = client({ token: owner.token });
  const team = await mine.teams.create("Another");
  assert.ok((await mine.teams.list()).some(({ id }) => id === team.id));
  mine.teamId = team.id;
  const guest = client();
  const joined = await guest.signIn(tokenOf((await mine.members.invite("auditor")).url.expose()), { name: "Sam" });
  const { token } = guest;
  await guest.signOut();
  assert.equal(guest.token, undefined);
  guest.token = token;
  await refused(guest.whoami(), 401, "invalid_token");
  await mine.members.remove(joined.user_id);
  assert.ok((await mine.members.list()).find(({ id }) => id === joined.user_id).departed_at);
  await assert.rejects(guest.signIn("http://ledger.evil.example/sign-in?token=lk-x"), TypeError);
});

test("one error with the server's own code, and no secret in it", async () => {
  const foreign = randomUUID();
  const elsewhere = client({ token: owner.token, teamId: foreign });
  const issue = (kind, display_name) => owner.credentials.issue({ kind, display_name });
  const rows = [
    [401, "unauthenticated", () => client().teams.list()],
    [404, "not_found", () => elsewhere.members.list()],
    [404, "not_found", () => owner.credentials.show(foreign)],
    [404, "not_found", () => owner.credentials.revoke(foreign)],
    [400, "invalid_field", () => issue("integration", "")],
    [400, "device_by_pairing", () => issue("device", "x")],
    [404, "unknown_code", () => owner.pairing.confirm("AAAA-AAAA")],
    [400, "team_required", () => client({ token: owner.token }).members.list()],
  ];
  for (const [status, code, call] of rows) {
    const error = await refused(call(), status, code);
    assert.ok(error.detail && error.requestId);
    assert.equal(error.message, `${error.detail} (${code}, ${status})`);
  }
  const { members } = await refused(issue("integration", ""), 400, "invalid_field");
  assert.deepEqual(members.errors.map(({ field }) => field), ["display_name"]);
  const [id, rawKey] = await key();
  const broken = `{"raw_key": "${rawKey.expose()}", "id": 7`;
  const alive = client({ token: owner.token, teamId: owner.teamId, retries: 0 });
  for (const fault of ["lost", "half", { status: 200, body: broken }, { status: 500, body: `${broken}}` }, { status: 503, body: broken }]) {
    for (const call of [() => alive.verify(rawKey), () => alive.credentials.rotate(id, { overlap_seconds: 9 })]) {
      await under([fault], async () => {
        const error = await call().then(() => assert.fail("no error"), (error) => error);
        const shown = util.inspect(error, { depth: 9, showHidden: true }) + JSON.stringify(error);
        for (const secret of [rawKey, owner.token]) assert.ok(!shown.includes(secret.expose()), shown);
      });
    }
  }
});

test("a server nobody vouches for is not spoken to", async () => {
  const secure = new Client(proxy.url.replace("http:", "https:"), { token: owner.token, retries: 1 });
  assert.equal((await under([], () => refused(secure.teams.list(), undefined, "unreachable"))).length, 0);
});

// Last: it judges what all others have asked.
test("every request is in the API document", async () => {
  const document = JSON.parse(await readFile(DOCUMENT, "utf8"));
  const asked = new Set();
  for (const request of proxy.asked) {
    // A path without parameters is more exact than one with.
    const templates = Object.keys(document.paths).filter((path) => matches(path, request.path));
    const template = templates.find((path) => path === request.path) ?? templates[0];
    const operation = document.paths[template]?.[request.method.toLowerCase()];
    assert.ok(operation, `${request.method} ${request.path}`);
    asked.add(`${request.method} ${template}`);
    const takes = (place, name) => (operation.parameters ?? []).some((p) => p.in === place && p.name.toLowerCase() === name);
    for (const name of request.query) assert.ok(takes("query", name), `${template}?${name}`);
    if (request.method !== "GET") {
      assert.equal("idempotency-key" in request.headers, takes("header", "idempotency-key"), template);
    }
    if (request.body) {
      const members = membersOf(document, operation.requestBody.content["application/json"].schema);
      for (const name of Object.keys(JSON.parse(request.body))) assert.ok(members.includes(name), `${template} ${name}`);
    }
  }
  const spoken = Object.values(routes).map(({ method, path }) => `${method.toUpperCase()} ${path}`);
  assert.deepEqual([...asked].sort(), spoken.sort(), "a route of the client that no test has asked");
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const table = readme.split("## Coverage")[1].split("\n## ")[0];
  const covered = [...table.matchAll(/`([A-Z]+) (\/[^`]*)`/g)].map(([, method, path]) => `${method} /api/v1${path}`);
  assert.deepEqual(covered.sort(), spoken, "README.md");
});

test("no secret is left behind on the server", async () => {
  const written = Buffer.concat([await everythingIn(server.directory), Buffer.from(server.log())]);
  assert.ok(written.includes("CI"));
  for (const secret of [...secrets, owner.token]) assert.ok(!written.includes(secret.expose()));
});

function matches(template, path) {
  const [left, right] = [template.split("/"), path.split("/")];
  return left.length === right.length && left.every((part, at) => part.startsWith("{") || part === right[at]);
}

function membersOf(document, schema) {
  const resolved = schema.$ref ? document.components.schemas[schema.$ref.split("/").at(-1)] : schema;
  const one = resolved.oneOf?.find(({ type }) => type !== "null");
  return one ? membersOf(document, one) : Object.keys(resolved.properties);
}

// openid-client, which nobody wrote for this service, against a running one: discovery, a device that a person lets in on
// /pair, introspection, revocation, a refusal. client.mjs URL; LINK is a sign-in link, SERVICE_KEY an sv- key.
import assert from 'node:assert/strict';
import * as client from 'openid-client';

const url = process.argv[2];
const { LINK: link, SERVICE_KEY: serviceKey } = process.env;
const options = { algorithm: 'oauth2', execute: [client.allowInsecureRequests] };

// A person with a browser that knows no scripts.
const cookies = new Map();
async function browse(method, address, fields) {
  const response = await fetch(new URL(address, url), {
    method,
    redirect: 'manual',
    headers: { origin: url, cookie: [...cookies].map((pair) => pair.join('=')).join('; ') },
    body: fields && new URLSearchParams(fields),
  });
  for (const cookie of response.headers.getSetCookie()) {
    const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
    cookies.set(name, value);
  }
  return { status: response.status, to: response.headers.get('location'), text: await response.text() };
}
async function decide(started, decision) {
  const asked = await browse('GET', started.verification_uri_complete);
  assert.equal(asked.status, 200, asked.text);
  assert.ok(asked.text.includes(started.user_code), 'the code to compare');
  const team = /name="team" value="([^"]+)"/.exec(asked.text)[1];
  const decided = await browse('POST', '/pair', { code: started.user_code, team, decision });
  assert.equal(decided.status, 200, decided.text);
}

const config = await client.discovery(new URL(url), 'stock-node', undefined, client.None(), options);
assert.equal(config.serverMetadata().issuer, url);

// The person comes with the code, is not signed in, and is led back by their link.
const started = await client.initiateDeviceAuthorization(config, { device_name: 'a stock laptop' });
assert.equal((await browse('GET', started.verification_uri_complete)).status, 401);
const signedIn = await browse('POST', '/sign-in', { token: new URL(link).searchParams.get('token') });
assert.equal(signedIn.to, `/pair?code=${started.user_code}`);
await decide(started, 'allow');
const got = await client.pollDeviceAuthorizationGrant(config, started);
assert.match(got.access_token, /^dk-/);
assert.match(got.agent_key, /^ak-/);
assert.equal(got.token_type, 'bearer');
assert.equal(got.scope, 'runtime management');

for (const method of [client.ClientSecretBasic, client.ClientSecretPost]) {
  const service = await client.discovery(new URL(url), 'edge', undefined, method(serviceKey), options);
  const about = await client.tokenIntrospection(service, got.access_token);
  assert.equal(about.active, true);
  assert.equal(about.kind, 'device');
  assert.equal(about.iss, url);
}
const service = await client.discovery(new URL(url), 'edge', undefined, client.ClientSecretBasic(serviceKey), options);
const wrong = await client.discovery(new URL(url), 'edge', undefined, client.ClientSecretBasic('sv-kl1no'), options);
await assert.rejects(client.tokenIntrospection(wrong, got.access_token), { status: 401 });

await client.tokenRevocation(config, got.access_token);
await client.tokenRevocation(config, got.access_token);
for (const key of [got.access_token, got.agent_key]) {
  assert.deepEqual(await client.tokenIntrospection(service, key), { active: false });
}

const refused = await client.initiateDeviceAuthorization(config, {});
await decide(refused, 'deny');
await assert.rejects(client.pollDeviceAuthorizationGrant(config, refused), { error: 'access_denied' });
console.log('openid-client: discovery, device grant, introspection, revocation, refusal');

// The same odd requests to this service and to oidc-provider, side by side. Status and error code must agree, or differ as
// written below, with the reason. compare.mjs URL PORT; SERVICE_KEY is an sv- key. Prints what differs as a table.
import assert from 'node:assert/strict';
import Provider from 'oidc-provider';

const [ours, port] = process.argv.slice(2);
const serviceKey = process.env.SERVICE_KEY;
const theirs = `http://127.0.0.1:${port}`;
const GRANT = 'urn:ietf:params:oauth:grant-type:device_code';

const provider = new Provider(theirs, {
  clients: [
    { client_id: 'cli', token_endpoint_auth_method: 'none', grant_types: [GRANT], redirect_uris: [], response_types: [] },
    { client_id: 'other', token_endpoint_auth_method: 'none', grant_types: [GRANT], redirect_uris: [], response_types: [] },
    { client_id: 'edge', client_secret: 'edge-secret', grant_types: [GRANT], redirect_uris: [], response_types: [] },
  ],
  features: {
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    devInteractions: { enabled: false },
  },
});
const listening = await new Promise((resolve) => {
  const server = provider.listen(Number(port), '127.0.0.1', () => resolve(server));
});

const places = {
  ours: { base: ours, device: '/oauth/device_authorization', token: '/oauth/token', introspect: '/oauth/introspect', revoke: '/oauth/revoke' },
  theirs: { base: theirs, device: '/device/auth', token: '/token', introspect: '/token/introspection', revoke: '/token/revocation' },
};
const basic = (id, secret) => `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`;
places.ours.service = basic('edge', serviceKey);
places.theirs.service = basic('edge', 'edge-secret');

const FORM = 'application/x-www-form-urlencoded';
async function ask(place, endpoint, fields, { method = 'POST', type = FORM, service = false, headers = {} } = {}) {
  const body = typeof fields === 'string' ? fields : new URLSearchParams(fields).toString();
  const response = await fetch(place.base + place[endpoint], {
    method,
    headers: { ...(method === 'GET' ? {} : { 'content-type': type }), ...(service && { authorization: place.service }), ...headers },
    body: method === 'GET' ? undefined : body,
  });
  const text = await response.text();
  let json = {};
  try { json = JSON.parse(text); } catch { /* no JSON, no error code */ }
  const error = json.error ?? (json.active === false ? 'inactive' : undefined);
  return { seen: [response.status, error].filter(Boolean).join(' '), json, challenge: response.headers.get('www-authenticate') };
}
const started = async (place) => (await ask(place, 'device', { client_id: 'cli' })).json.device_code;
const poll = (place, device_code, client_id = 'cli') => ask(place, 'token', { grant_type: GRANT, client_id, device_code });

const rows = [
  ['device: no client_id', (p) => ask(p, 'device', {})],
  ['device: client_id twice', (p) => ask(p, 'device', 'client_id=cli&client_id=cli')],
  ['device: client_id empty', (p) => ask(p, 'device', { client_id: '' })],
  ['device: an unknown parameter', (p) => ask(p, 'device', { client_id: 'cli', surprise: '1' })],
  ['device: an unknown parameter twice', (p) => ask(p, 'device', 'client_id=cli&surprise=1&surprise=2')],
  ['device: JSON', (p) => ask(p, 'device', '{"client_id":"cli"}', { type: 'application/json' })],
  ['device: GET', (p) => ask(p, 'device', {}, { method: 'GET' })],
  ['token: nothing', (p) => ask(p, 'token', {})],
  ['token: no grant_type', (p) => ask(p, 'token', { client_id: 'cli' })],
  ['token: grant_type unknown', (p) => ask(p, 'token', { client_id: 'cli', grant_type: 'surprise' })],
  ['token: grant_type twice', (p) => ask(p, 'token', `client_id=cli&device_code=x&grant_type=${GRANT}&grant_type=${GRANT}`)],
  ['token: no client_id', (p) => ask(p, 'token', { grant_type: GRANT, device_code: 'x' })],
  ['token: no client_id, but HTTP Basic', (p) => ask(p, 'token', { grant_type: GRANT, device_code: 'x' }, { headers: { authorization: basic('nobody', 'x') } })],
  ['token: no device_code', (p) => ask(p, 'token', { client_id: 'cli', grant_type: GRANT })],
  ['token: device_code unknown', (p) => poll(p, 'x')],
  ['token: device_code of another client', async (p) => poll(p, await started(p), 'other')],
  ['token: pending', async (p) => poll(p, await started(p))],
  ['token: polled too soon', async (p) => { const code = await started(p); await poll(p, code); return poll(p, code); }],
  ['token: JSON', (p) => ask(p, 'token', JSON.stringify({ grant_type: GRANT, client_id: 'cli', device_code: 'x' }), { type: 'application/json' })],
  ['token: GET', (p) => ask(p, 'token', {}, { method: 'GET' })],
  ['introspect: nobody', (p) => ask(p, 'introspect', { token: 'x' })],
  ['introspect: a wrong secret by HTTP Basic', (p) => ask(p, 'introspect', { token: 'x' }, { headers: { authorization: basic('edge', 'wrong') } })],
  ['introspect: a wrong secret in the form', (p) => ask(p, 'introspect', { token: 'x', client_id: 'edge', client_secret: 'wrong' })],
  ['introspect: two ways to authenticate', (p) => ask(p, 'introspect', { token: 'x', client_id: 'edge', client_secret: 'wrong' }, { service: true })],
  ['introspect: no token', (p) => ask(p, 'introspect', {}, { service: true })],
  ['introspect: token twice', (p) => ask(p, 'introspect', 'token=x&token=x', { service: true })],
  ['introspect: token unknown', (p) => ask(p, 'introspect', { token: 'x' }, { service: true })],
  ['introspect: token_type_hint unknown', (p) => ask(p, 'introspect', { token: 'x', token_type_hint: 'surprise' }, { service: true })],
  ['introspect: JSON', (p) => ask(p, 'introspect', '{"token":"x"}', { service: true, type: 'application/json' })],
  ['introspect: GET', (p) => ask(p, 'introspect', {}, { method: 'GET', service: true })],
  ['revoke: no token', (p) => ask(p, 'revoke', { client_id: 'cli' })],
  ['revoke: token twice', (p) => ask(p, 'revoke', 'client_id=cli&token=x&token=x')],
  ['revoke: token unknown', (p) => ask(p, 'revoke', { client_id: 'cli', token: 'x' })],
  ['revoke: token_type_hint unknown', (p) => ask(p, 'revoke', { client_id: 'cli', token: 'x', token_type_hint: 'surprise' })],
  ['revoke: no client_id', (p) => ask(p, 'revoke', { token: 'x' })],
  ['revoke: JSON', (p) => ask(p, 'revoke', '{"client_id":"cli","token":"x"}', { type: 'application/json' })],
  ['revoke: GET', (p) => ask(p, 'revoke', {}, { method: 'GET' })],
];

// name: [ours, theirs, why].
const differs = {
  'device: an unknown parameter twice': ['400 invalid_request', '200', 'RFC 6749 §3.2: no parameter more than once'],
  'device: GET': ['405 invalid_request', '500', 'there the path is a page for people, too'],
  'token: polled too soon': ['400 slow_down', '400 authorization_pending', 'RFC 8628 §3.5; it keeps no pace'],
  'token: GET': ['405 invalid_request', '404', 'the path exists; `Allow` says how'],
  'introspect: nobody': ['401 invalid_client', '400 invalid_request', 'RFC 6749 §5.2: no authentication is invalid_client; 401 names the ways'],
  'introspect: GET': ['405 invalid_request', '404', 'as above'],
  'revoke: no client_id': ['200', '400 invalid_request', 'having the key is enough'],
  'revoke: GET': ['405 invalid_request', '404', 'as above'],
};

let wrong = 0;
const same = [];
for (const [name, run] of rows) {
  const [our, their] = [await run(places.ours), await run(places.theirs)];
  const [expectedOurs, expectedTheirs] = differs[name] ?? [their.seen, their.seen];
  if (our.seen !== expectedOurs || their.seen !== expectedTheirs) {
    wrong += 1;
    console.error(`${name}: ours ${our.seen}, theirs ${their.seen}`);
  }
  // RFC 9110 §15.5.2: a 401 says how.
  assert.ok(!our.seen.startsWith('401') || our.challenge, name);
  if (!differs[name]) same.push(`${name}: ${our.seen}`);
}
// docs/oauth.md says so.
assert.equal(same.length, 29);
for (const name of Object.keys(differs)) assert.ok(rows.some(([row]) => row === name), `${name} is no row`);

console.log('| request | here | oidc-provider | because |\n| --- | --- | --- | --- |');
for (const [name, [our, their, why]] of Object.entries(differs)) console.log(`| ${name} | ${our} | ${their} | ${why} |`);
console.log(`\nthe same: ${same.length}\n${same.join('\n')}`);
listening.close();
listening.closeAllConnections();
process.exitCode = wrong ? 1 : 0;

/** The client: verification, signing in, and the way every other call goes. */

import { randomUUID } from "node:crypto";

import type { components } from "./openapi.js";
import { Audit, Credentials, Departures, Members, Pairing, Teams } from "./resources.js";
import * as routes from "./routes.js";
import type { Answered, Body, Operation, PathParameters, Query, Route } from "./routes.js";
import { Secret, kindOf } from "./secret.js";
import { type Answer, Transport, type TransportOptions, VERSION, isVisible, objectOf } from "./transport.js";

type Schemas = components["schemas"];
export type Surface = "runtime" | "mcp" | "agent" | "management";
/** A key that is good, here and now. */
export type Accepted = Omit<Schemas["Accepted"], "valid"> & { valid: true };
/**
 * A key that is not good. `invalid_token` (401): malformed, unknown, expired, revoked or another team's, which are not told
 * apart; `insufficient_scope` (403): alive, and of a kind that this surface does not take.
 */
export type Denied = { valid: false; code: "invalid_token" | "insufficient_scope" };
export type BatchVerdict =
  | ({ valid: true; code: "valid" } & Schemas["BatchAccepted"])
  | { valid: false; code: "malformed" | "unknown" | "revoked" | "expired" | "insufficient_scope" };
export type SignedIn = Omit<Schemas["SignedIn"], "access_token"> & { access_token: Secret };

/** What one request may ask about. */
const BATCH_LEN_MAX = 1_000;

export interface ClientOptions extends TransportOptions {
  /** A person's access token, or an `sv-` key for `verifyBatch`. `verify` needs none. */
  token?: string | Secret;
  /** The team that calls about credentials, members and audit are about. */
  teamId?: string;
  /** Reads wait until the server has got to the last position seen here. */
  readYourWrites?: boolean;
}

/** What a call may carry beside its route. */
interface Carried {
  path?: unknown;
  query?: unknown;
  body?: unknown;
  bearer?: Secret;
  idempotencyKey?: string | undefined;
}

type Paths = Route["path"];
type Methods = Route["method"];
type Call<P extends Paths, M extends Methods> = {
  path?: PathParameters<Operation<P, M>>;
  query?: Query<Operation<P, M>>;
  body?: Body<Operation<P, M>>;
  bearer?: Secret;
  idempotencyKey?: string | undefined;
};

export class Client {
  readonly credentials: Credentials;
  readonly pairing: Pairing;
  readonly teams: Teams;
  readonly members: Members;
  readonly departures: Departures;
  readonly audit: Audit;
  token: Secret | undefined;
  teamId: string | undefined;
  readYourWrites: boolean;
  readonly #transport: Transport;
  #position: number | undefined;

  constructor(baseUrl: string, options: ClientOptions = {}) {
    this.#transport = new Transport(baseUrl, options);
    this.token = options.token === undefined ? undefined : sendable(options.token);
    this.teamId = options.teamId;
    this.readYourWrites = options.readYourWrites ?? false;
    this.credentials = new Credentials(this);
    this.pairing = new Pairing(this);
    this.teams = new Teams(this);
    this.members = new Members(this);
    this.departures = new Departures(this);
    this.audit = new Audit(this);
  }

  /** The server, without a trailing slash. */
  get baseUrl(): string {
    return this.#transport.baseUrl;
  }

  /** The last position that an answer has shown. */
  get position(): number | undefined {
    return this.#position;
  }

  /** Notes a position learnt elsewhere, such as from the service that wrote. */
  seen(position: number): void {
    this.#position = Math.max(this.#position ?? 0, position);
  }

  /**
   * Is this key good, here, now? A plain no is an answer and not an exception: look at `valid`. What can't be a key is
   * denied without asking.
   */
  async verify(key: string | Secret, about: { surface?: Surface; teamId?: string } = {}): Promise<Accepted | Denied> {
    if (!kindOf(key)) return { valid: false, code: "invalid_token" };
    const body = given({ surface: about.surface, team_id: about.teamId });
    const answer = await this.send(routes.VERIFY, { body, bearer: sendable(key) });
    if (answer.status === 401 || answer.status === 403) {
      // Another code is a proxy's: no verdict.
      const { code } = answer.problem();
      if (code === "invalid_token" || code === "insufficient_scope") return { valid: false, code };
    }
    const accepted = this.decoded(answer);
    // An answer that does not say so is none.
    const texts = [accepted.credential_id, accepted.kind, accepted.team_id, accepted.user_id];
    if (answer.status !== 200 || accepted.valid !== true || !texts.every((text) => typeof text === "string")) {
      throw answer.unreadable("The answer is no verdict.");
    }
    return { ...accepted, valid: true };
  }

  /** One verdict each, in order, with the precise code. Needs an `sv-` key as the token; any number of keys. */
  async verifyBatch(keys: Iterable<string | Secret>, about: { surface?: Surface } = {}): Promise<BatchVerdict[]> {
    const asked = [...keys].map((key) => (key instanceof Secret ? key.expose() : key));
    const verdicts = asked.map((): BatchVerdict => ({ valid: false, code: "malformed" }));
    // What can't be a key stays here: it might be anything, a password pasted into the wrong field for one.
    const wellFormed = asked.map((key, at) => [key, at] as const).filter(([key]) => kindOf(key));
    for (let start = 0; start < wellFormed.length; start += BATCH_LEN_MAX) {
      const part = wellFormed.slice(start, start + BATCH_LEN_MAX);
      const body = given({ keys: part.map(([key]) => key), surface: about.surface });
      const answer = await this.send(routes.VERIFY_BATCH, { body });
      const { results } = this.decoded(answer);
      if (!Array.isArray(results) || results.length !== part.length || !results.every(isVerdict)) {
        throw answer.unreadable("The answer has not one verdict a key.");
      }
      part.forEach(([, at], number) => (verdicts[at] = results[number] as BatchVerdict));
    }
    return verdicts;
  }

  /**
   * Follows a one-time link (or its token): signs in, or joins a team under `name`. The client then asks as this person,
   * and about their team if they have only one and none was named.
   */
  async signIn(link: string | Secret, about: { name?: string } = {}): Promise<SignedIn> {
    const token = linkToken(sendable(link).expose(), this.baseUrl);
    return this.#signedIn(await this.send(routes.LINK, { body: given({ token, name: about.name }) }));
  }

  /** A fresh access token for the same session, in place of the one that runs out. */
  async renew(): Promise<SignedIn> {
    return this.#signedIn(await this.send(routes.RENEW));
  }

  /** Ends the session; its access tokens end with it. */
  async signOut(): Promise<void> {
    this.done(await this.send(routes.LOGOUT));
    this.token = undefined;
  }

  /** Who the token is. */
  async whoami(): Promise<Schemas["WhoAmI"]> {
    return this.decoded(await this.send(routes.WHOAMI));
  }

  #signedIn(answer: Answer<Schemas["SignedIn"]>): SignedIn {
    const { access_token, ...rest } = this.decoded(answer);
    const signedIn = { ...rest, access_token: sendable(access_token) };
    this.token = signedIn.access_token;
    const [only, ...others] = rest.teams;
    if (this.teamId === undefined && only && others.length === 0) this.teamId = only.id;
    return signedIn;
  }

  /** One call; the answer whatever its status. @internal */
  async send<P extends Paths, M extends Methods>(route: Route<P, M>, call: Call<P, M> = {}): Promise<Answer<Answered<Operation<P, M>>>> {
    const { path, query, body, bearer, idempotencyKey }: Carried = call;
    const headers: Record<string, string> = {
      Accept: "application/json",
      "User-Agent": `keyledger-typescript/${VERSION}`,
    };
    const token = bearer ?? this.token;
    if (token) headers["Authorization"] = `Bearer ${sendable(token).expose()}`;
    if (!bearer && this.teamId !== undefined) headers["X-Team-ID"] = headerText("teamId", this.teamId);
    if (route.repeat === "keyed") headers["Idempotency-Key"] = headerText("idempotencyKey", idempotencyKey ?? randomUUID());
    const isRead = route.method === "get" || route.path.startsWith("/api/v1/verify");
    if (this.readYourWrites && this.#position !== undefined && isRead) {
      headers["Ledger-Min-Position"] = String(this.#position);
    }
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await this.#transport.send({
      method: route.method.toUpperCase(),
      target: target(route.path, objectOf(path), objectOf(query)),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      repeat: route.repeat,
    });
    const position = answer.headers.get("ledger-position") ?? "";
    if (/^[0-9]{1,15}$/.test(position)) this.seen(Number(position));
    return answer as Answer<Answered<Operation<P, M>>>;
  }

  /** Throws unless it succeeded. @internal */
  done(answer: Answer): void {
    if (answer.status < 200 || answer.status >= 300) throw answer.problem();
  }

  /** The answer's body, which is an object. @internal */
  decoded<T>(answer: Answer<T>): T {
    this.done(answer);
    const body = answer.json();
    if (typeof body !== "object" || body === null || Array.isArray(body)) {
      throw answer.unreadable("The answer is not a JSON object.");
    }
    return body as T;
  }
}

function isVerdict(value: unknown): boolean {
  const { valid, code } = objectOf(value);
  return typeof code === "string" && valid === (code === "valid");
}

export function sendable(text: string | Secret): Secret {
  const secret = text instanceof Secret ? text : new Secret(text);
  // fetch would quote it.
  if (!isVisible(secret.expose())) throw new TypeError("a secret has visible ASCII characters only");
  return secret;
}

function headerText(name: string, text: string): string {
  if (!isVisible(text)) throw new TypeError(`${name} has visible ASCII characters only`);
  return text;
}

type Given<T> = { [N in keyof T]: Exclude<T[N], undefined> };

/** Without what is not given: the server's own default holds then. */
export function given<T extends object>(members: T): Given<T> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as Given<T>;
}

function target(template: string, path: Record<string, unknown>, query: Record<string, unknown>): string {
  let filled = template;
  for (const [name, value] of Object.entries(path)) {
    // The server refuses it too; by then it would be in every log on the way.
    if (kindOf(String(value))) throw new TypeError("a credential's id is a UUID; a secret must never be in a URL");
    filled = filled.replace(`{${name}}`, () => encodeURIComponent(String(value)));
  }
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== false) pairs.set(name, String(value));
  }
  return pairs.toString() === "" ? filled : `${filled}?${pairs}`;
}

function linkToken(link: string, baseUrl: string): string {
  if (!link.includes("://")) return link;
  const tokens = link.startsWith(`${baseUrl}/`) ? new URL(link).searchParams.getAll("token") : [];
  if (tokens.length !== 1) throw new TypeError("the link is another server's; if it is not, give its token alone");
  return tokens[0]!;
}

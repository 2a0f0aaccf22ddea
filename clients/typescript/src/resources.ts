/** What the API has beside verification, one class a resource. */

import { type Client, given, sendable } from "./client.js";
import type { components } from "./openapi.js";
import * as routes from "./routes.js";
import type { Body, Operation, Query } from "./routes.js";
import { Secret } from "./secret.js";

type Schemas = components["schemas"];
export type Credential = Schemas["CredentialBody"];
export type Event = Schemas["EventBody"];
/**
 * A key that was just issued. `raw_key` is its secret, in this answer only; it is missing if the first answer was lost on
 * its way: the key exists and nobody has its secret. `rotate(id, { overlap_seconds: 0 })` gives it a successor.
 */
export type Issued = Omit<Schemas["Issued"], "raw_key"> & { raw_key?: Secret };
export type PairingStarted = Omit<Schemas["PairingStarted"], "device_code"> & { device_code: Secret };
export type Paired = { status: "pending" } | { status: "denied" } | { status: "approved"; raw_key: Secret; agent_key: Secret };
/** A link that lets one person in: a secret until it is used. */
export type Invitation = Omit<Schemas["Invitation"], "url"> & { url: Secret };
export type CredentialFilter = Omit<Query<Operation<"/api/v1/credentials", "get">>, "current_page" | "as_of"> & {
  /** The list as it stood: a position, or an instant. */
  as_of?: number | string;
};
export type AuditFilter = Query<Operation<"/api/v1/audit", "get">>;

/** For whoever asks again themselves: the ledger remembers the key with the body it came with. */
export interface WriteOptions {
  idempotencyKey?: string;
}

class Resource {
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  /** @internal */
  protected get client(): Client {
    return this.#client;
  }
}

/** The team's keys. Writes send an `Idempotency-Key` of their own making and repeat it when they are asked again. */
export class Credentials extends Resource {
  /** Issues a key. Without `expires_in_days` (1–365) it never ends by itself. */
  async issue(
    body: Body<Operation<"/api/v1/credentials", "post">> & { kind: "integration" | "agent" },
    { idempotencyKey }: WriteOptions = {},
  ): Promise<Issued> {
    return issued(this.client.decoded(await this.client.send(routes.ISSUE, { body, idempotencyKey })));
  }

  /** Issues an `sv-` key. For the ledger's operators. */
  async issueService(
    body: Body<Operation<"/api/v1/service-credentials", "post">>,
    { idempotencyKey }: WriteOptions = {},
  ): Promise<Issued> {
    return issued(this.client.decoded(await this.client.send(routes.ISSUE_SERVICE, { body, idempotencyKey })));
  }

  /** All keys that match, newest first. What changes meanwhile does not make it skip or repeat one. */
  async *list(filter: CredentialFilter = {}): AsyncGenerator<Credential, void, undefined> {
    const { as_of, ...query } = { per_page: 100, ...filter };
    let asOf = as_of;
    let page = await this.#page(query, asOf, 1);
    if (asOf === undefined && page.page_meta.total_count > page.credentials.length) {
      // Pages are numbered, so a key that is issued or ended between two of them would move all others. From the first
      // page on, the list is read as it stood at one position.
      asOf = page.position;
      page = await this.#page(query, asOf, 1);
    }
    for (let number = 1; ; ) {
      yield* page.credentials;
      if (page.credentials.length === 0 || number * page.page_meta.per_page >= page.page_meta.total_count) return;
      number += 1;
      page = await this.#page(query, asOf, number);
    }
  }

  async #page(
    query: Omit<CredentialFilter, "as_of">,
    asOf: number | string | undefined,
    number: number,
  ): Promise<Schemas["Credentials"]> {
    const pinned = asOf === undefined ? {} : { as_of: String(asOf) };
    const answer = await this.client.send(routes.LIST, { query: { ...query, ...pinned, current_page: number } });
    const page = this.client.decoded(answer);
    if (!Array.isArray(page.credentials) || !page.page_meta) throw answer.unreadable("The answer is not a page.");
    return page;
  }

  /** One key. */
  async show(id: string): Promise<Credential> {
    return this.client.decoded(await this.client.send(routes.SHOW, { path: { id } }));
  }

  /** What happened to it. */
  async history(id: string): Promise<Schemas["History"]> {
    return this.client.decoded(await this.client.send(routes.HISTORY, { path: { id } }));
  }

  /** Ends it, finally. Ending it again changes nothing. */
  async revoke(id: string, { reason, idempotencyKey }: WriteOptions & { reason?: string } = {}): Promise<void> {
    this.client.done(await this.client.send(routes.REVOKE, { path: { id }, body: given({ reason }), idempotencyKey }));
  }

  /** Issues a successor; the old key lives on for the overlap, never longer than it would have. */
  async rotate(
    id: string,
    body: Body<Operation<"/api/v1/credentials/{id}/rotate", "post">>,
    { idempotencyKey }: WriteOptions = {},
  ): Promise<Issued> {
    return issued(this.client.decoded(await this.client.send(routes.ROTATE, { path: { id }, body, idempotencyKey })));
  }
}

/** How a device gets its key, and ends it. */
export class Pairing extends Resource {
  /** On the device: starts a pairing. Show `user_code` and `verification_uri`. */
  async start(device_name?: string): Promise<PairingStarted> {
    const answer = await this.client.send(routes.PAIR_START, { body: given({ device_name }) });
    const { device_code, ...rest } = this.client.decoded(answer);
    return { ...rest, device_code: new Secret(device_code) };
  }

  /** On the device: what became of it. Approved is answered once; after that, and after its end, 404. */
  async poll(started: PairingStarted): Promise<Paired> {
    const body = { device_code: started.device_code.expose() };
    const answer = this.client.decoded(await this.client.send(routes.PAIR_POLL, { body }));
    if (answer.status !== "approved") return answer;
    return { status: "approved", raw_key: sendable(answer.raw_key), agent_key: sendable(answer.agent_key) };
  }

  /** On the device: polls until somebody has decided; `not_found` if nobody does in time. */
  async wait(started: PairingStarted): Promise<Paired> {
    for (;;) {
      const paired = await this.poll(started);
      if (paired.status !== "pending") return paired;
      await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(1, started.interval)));
    }
  }

  /** As a person: lets the device in. */
  async confirm(user_code: string, device_name?: string): Promise<void> {
    this.client.done(await this.client.send(routes.PAIR_CONFIRM, { body: given({ user_code, device_name }) }));
  }

  /** As a person: refuses the device. */
  async deny(user_code: string): Promise<void> {
    this.client.done(await this.client.send(routes.PAIR_DENY, { body: { user_code } }));
  }

  /** With a `dk-` as the token: ends this device and its companion. */
  async revokeSelf(): Promise<void> {
    this.client.done(await this.client.send(routes.DEVICE_REVOKE));
  }
}

/** Your teams. */
export class Teams extends Resource {
  /** All of them. */
  async list(): Promise<Schemas["TeamSeat"][]> {
    return this.client.decoded(await this.client.send(routes.TEAMS)).teams;
  }

  /** Makes a team with you as its owner. Set `client.teamId` to work in it. */
  async create(name: string, { idempotencyKey }: WriteOptions = {}): Promise<Schemas["Created"]> {
    return this.client.decoded(await this.client.send(routes.TEAM_CREATE, { body: { name }, idempotencyKey }));
  }
}

/** The team's people. */
export class Members extends Resource {
  /** All of them, those who have left included. */
  async list(): Promise<Schemas["Member"][]> {
    return this.client.decoded(await this.client.send(routes.MEMBERS)).members;
  }

  /** Makes a link that lets one person in. */
  async invite(role: "admin" | "member" | "viewer" | "auditor"): Promise<Invitation> {
    const answer = await this.client.send(routes.INVITE, { body: { role } });
    const { url, ...rest } = this.client.decoded(answer);
    return { ...rest, url: new Secret(url) };
  }

  /** Gives a member another role; `owner` transfers the ownership. */
  async setRole(id: string, role: string, { idempotencyKey }: WriteOptions = {}): Promise<void> {
    this.client.done(await this.client.send(routes.MEMBER_ROLE, { path: { id }, body: { role }, idempotencyKey }));
  }

  /** Removes a member. Their live keys wait in `departures.queue`; `departures.decide` does both at once. */
  async remove(id: string, { idempotencyKey }: WriteOptions = {}): Promise<void> {
    this.client.done(await this.client.send(routes.MEMBER_REMOVE, { path: { id }, idempotencyKey }));
  }
}

/** A person leaves, and somebody decides on every key. */
export class Departures extends Resource {
  /** What would end by itself, and what somebody must decide on. */
  async dossier(memberId: string): Promise<Schemas["Dossier"]> {
    return this.client.decoded(await this.client.send(routes.DOSSIER, { path: { id: memberId } }));
  }

  /**
   * Removes the member, ends and hands over in one commit. `expected_revision` is the dossier's; 409 with the newer
   * `revision` if anything changed since.
   */
  async decide(
    memberId: string,
    body: Body<Operation<"/api/v1/members/{id}/departure", "post">> & { expected_revision: number },
    { idempotencyKey }: WriteOptions = {},
  ): Promise<Schemas["Receipt"]> {
    return this.client.decoded(await this.client.send(routes.DECIDE, { path: { id: memberId }, body, idempotencyKey }));
  }

  /** The team's live keys whose holder has left and nobody has decided on. It should be empty. */
  async queue(): Promise<Schemas["Queue"]> {
    return this.client.decoded(await this.client.send(routes.QUEUE));
  }
}

/** What happened, in order. */
export class Audit extends Resource {
  /** One page; `after` is the `next` of the page before. */
  async page(query: AuditFilter = {}): Promise<Schemas["Page"]> {
    const answer = await this.client.send(routes.AUDIT, { query });
    const page = this.client.decoded(answer);
    if (!Array.isArray(page.events)) throw answer.unreadable("The answer is not a page.");
    return page;
  }

  /** All that match, page by page of `limit`. Keep the last event's `position` to go on `after` it later. */
  async *events(filter: AuditFilter = {}): AsyncGenerator<Event, void, undefined> {
    let after = filter.after;
    for (;;) {
      const page = await this.page({ limit: 1_000, ...filter, ...(after === undefined ? {} : { after }) });
      yield* page.events;
      if (page.next === undefined || page.next === null) return;
      after = page.next;
    }
  }
}

function issued({ raw_key, ...rest }: Schemas["Issued"]): Issued {
  return typeof raw_key === "string" ? { ...rest, raw_key: sendable(raw_key) } : rest;
}

/** The operations that this client speaks, typed by the API document: a name or a member that is not in it does not compile. */

import type { paths } from "./openapi.js";

type Method = "get" | "post" | "patch" | "delete";
type Paths = { [P in keyof paths]: P }[keyof paths];
export type Operation<P extends Paths, M extends Method> = NonNullable<paths[P][M]>;

/**
 * Whether it may be asked again when no answer came:
 *
 * - `safe`: it changes nothing, or nothing that matters
 * - `keyed`: it takes an `Idempotency-Key`, so that asking again can't do it twice
 * - `once`: asking again might do it twice, or find it done
 */
export type Repeat = "safe" | "keyed" | "once";
type Headers<O> = O extends { parameters: { header?: infer H } } ? NonNullable<H> : never;
type RepeatOf<O> = [Headers<O>] extends [never]
  ? "safe" | "once"
  : "Idempotency-Key" extends keyof Headers<O>
    ? "keyed"
    : "safe" | "once";

export interface Route<P extends Paths = Paths, M extends Method = Method> {
  readonly method: M;
  readonly path: P;
  readonly repeat: Repeat;
}

export type Body<O> = O extends { requestBody?: infer R }
  ? NonNullable<R> extends { content: { "application/json": infer B } }
    ? NonNullable<B>
    : undefined
  : undefined;
export type Query<O> = O extends { parameters: { query?: infer Q } } ? NonNullable<Q> : undefined;
export type PathParameters<O> = O extends { parameters: { path: infer I } } ? I : undefined;
type Responses<O> = O extends { responses: infer R } ? R : never;
type Json<R> = R extends { content: { "application/json": infer A } } ? A : undefined;
/** What a success holds. */
export type Answered<O> = 200 extends keyof Responses<O>
  ? Json<Responses<O>[200]>
  : 201 extends keyof Responses<O>
    ? Json<Responses<O>[201]>
    : undefined;

function route<P extends Paths, M extends Method>(method: M, path: P, repeat: RepeatOf<Operation<P, M>>): Route<P, M> {
  return { method, path, repeat };
}

export const VERIFY = route("post", "/api/v1/verify", "safe");
export const VERIFY_BATCH = route("post", "/api/v1/verify/batch", "safe");
export const LINK = route("post", "/api/v1/auth/link", "once");
export const RENEW = route("post", "/api/v1/auth/token", "safe");
export const LOGOUT = route("post", "/api/v1/auth/logout", "once");
export const WHOAMI = route("get", "/api/v1/whoami", "safe");
export const ISSUE = route("post", "/api/v1/credentials", "keyed");
export const ISSUE_SERVICE = route("post", "/api/v1/service-credentials", "keyed");
export const LIST = route("get", "/api/v1/credentials", "safe");
export const SHOW = route("get", "/api/v1/credentials/{id}", "safe");
export const HISTORY = route("get", "/api/v1/credentials/{id}/history", "safe");
export const REVOKE = route("delete", "/api/v1/credentials/{id}", "keyed");
export const ROTATE = route("post", "/api/v1/credentials/{id}/rotate", "keyed");
export const PAIR_START = route("post", "/api/v1/desktop/pair/start", "safe");
export const PAIR_POLL = route("post", "/api/v1/desktop/pair/poll", "safe");
export const PAIR_CONFIRM = route("post", "/api/v1/desktop/pair/confirm", "once");
export const PAIR_DENY = route("post", "/api/v1/desktop/pair/deny", "once");
export const DEVICE_REVOKE = route("post", "/api/v1/auth/device/revoke", "once");
export const TEAMS = route("get", "/api/v1/teams", "safe");
export const TEAM_CREATE = route("post", "/api/v1/teams", "keyed");
export const MEMBERS = route("get", "/api/v1/members", "safe");
export const INVITE = route("post", "/api/v1/members/invitations", "once");
export const MEMBER_ROLE = route("patch", "/api/v1/members/{id}", "keyed");
export const MEMBER_REMOVE = route("delete", "/api/v1/members/{id}", "keyed");
export const DOSSIER = route("get", "/api/v1/members/{id}/departure", "safe");
export const DECIDE = route("post", "/api/v1/members/{id}/departure", "keyed");
export const QUEUE = route("get", "/api/v1/departures", "safe");
export const AUDIT = route("get", "/api/v1/audit", "safe");

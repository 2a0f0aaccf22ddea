import { PATTERN } from "./secret.js";

export interface ErrorFacts {
  status?: number | undefined;
  code: string;
  detail: string;
  members?: Record<string, unknown>;
  retryAfterSeconds?: number | undefined;
  requestId?: string | undefined;
  idempotencyKey?: string | undefined;
}

/**
 * A call that did not succeed. Programs decide by `code`, which is the server's own (RFC 9457) or one of:
 *
 * - `unreachable`: no answer came. A write may have happened; ask again with `idempotencyKey` to learn its outcome.
 * - `unreadable_answer`: an answer of no known form; a proxy's page, perhaps.
 */
export class KeyledgerError extends Error {
  override readonly name = "KeyledgerError";
  /** The HTTP status; undefined if no answer came. */
  readonly status: number | undefined;
  /** Stable. */
  readonly code: string;
  /** For people. */
  readonly detail: string;
  /** Further members of the problem, such as `revision` (409) or `errors` (`invalid_field`). */
  readonly members: Readonly<Record<string, unknown>>;
  /** What `Retry-After` asks for, in seconds. */
  readonly retryAfterSeconds: number | undefined;
  /** Names the request in the server's log. */
  readonly requestId: string | undefined;
  /** What a write was sent with. */
  readonly idempotencyKey: string | undefined;

  constructor(facts: ErrorFacts) {
    // The ledger repeats nothing of what was sent; whoever stands before it might.
    const detail = facts.detail.replace(PATTERN, "[a secret]");
    super(`${detail} (${facts.code}${facts.status === undefined ? "" : `, ${facts.status}`})`);
    this.status = facts.status;
    this.code = facts.code;
    this.detail = detail;
    this.members = facts.members ?? {};
    this.retryAfterSeconds = facts.retryAfterSeconds;
    this.requestId = facts.requestId;
    this.idempotencyKey = facts.idempotencyKey;
  }
}

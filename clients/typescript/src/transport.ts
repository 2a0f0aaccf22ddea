/** The way to the ledger: one request, and what is done when no good answer comes. */

import { KeyledgerError } from "./error.js";
import type { Repeat } from "./routes.js";

export const VERSION = "0.1.0";
/** More than the largest page. */
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
const BACKOFF_MS = 100;
const BACKOFF_MS_MAX = 5_000;
/** The connection was never made: nothing was sent. */
const NOT_SENT = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"];

export interface TransportOptions {
  /** How long one attempt may take as a whole. 10,000 unless told. */
  timeoutMs?: number;
  /** How often a request is asked again. 3 unless told. */
  retries?: number;
  /** A `Retry-After` beyond it is an error at once. 10,000 unless told. */
  retryWaitMsMax?: number;
  /** Lets secrets go over http:// to another machine. */
  allowCleartext?: boolean;
}

export interface Request {
  method: string;
  target: string;
  headers: Record<string, string>;
  body: string | undefined;
  repeat: Repeat;
}

/** An answer of any status; `T` is what a success holds. */
export class Answer<T = unknown> {
  declare protected readonly holds: T;
  readonly status: number;
  readonly headers: Headers;
  readonly #body: string;
  readonly #idempotencyKey: string | undefined;

  constructor(status: number, headers: Headers, body: string, idempotencyKey: string | undefined) {
    this.status = status;
    this.headers = headers;
    this.#body = body;
    this.#idempotencyKey = idempotencyKey;
  }

  /** The body as JSON; undefined if it is none. */
  json(): unknown {
    try {
      return JSON.parse(this.#body);
    } catch {
      return undefined;
    }
  }

  /** The refusal as an error. */
  problem(): KeyledgerError {
    const { code, detail, title, type: _type, status: _status, ...members } = objectOf(this.json());
    const facts = {
      status: this.status,
      retryAfterSeconds: this.retryAfterSeconds(),
      requestId: this.headers.get("x-request-id") ?? undefined,
      idempotencyKey: this.#idempotencyKey,
    };
    if (typeof code !== "string") return this.unreadable("The answer does not say why.");
    const why = [detail, title].find((text) => typeof text === "string" && text !== "");
    return new KeyledgerError({ ...facts, code, detail: String(why ?? "The answer does not say why."), members });
  }

  unreadable(detail: string): KeyledgerError {
    return new KeyledgerError({
      status: this.status,
      code: "unreadable_answer",
      detail,
      retryAfterSeconds: this.retryAfterSeconds(),
      requestId: this.headers.get("x-request-id") ?? undefined,
      idempotencyKey: this.#idempotencyKey,
    });
  }

  /** `Retry-After` (RFC 9110 §10.2.3): seconds, or a date. */
  retryAfterSeconds(): number | undefined {
    const text = (this.headers.get("retry-after") ?? "").trim();
    if (/^[0-9]{1,9}$/.test(text)) return Number(text);
    const at = Date.parse(text);
    return Number.isNaN(at) ? undefined : Math.max(0, (at - Date.now()) / 1000);
  }
}

interface Lost {
  why: string;
  wasSent: boolean;
}

export class Transport {
  readonly baseUrl: string;
  readonly #timeoutMs: number;
  readonly #retries: number;
  readonly #retryWaitMsMax: number;

  constructor(baseUrl: string, options: TransportOptions) {
    this.baseUrl = checked(baseUrl, options.allowCleartext ?? false);
    this.#timeoutMs = options.timeoutMs ?? 10_000;
    this.#retries = options.retries ?? 3;
    this.#retryWaitMsMax = options.retryWaitMsMax ?? 10_000;
  }

  /**
   * The answer, whatever its status. Connection errors, 429, 502, 503 and 504 are asked again, with full jitter, unless
   * that could do it twice.
   */
  async send(request: Request): Promise<Answer> {
    for (let attempt = 0; ; attempt++) {
      const outcome = await this.#attempt(request);
      const waitMs = attempt < this.#retries ? this.#waitMs(request.repeat, outcome, attempt) : undefined;
      if (waitMs !== undefined) {
        await new Promise((resolve) => setTimeout(resolve, waitMs));
        continue;
      }
      if (outcome instanceof Answer) return outcome;
      throw new KeyledgerError({
        code: "unreachable",
        detail: `${this.baseUrl} can't be reached: ${outcome.why}.`,
        idempotencyKey: request.headers["Idempotency-Key"],
      });
    }
  }

  #waitMs(repeat: Repeat, outcome: Answer | Lost, attempt: number): number | undefined {
    const backoffMs = Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** attempt);
    if (!(outcome instanceof Answer)) return repeat === "once" && outcome.wasSent ? undefined : backoffMs;
    // 429 was refused before anything was done. Behind the others, something may have been.
    if (outcome.status !== 429 && (repeat === "once" || ![502, 503, 504].includes(outcome.status))) return undefined;
    const askedMs = (outcome.retryAfterSeconds() ?? 0) * 1000;
    // Whoever is asked to wait longer than that should hear of it instead.
    return askedMs > this.#retryWaitMsMax ? undefined : askedMs + backoffMs;
  }

  async #attempt(request: Request): Promise<Answer | Lost> {
    const { method, target, headers, body } = request;
    try {
      const response = await fetch(this.baseUrl + target, {
        method,
        headers,
        ...(body === undefined ? {} : { body }),
        // A redirect could carry the token elsewhere, and the API has none.
        redirect: "manual",
        signal: AbortSignal.timeout(this.#timeoutMs),
      });
      const text = await textOf(response);
      if (text === undefined) return { why: "the answer is too long", wasSent: true };
      return new Answer(response.status, response.headers, text, headers["Idempotency-Key"]);
    } catch (error) {
      // Only names: a message might quote what was sent.
      const { name, cause } = objectOf(error);
      const code = objectOf(cause)["code"];
      return { why: String(code ?? name ?? "no answer"), wasSent: !NOT_SENT.includes(String(code)) };
    }
  }
}

async function textOf(response: Response): Promise<string | undefined> {
  const chunks: Uint8Array[] = [];
  let len = 0;
  if (response.body) {
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      len += chunk.length;
      if (len > ANSWER_BYTES_MAX) return undefined;
      chunks.push(chunk);
    }
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The members of an object; none of what is no object. */
export function objectOf(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

export function isVisible(text: string): boolean {
  return /^[!-~]+$/.test(text);
}

function checked(baseUrl: string, allowCleartext: boolean): string {
  let url: URL | undefined;
  try {
    url = isVisible(baseUrl) ? new URL(baseUrl) : undefined;
  } catch {
    url = undefined;
  }
  const isWhole = url && ["http:", "https:"].includes(url.protocol) && url.pathname === "/" && !/[?#@\\]/.test(baseUrl);
  if (!url || !isWhole) throw new TypeError("the base URL must be https:// and a host, such as https://ledger.example");
  const isPrivate = url.protocol === "https:" || /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname);
  if (!isPrivate && !allowCleartext) {
    throw new TypeError("the base URL is not https and not this machine: secrets could be read on the way (allowCleartext)");
  }
  return url.origin;
}

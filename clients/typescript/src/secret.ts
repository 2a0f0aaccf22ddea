/** The secrets the ledger hands out: a type that never shows itself, and the check of their form. */

export type Kind = "integration" | "agent" | "device" | "service";

/** What a scanner looks for; it finds a secret inside of other text, too. */
export const PATTERN = /\b(?:sk|ak|dk|sv)-kl1[0-9A-Za-z]{49}\b/g;

const FORM = /^(sk|ak|dk|sv)-kl1[0-9A-Za-z]{49}$/;
const KINDS: Record<string, Kind> = { sk: "integration", ak: "agent", dk: "device", sv: "service" };
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BODY_LEN = 49;

/** A text that shows in no log line, JSON, template or inspection. `expose` is the only way to it. */
export class Secret {
  readonly #text: string;

  constructor(text: string) {
    if (typeof text !== "string") throw new TypeError("a secret is made of a string");
    this.#text = text;
  }

  /** The text itself. Call it where it is handed over, and nowhere else. */
  expose(): string {
    return this.#text;
  }

  toString(): string {
    return `${kindOf(this.#text) ? this.#text.slice(0, 3) : ""}[redacted]`;
  }

  toJSON(): string {
    return this.toString();
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return `Secret(${this.toString()})`;
  }
}

/**
 * The kind that a key's first characters claim; undefined if it can't be a key: length, alphabet or checksum are wrong.
 * Whether the ledger issued it is not known here. A checksum is no proof of anything: it finds typos.
 */
export function kindOf(key: string | Secret): Kind | undefined {
  const text = key instanceof Secret ? key.expose() : key;
  const found = FORM.exec(text);
  if (!found || checksum(text.slice(0, BODY_LEN)) !== text.slice(BODY_LEN)) return undefined;
  return KINDS[found[1]!];
}

/** CRC-32 (ISO-HDLC) as six base62 digits, most significant first. The text is ASCII. */
function checksum(body: string): string {
  let sum = 0xffffffff;
  for (let at = 0; at < body.length; at++) {
    sum ^= body.charCodeAt(at);
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  let rest = ~sum >>> 0;
  let digits = "";
  for (let place = 0; place < 6; place++) {
    digits = DIGITS.charAt(rest % 62) + digits;
    rest = Math.floor(rest / 62);
  }
  return digits;
}

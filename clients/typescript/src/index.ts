/** A thin client of the keyledger credential ledger. */

export { Client } from "./client.js";
export type { Accepted, BatchVerdict, ClientOptions, Denied, SignedIn, Surface } from "./client.js";
export { KeyledgerError } from "./error.js";
export type { components, paths } from "./openapi.js";
export type {
  AuditFilter,
  Credential,
  CredentialFilter,
  Event,
  Invitation,
  Issued,
  Paired,
  PairingStarted,
  WriteOptions,
} from "./resources.js";
export { PATTERN, Secret, kindOf } from "./secret.js";
export type { Kind } from "./secret.js";

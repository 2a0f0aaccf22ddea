/** A real server on a free port, and a proxy that loses answers and writes down what was asked. */

import { spawn } from "node:child_process";
import { mkdtemp, readFile, readdir, rm, stat } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";

export const DOCUMENT = new URL("../../../docs/openapi.json", import.meta.url);
/** Generous: a machine may be busy. */
const START_MS_MAX = 60_000;

const freePort = () =>
  new Promise((resolve, reject) => {
    const free = net.createServer().once("error", reject);
    free.listen(0, "127.0.0.1", () => {
      const { port } = free.address();
      free.close(() => resolve(port));
    });
  });

/** `keyledger serve` over a fresh directory. `LEDGER_BINARY` names the binary. */
export async function startServer() {
  const binary = process.env.LEDGER_BINARY;
  if (!binary) throw new Error("LEDGER_BINARY names the keyledger binary");
  const directory = await mkdtemp(path.join(os.tmpdir(), "keyledger-client-"));
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("KEYLEDGER_")));
  env.KEYLEDGER_CONFIG_DIR = path.join(directory, "config");
  const listen = `127.0.0.1:${await freePort()}`;
  const data = path.join(directory, "data");
  const server = spawn(binary, ["serve", "--listen", listen, "--data", data], { env, stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  let [printed, log] = ["", ""];
  server.stdout.on("data", (some) => (printed += some));
  server.stderr.on("data", (some) => (log += some));
  const deadline = Date.now() + START_MS_MAX;
  for (;;) {
    const link = /http:\/\/\S+\/sign-in\?token=\S+(?=\n)/.exec(printed)?.[0];
    const ready = link && (await fetch(`http://${listen}/readyz`).then(({ ok }) => ok, () => false));
    if (ready) {
      return {
        url: `http://${listen}`,
        link,
        log: () => log,
        directory,
        stop: async () => {
          server.kill();
          await ended;
          await rm(directory, { recursive: true });
        },
      };
    }
    if (Date.now() > deadline || server.exitCode !== null) throw new Error(`not ready: ${printed} ${log}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Every file below a directory, one after the other. */
export async function everythingIn(directory) {
  const parts = [];
  for (const name of await readdir(directory)) {
    const file = path.join(directory, name);
    parts.push((await stat(file)).isDirectory() ? await everythingIn(file) : await readFile(file));
  }
  return Buffer.concat(parts);
}

/**
 * Between client and server. `faults` says what becomes of the next answers:
 *
 * - `lost`: the server did it, and the connection ends without an answer
 * - `half`: the same, in the middle of the answer
 * - `unsent`: the connection ends before the server hears of it
 * - `{ status, headers, body }`: this in place of the server's answer, which never heard of it
 */
export async function startProxy(upstream) {
  const [asked, faults] = [[], []];
  const proxy = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const url = new URL(request.url, upstream);
    const query = [...url.searchParams.keys()];
    asked.push({ method: request.method, path: url.pathname, query, headers: request.headers, body: body.toString() });
    const fault = faults.shift();
    if (fault === "unsent") return request.socket.destroy();
    const answer = typeof fault === "object" ? { headers: {}, body: "", ...fault } : await forward(url, request, body);
    if (fault === "lost") return request.socket.destroy();
    const { "transfer-encoding": _, connection: __, ...headers } = answer.headers;
    if (fault === "half") {
      response.writeHead(answer.status, { ...headers, "content-length": Buffer.byteLength(answer.body) });
      const half = answer.body.slice(0, answer.body.length / 2);
      return response.write(half, () => request.socket.destroy());
    }
    response.writeHead(answer.status, headers).end(answer.body);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    asked,
    faults,
    stop: () => {
      proxy.close();
      proxy.closeAllConnections();
    },
  };
}

function forward(url, { method, headers }, body) {
  return new Promise((resolve, reject) => {
    const asking = http.request(url, { method, headers, agent: false }, async (response) => {
      const chunks = [];
      for await (const chunk of response) chunks.push(chunk);
      resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() });
    });
    asking.once("error", reject).end(body);
  });
}

"""A real server on a free port, and a proxy that loses answers and writes down what was asked."""

from __future__ import annotations

import http.client
import http.server
import os
import pathlib
import re
import select
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "openapi.json"
#: Generous: a machine may be busy.
_START_SECONDS_MAX = 60


class Server:
    """`keyledger serve` over a fresh directory. `LEDGER_BINARY` names the binary."""

    def __init__(self) -> None:
        binary = os.environ.get("LEDGER_BINARY")
        if not binary:
            raise RuntimeError("LEDGER_BINARY names the keyledger binary")
        self._directory = tempfile.TemporaryDirectory()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYLEDGER_")}
        environment["KEYLEDGER_CONFIG_DIR"] = os.path.join(self._directory.name, "config")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        command = [binary, "serve", "--listen", listen, "--data", os.path.join(self._directory.name, "data")]
        self.log = pathlib.Path(self._directory.name) / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        self.link = self._printed_link()
        self.url = self.link.partition("/sign-in")[0]
        self._wait_until_ready(listen)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(_START_SECONDS_MAX)
        if self._process.stdout:
            self._process.stdout.close()
        self._directory.cleanup()

    def everything_written(self) -> bytes:
        """The log and every file of the data directory."""
        files = [path for path in pathlib.Path(self._directory.name).rglob("*") if path.is_file()]
        return b"".join(path.read_bytes() for path in files)

    def _wait_until_ready(self, listen: str) -> None:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection(listen, timeout=_START_SECONDS_MAX)
                connection.request("GET", "/readyz")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
            finally:
                connection.close()
        raise RuntimeError(f"not ready: {self.log.read_text()}")

    def _printed_link(self) -> str:
        assert self._process.stdout
        printed, deadline = b"", time.monotonic() + _START_SECONDS_MAX
        while time.monotonic() < deadline:
            if select.select([self._process.stdout], [], [], 1)[0]:
                some = os.read(self._process.stdout.fileno(), 65536)
                if not some:
                    break
                printed += some
            if found := re.search(rb"http://\S+/sign-in\?token=\S+(?=\n)", printed):
                return found[0].decode()
        raise RuntimeError(f"no sign-in link: {printed!r} {self.log.read_text()}")


@dataclass(frozen=True)
class Asked:
    """A request as it came through the proxy."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


class Proxy:
    """Between client and server. `faults` says what becomes of the next answers:

    - `lost`: the server did it, and the connection ends without an answer
    - `half`: the same, in the middle of the answer
    - `unsent`: the connection ends before the server hears of it
    - (status, headers, body): this in place of the server's answer, which never heard of it
    """

    def __init__(self, upstream: str) -> None:
        self.asked: list[Asked] = []
        self.faults: list[object] = []
        proxy, host = self, urllib.parse.urlsplit(upstream).netloc

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                proxy._handle(self, host)

            do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = handle_one

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: http.server.BaseHTTPRequestHandler, host: str) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        parts = urllib.parse.urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append(Asked(handler.command, parts.path, urllib.parse.parse_qs(parts.query), headers, body))
        fault = self.faults.pop(0) if self.faults else None
        if fault == "unsent":
            handler.close_connection = True
            return
        if isinstance(fault, tuple):
            status, more, answer = fault
        else:
            upstream = http.client.HTTPConnection(host, timeout=_START_SECONDS_MAX)
            upstream.request(handler.command, handler.path, body, dict(handler.headers.items()))
            response = upstream.getresponse()
            status, more, answer = response.status, dict(response.getheaders()), response.read()
            upstream.close()
        if fault == "lost":
            handler.close_connection = True
            return
        handler.send_response_only(status)
        for name, value in more.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        if fault == "half":
            answer, handler.close_connection = answer[: len(answer) // 2], True
        handler.wfile.write(answer)

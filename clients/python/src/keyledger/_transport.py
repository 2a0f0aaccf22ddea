"""The way to the ledger: one request, and what is done when no good answer comes."""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import json
import random
import re
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ._errors import KeyledgerError

VERSION = "0.1.0"
#: More than the largest page.
_ANSWER_BYTES_MAX = 64 * 1024 * 1024
_IDLE_CONNECTIONS_MAX = 16
_BACKOFF_SECONDS = 0.1
_BACKOFF_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class Route:
    """An operation of the API document."""

    method: str
    path: str
    #: It takes an `Idempotency-Key`, so that asking again can't do it twice.
    is_keyed: bool = False
    #: Asking again might do it twice, or find it done: it is sent once.
    is_once: bool = False


@dataclass(frozen=True, repr=False)
class Request:
    """What is sent. It has no `repr`: its headers hold a secret."""

    route: Route
    target: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True)
class Answer:
    """An answer of any status. Its body is not shown: it may hold a secret."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    #: What the request was sent with.
    idempotency_key: str | None = None

    def problem(self) -> KeyledgerError:
        """The refusal as an exception."""
        members = self._json_object()
        code, detail = members.pop("code", None), members.pop("detail", None) or members.get("title")
        for name in ("type", "title", "status"):
            members.pop(name, None)
        is_problem = isinstance(code, str)
        return KeyledgerError(
            self.status,
            code if isinstance(code, str) else "unreadable_answer",
            detail if is_problem and isinstance(detail, str) else "The answer does not say why.",
            members if is_problem else {},
            retry_after_seconds=self.retry_after_seconds(),
            request_id=self.headers.get("x-request-id"),
            idempotency_key=self.idempotency_key,
        )

    def retry_after_seconds(self) -> float | None:
        """`Retry-After` (RFC 9110 §10.2.3): seconds, or a date."""
        text = self.headers.get("retry-after", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", text):
            return float(text)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except (TypeError, ValueError):
            return None

    def _json_object(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class _Lost:
    """No answer came."""

    why: str
    #: Whether the server may have acted on it.
    was_sent: bool
    #: Whether it was an older connection, which the server may have closed meanwhile.
    was_reused: bool = False


class Transport:
    """One server, its connections, and how often it is asked again. Threads may share it."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float,
        retries: int,
        retry_wait_seconds_max: float,
        ssl_context: ssl.SSLContext | None,
        allow_cleartext: bool,
    ) -> None:
        self.base_url, self._host, self._port, self._is_https = _checked(base_url, allow_cleartext)
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._retry_wait_seconds_max = retry_wait_seconds_max
        self._ssl_context = ssl_context or (ssl.create_default_context() if self._is_https else None)
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Closes the connections that wait for a next request."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def send(self, request: Request) -> Answer:
        """The answer, whatever its status.

        Connection errors, 429, 502, 503 and 504 are asked again, with full jitter, unless that could do it twice.
        """
        attempt = 0
        outcome = self._attempt(request)
        while True:
            wait_seconds = self._wait_seconds(request.route, outcome, attempt)
            if wait_seconds is None:
                break
            time.sleep(wait_seconds)
            attempt += 1
            outcome = self._attempt(request)
        if isinstance(outcome, Answer):
            return outcome
        detail = f"{self.base_url} can't be reached: {outcome.why}."
        raise KeyledgerError(
            None, "unreachable", detail, idempotency_key=request.headers.get("Idempotency-Key")
        )

    def _wait_seconds(self, route: Route, outcome: Answer | _Lost, attempt: int) -> float | None:
        if attempt >= self._retries:
            return None
        backoff = random.uniform(0, min(_BACKOFF_SECONDS_MAX, _BACKOFF_SECONDS * 2**attempt))
        if isinstance(outcome, _Lost):
            return None if route.is_once and outcome.was_sent else backoff
        # 429 was refused before anything was done. Behind the others, something may have been.
        if outcome.status != 429 and (route.is_once or outcome.status not in (502, 503, 504)):
            return None
        asked = outcome.retry_after_seconds() or 0.0
        # Whoever is asked to wait longer than that should hear of it instead.
        return None if asked > self._retry_wait_seconds_max else asked + backoff

    def _attempt(self, request: Request) -> Answer | _Lost:
        connection = None if request.route.is_once else self._take()
        if connection is not None:
            outcome = self._exchange(connection, request, was_reused=True)
            # The server had closed it meanwhile: that is no failure.
            if not (isinstance(outcome, _Lost) and outcome.was_reused):
                return outcome
        return self._exchange(self._connection(), request, was_reused=False)

    # What goes wrong is returned, not raised: a traceback would take along frames, and with them secrets, to wherever
    # people send their tracebacks.
    def _exchange(self, connection: http.client.HTTPConnection, request: Request, *, was_reused: bool) -> Answer | _Lost:
        was_sent = was_answered = False
        try:
            if not was_reused:
                connection.connect()
            was_sent = True
            connection.request(request.route.method, request.target, request.body, dict(request.headers))
            response = connection.getresponse()
            was_answered = True
            body = response.read(_ANSWER_BYTES_MAX + 1)
            if len(body) > _ANSWER_BYTES_MAX:
                raise http.client.HTTPException("the answer is too long")
            if response.length:
                raise http.client.HTTPException("the answer broke off")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            is_stale = was_reused and not was_answered and not isinstance(error, TimeoutError)
            return _Lost(_reason(error), was_sent, is_stale)
        if response.will_close:
            connection.close()
        else:
            self._put_back(connection)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body, request.headers.get("Idempotency-Key"))

    def _connection(self) -> http.client.HTTPConnection:
        if self._is_https:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_seconds, context=self._ssl_context
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _put_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()


def _reason(error: OSError | http.client.HTTPException) -> str:
    # An OSError's text is the system's; of http.client's only ours, since it quotes what came.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if type(error) is http.client.HTTPException else type(error).__name__


def _checked(base_url: str, allow_cleartext: bool) -> tuple[str, str, int | None, bool]:
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    is_good = (
        host is not None
        and parts.scheme in ("http", "https")
        and "@" not in parts.netloc
        and parts.path in ("", "/")
        and not parts.query
        and not parts.fragment
        and base_url.isascii()
        and base_url.isprintable()
        and " " not in base_url
    )
    if host is None or not is_good:
        raise ValueError("base_url must be https:// and a host, such as https://ledger.example")
    if parts.scheme == "http" and not allow_cleartext and not _is_loopback(host):
        raise ValueError("base_url is not https and not this machine: secrets could be read on the way (allow_cleartext)")
    return f"{parts.scheme}://{parts.netloc}", host, port, parts.scheme == "https"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

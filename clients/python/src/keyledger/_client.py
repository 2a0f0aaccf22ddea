"""The client: verification, signing in, and the way every other call goes."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar

from . import _model as model
from ._errors import KeyledgerError
from ._resources import Audit, Credentials, Departures, Members, Pairing, Teams, given
from ._secret import Secret, kind_of
from ._transport import VERSION, Answer, Request, Route, Transport

Surface = Literal["runtime", "mcp", "agent", "management"]
T = TypeVar("T")

#: What one request may ask about.
_BATCH_LEN_MAX = 1_000

_VERIFY = Route("POST", "/api/v1/verify")
_VERIFY_BATCH = Route("POST", "/api/v1/verify/batch")
_LINK = Route("POST", "/api/v1/auth/link", is_once=True)
_RENEW = Route("POST", "/api/v1/auth/token")
_LOGOUT = Route("POST", "/api/v1/auth/logout", is_once=True)
_WHOAMI = Route("GET", "/api/v1/whoami")
#: Reads that are a POST because what they are about must not be in a URL.
_READS = (_VERIFY, _VERIFY_BATCH)


class Client:
    """A ledger, and who asks it. Threads may share one; close it, or use it as a context manager.

    `token` is a person's access token, or an `sv-` key for `verify_batch`; `verify` needs none. `team_id` names the team
    that calls about credentials, members and audit are about.

    `timeout_seconds` is for connecting and for each wait for bytes. A request that got no answer, 429, 502, 503 or 504 is
    asked again up to `retries` times, unless it can't be repeated; a `Retry-After` beyond `retry_wait_seconds_max` is an
    error at once. With `read_your_writes`, reads wait until the server has got to the last position seen here.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | Secret | None = None,
        team_id: str | None = None,
        timeout_seconds: float = 10.0,
        retries: int = 3,
        retry_wait_seconds_max: float = 10.0,
        read_your_writes: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        allow_cleartext: bool = False,
    ) -> None:
        self._transport = Transport(
            base_url,
            timeout_seconds=timeout_seconds,
            retries=retries,
            retry_wait_seconds_max=retry_wait_seconds_max,
            ssl_context=ssl_context,
            allow_cleartext=allow_cleartext,
        )
        self.token: Secret | None = None if token is None else _sendable(token)
        self.team_id = team_id
        self.read_your_writes = read_your_writes
        self._position: int | None = None
        self._lock = threading.Lock()
        self.credentials = Credentials(self)
        self.pairing = Pairing(self)
        self.teams = Teams(self)
        self.members = Members(self)
        self.departures = Departures(self)
        self.audit = Audit(self)

    def __repr__(self) -> str:
        return f"Client({self.base_url!r}, team_id={self.team_id!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    @property
    def base_url(self) -> str:
        """The server, without a trailing slash."""
        return self._transport.base_url

    @property
    def position(self) -> int | None:
        """The last position that an answer has shown."""
        return self._position

    def seen(self, position: int) -> None:
        """Notes a position learnt elsewhere, such as from the service that wrote."""
        with self._lock:
            self._position = position if self._position is None else max(self._position, position)

    # Verification

    def verify(
        self, key: str | Secret, *, surface: Surface | None = None, team_id: str | None = None
    ) -> model.Accepted | model.Denied:
        """Is this key good, here, now? A plain no is an answer and not an exception; it counts as false.

        What can't be a key is denied without asking.
        """
        if kind_of(key) is None:
            return model.Denied("invalid_token")
        body = given({"surface": surface, "team_id": team_id})
        answer = self.send(_VERIFY, body=body, bearer=_sendable(key))
        if answer.status in (401, 403):
            # Another code is a proxy's: no verdict.
            match answer.problem().code:
                case "invalid_token":
                    return model.Denied("invalid_token")
                case "insufficient_scope":
                    return model.Denied("insufficient_scope")
        return self.decoded(model.Accepted, answer)

    def verify_batch(
        self, keys: Iterable[str | Secret], *, surface: Surface | None = None
    ) -> list[model.BatchVerdict]:
        """One verdict each, in order, with the precise code. Needs an `sv-` key as the token; any number of keys."""
        asked = [_secret(key) for key in keys]
        verdicts = [model.BatchVerdict(False, "malformed")] * len(asked)
        # What can't be a key stays here: it might be anything, a password pasted into the wrong field for one.
        well_formed = [at for at, key in enumerate(asked) if kind_of(key)]
        for start in range(0, len(well_formed), _BATCH_LEN_MAX):
            part = well_formed[start : start + _BATCH_LEN_MAX]
            body = given({"keys": [asked[at] for at in part], "surface": surface})
            batch = self.decoded(model.Batch, self.send(_VERIFY_BATCH, body=body))
            if len(batch.results) != len(part):
                raise KeyledgerError(200, "unreadable_answer", "The answer has not one verdict a key.")
            for at, verdict in zip(part, batch.results):
                verdicts[at] = verdict
        return verdicts

    # Who asks

    def sign_in(self, link: str | Secret, *, name: str | None = None) -> model.SignedIn:
        """Follows a one-time link (or its token): signs in, or joins a team under `name`.

        The client then asks as this person, and about their team if they have only one and none was named.
        """
        token = _link_token(_sendable(link), self.base_url)
        # Whoever is signed in already and follows an invitation stays who they are.
        answer = self.send(_LINK, body=given({"token": token, "name": name}))
        return self._signed_in(answer)

    def renew(self) -> model.SignedIn:
        """A fresh access token for the same session, in place of the one that runs out."""
        return self._signed_in(self.send(_RENEW))

    def sign_out(self) -> None:
        """Ends the session; its access tokens end with it."""
        self.done(self.send(_LOGOUT))
        self.token = None

    def whoami(self) -> model.WhoAmI:
        """Who the token is."""
        return self.decoded(model.WhoAmI, self.send(_WHOAMI))

    def _signed_in(self, answer: Answer) -> model.SignedIn:
        signed_in = self.decoded(model.SignedIn, answer)
        self.token = signed_in.access_token
        if self.team_id is None and len(signed_in.teams) == 1:
            self.team_id = signed_in.teams[0].id
        return signed_in

    # For the resources

    def send(
        self,
        route: Route,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        bearer: Secret | None = None,
        idempotency_key: str | None = None,
        if_match: str | None = None,
    ) -> Answer:
        """One call of the API; the answer whatever its status. For operations that have no method of their own."""
        request = self._request(route, path or {}, query or {}, body, bearer, idempotency_key, if_match)
        answer = self._transport.send(request)
        position = answer.headers.get("ledger-position", "")
        if position.isascii() and position.isdigit():
            self.seen(int(position))
        return answer

    # Its variables are bare secrets. They must be gone when something is raised: people send tracebacks elsewhere.
    def _request(
        self,
        route: Route,
        path: Mapping[str, str],
        query: Mapping[str, object],
        body: Mapping[str, object] | None,
        bearer: Secret | None,
        idempotency_key: str | None,
        if_match: str | None,
    ) -> Request:
        target = _target(route.path, path, query)
        headers = {"Accept": "application/json", "User-Agent": f"keyledger-python/{VERSION}"}
        if bearer is None and self.team_id is not None:
            headers["X-Team-ID"] = _header_text("team_id", self.team_id)
        if route.is_keyed:
            headers["Idempotency-Key"] = _header_text("idempotency_key", idempotency_key or str(uuid.uuid4()))
        if if_match is not None:
            headers["If-Match"] = _header_text("if_match", if_match)
        if self.read_your_writes and self._position is not None and (route.method == "GET" or route in _READS):
            headers["Ledger-Min-Position"] = str(self._position)
        token = bearer or self.token
        if token is not None:
            headers["Authorization"] = f"Bearer {_sendable(token).expose()}"
        if body is None:
            return Request(route, target, headers, None)
        headers["Content-Type"] = "application/json"
        return Request(route, target, headers, json.dumps(body, default=_exposed, separators=(",", ":")).encode())

    def done(self, answer: Answer) -> None:
        """Raises unless it succeeded."""
        if not 200 <= answer.status < 300:
            raise answer.problem()

    def decoded(self, kind: type[T], answer: Answer) -> T:
        """The answer's body as `kind`."""
        self.done(answer)
        try:
            return model.read(kind, json.loads(answer.body))
        except model.NotOfThisForm as error:
            why = f"The answer is not of the documented form: {error}."
        except (ValueError, RecursionError):
            why = "The answer is not JSON."
        # Out here the exception has no context, which would hold the answer and with it a secret.
        raise KeyledgerError(answer.status, "unreadable_answer", why, request_id=answer.headers.get("x-request-id"))


def _secret(text: str | Secret) -> Secret:
    return text if isinstance(text, Secret) else Secret(text)


def _sendable(text: str | Secret) -> Secret:
    secret = _secret(text)
    if not _is_visible(secret.expose()):
        # http.client would quote it.
        raise ValueError("a secret has visible ASCII characters only")
    return secret


def _header_text(name: str, text: str) -> str:
    if not _is_visible(text):
        raise ValueError(f"{name} has visible ASCII characters only")
    return text


def _is_visible(text: str) -> bool:
    return text != "" and all("!" <= character <= "~" for character in text)


def _exposed(value: object) -> str:
    if isinstance(value, Secret):
        return value.expose()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _target(template: str, path: Mapping[str, str], query: Mapping[str, object]) -> str:
    target = template
    for name, value in path.items():
        if kind_of(value):
            # The server refuses it too; by then it would be in every log on the way.
            raise ValueError("a credential's id is a UUID; a secret must never be in a URL")
        target = target.replace(f"{{{name}}}", urllib.parse.quote(value, safe=""))
    pairs = [(name, _query_text(value)) for name, value in query.items() if value is not None and value is not False]
    return f"{target}?{urllib.parse.urlencode(pairs)}" if pairs else target


def _query_text(value: object) -> str:
    if isinstance(value, bool):
        return "true"
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if isoformat else str(value)


def _link_token(link: Secret, base_url: str) -> Secret:
    if "://" not in link.expose():
        return link
    token = _token_of(link, base_url)
    if token is None:
        raise ValueError("the link is another server's; if it is not, give its token alone")
    return token


def _token_of(link: Secret, base_url: str) -> Secret | None:
    if not link.expose().startswith(f"{base_url}/"):
        return None
    tokens = urllib.parse.parse_qs(urllib.parse.urlsplit(link.expose()).query).get("token", [])
    return Secret(tokens[0]) if len(tokens) == 1 else None

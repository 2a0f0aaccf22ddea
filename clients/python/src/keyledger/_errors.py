"""The one exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._secret import PATTERN


class KeyledgerError(Exception):
    """A call that did not succeed. Programs decide by `code`, which is the server's own (RFC 9457) or one of:

    - `unreachable`: no answer came. A write may have happened; ask again with `idempotency_key` to learn its outcome.
    - `unreadable_answer`: an answer of no known form; a proxy's page, perhaps.
    """

    #: The HTTP status; None if no answer came.
    status: int | None
    #: Stable.
    code: str
    #: For people.
    detail: str
    #: Further members of the problem, such as `revision` (409) or `errors` (`invalid_field`).
    members: Mapping[str, Any]
    #: What `Retry-After` asks for, in seconds.
    retry_after_seconds: float | None
    #: Names the request in the server's log.
    request_id: str | None
    #: What a write was sent with.
    idempotency_key: str | None

    def __init__(
        self,
        status: int | None,
        code: str,
        detail: str,
        members: Mapping[str, Any] | None = None,
        *,
        retry_after_seconds: float | None = None,
        request_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        # The ledger repeats nothing of what was sent; whoever stands before it might.
        detail = PATTERN.sub("[a secret]", detail)
        super().__init__(f"{detail} ({code}{'' if status is None else f', {status}'})")
        self.status = status
        self.code = code
        self.detail = detail
        self.members = dict(members or {})
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id
        self.idempotency_key = idempotency_key

"""What the API has beside verification, one class a resource."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from . import _model as model
from ._transport import Route

if TYPE_CHECKING:
    from ._client import Client

_ISSUE = Route("POST", "/api/v1/credentials", is_keyed=True)
_ISSUE_SERVICE = Route("POST", "/api/v1/service-credentials", is_keyed=True)
_LIST = Route("GET", "/api/v1/credentials")
_SHOW = Route("GET", "/api/v1/credentials/{id}")
_HISTORY = Route("GET", "/api/v1/credentials/{id}/history")
_REVOKE = Route("DELETE", "/api/v1/credentials/{id}", is_keyed=True)
_ROTATE = Route("POST", "/api/v1/credentials/{id}/rotate", is_keyed=True)
_PAIR_START = Route("POST", "/api/v1/desktop/pair/start")
_PAIR_POLL = Route("POST", "/api/v1/desktop/pair/poll")
_PAIR_CONFIRM = Route("POST", "/api/v1/desktop/pair/confirm", is_once=True)
_PAIR_DENY = Route("POST", "/api/v1/desktop/pair/deny", is_once=True)
_DEVICE_REVOKE = Route("POST", "/api/v1/auth/device/revoke", is_once=True)
_TEAMS = Route("GET", "/api/v1/teams")
_TEAM_CREATE = Route("POST", "/api/v1/teams", is_keyed=True)
_MEMBERS = Route("GET", "/api/v1/members")
_INVITE = Route("POST", "/api/v1/members/invitations", is_once=True)
_MEMBER_ROLE = Route("PATCH", "/api/v1/members/{id}", is_keyed=True)
_MEMBER_REMOVE = Route("DELETE", "/api/v1/members/{id}", is_keyed=True)
_DOSSIER = Route("GET", "/api/v1/members/{id}/departure")
_DECIDE = Route("POST", "/api/v1/members/{id}/departure", is_keyed=True)
_QUEUE = Route("GET", "/api/v1/departures")
_AUDIT = Route("GET", "/api/v1/audit")


class _Resource:
    def __init__(self, client: Client) -> None:
        self._client = client


class Credentials(_Resource):
    """The team's keys.

    Writes send an `Idempotency-Key` of their own making and repeat it when they are asked again. Give one to ask again
    yourself; the ledger remembers it with the body it came with.
    """

    def issue(
        self,
        kind: Literal["integration", "agent"],
        display_name: str,
        *,
        expires_in_days: int | None = None,
        purpose: str | None = None,
        idempotency_key: str | None = None,
    ) -> model.Issued:
        """Issues a key. Without `expires_in_days` (1–365) it never ends by itself."""
        body = {"kind": kind, "display_name": display_name, "expires_in_days": expires_in_days, "purpose": purpose}
        answer = self._client.send(_ISSUE, body=given(body), idempotency_key=idempotency_key)
        return self._client.decoded(model.Issued, answer)

    def issue_service(
        self, display_name: str, *, expires_in_days: int | None = None, idempotency_key: str | None = None
    ) -> model.Issued:
        """Issues an `sv-` key. For the ledger's operators."""
        body = given({"display_name": display_name, "expires_in_days": expires_in_days})
        answer = self._client.send(_ISSUE_SERVICE, body=body, idempotency_key=idempotency_key)
        return self._client.decoded(model.Issued, answer)

    def list(
        self,
        *,
        kind: str | None = None,
        status: Literal["active", "expired", "revoked"] | None = None,
        issued_by: str | None = None,
        departed: bool = False,
        expires_before: datetime | None = None,
        unused_days: int | None = None,
        q: str | None = None,
        as_of: int | datetime | None = None,
        per_page: int = 100,
    ) -> Iterator[model.Credential]:
        """All keys that match, newest first. What changes meanwhile does not make it skip or repeat one.

        `as_of` (a position or an instant) shows the list as it stood.
        """
        query: dict[str, object] = {
            "kind": kind,
            "status": status,
            "issued_by": issued_by,
            "departed": departed,
            "expires_before": expires_before,
            "unused_days": unused_days,
            "q": q,
            "per_page": per_page,
        }
        page = self._page({**query, "as_of": as_of, "current_page": 1})
        if as_of is None and page.page_meta.total_count > len(page.credentials):
            # Pages are numbered, so a key that is issued or ended between two of them would move all others. From the
            # first page on, the list is read as it stood at one position.
            as_of = page.position
            page = self._page({**query, "as_of": as_of, "current_page": 1})
        number = 1
        while True:
            yield from page.credentials
            if not page.credentials or number * page.page_meta.per_page >= page.page_meta.total_count:
                return
            number += 1
            page = self._page({**query, "as_of": as_of, "current_page": number})

    def show(self, id: str) -> model.Credential:
        """One key."""
        return self._client.decoded(model.Credential, self._client.send(_SHOW, path={"id": id}))

    def history(self, id: str) -> model.History:
        """What happened to it."""
        return self._client.decoded(model.History, self._client.send(_HISTORY, path={"id": id}))

    def revoke(self, id: str, *, reason: str | None = None, idempotency_key: str | None = None) -> None:
        """Ends it, finally. Ending it again changes nothing."""
        body = given({"reason": reason})
        self._client.done(self._client.send(_REVOKE, path={"id": id}, body=body, idempotency_key=idempotency_key))

    def rotate(
        self,
        id: str,
        *,
        overlap_seconds: int,
        expires_in_days: int | None = None,
        idempotency_key: str | None = None,
    ) -> model.Issued:
        """Issues a successor; the old key lives on for the overlap, never longer than it would have."""
        body = given({"overlap_seconds": overlap_seconds, "expires_in_days": expires_in_days})
        answer = self._client.send(_ROTATE, path={"id": id}, body=body, idempotency_key=idempotency_key)
        return self._client.decoded(model.Issued, answer)

    def _page(self, query: Mapping[str, object]) -> model.Credentials:
        return self._client.decoded(model.Credentials, self._client.send(_LIST, query=query))


class Pairing(_Resource):
    """How a device gets its key, and ends it."""

    def start(self, device_name: str | None = None) -> model.PairingStarted:
        """On the device: starts a pairing. Show `user_code` and `verification_uri`."""
        answer = self._client.send(_PAIR_START, body=given({"device_name": device_name}))
        return self._client.decoded(model.PairingStarted, answer)

    def poll(self, started: model.PairingStarted) -> model.Pairing:
        """On the device: what became of it. Approved is answered once; after that, and after its end, 404."""
        answer = self._client.send(_PAIR_POLL, body={"device_code": started.device_code})
        return self._client.decoded(model.Pairing, answer)

    def wait(self, started: model.PairingStarted) -> model.Pairing:
        """On the device: polls until somebody has decided; `not_found` if nobody does in time."""
        while (pairing := self.poll(started)).status == "pending":
            time.sleep(max(1, started.interval))
        return pairing

    def confirm(self, user_code: str, *, device_name: str | None = None) -> None:
        """As a person: lets the device in."""
        body = given({"user_code": user_code, "device_name": device_name})
        self._client.done(self._client.send(_PAIR_CONFIRM, body=body))

    def deny(self, user_code: str) -> None:
        """As a person: refuses the device."""
        self._client.done(self._client.send(_PAIR_DENY, body={"user_code": user_code}))

    def revoke_self(self) -> None:
        """With a `dk-` as the token: ends this device and its companion."""
        self._client.done(self._client.send(_DEVICE_REVOKE))


class Teams(_Resource):
    """Your teams."""

    def list(self) -> tuple[model.Team, ...]:
        """All of them."""
        return self._client.decoded(model.Teams, self._client.send(_TEAMS)).teams

    def create(self, name: str, *, idempotency_key: str | None = None) -> model.Team:
        """Makes a team with you as its owner. Set `client.team_id` to work in it."""
        answer = self._client.send(_TEAM_CREATE, body={"name": name}, idempotency_key=idempotency_key)
        return self._client.decoded(model.Team, answer)


class Members(_Resource):
    """The team's people."""

    def list(self) -> tuple[model.Member, ...]:
        """All of them, those who have left included."""
        return self._client.decoded(model.Members, self._client.send(_MEMBERS)).members

    def invite(self, role: Literal["admin", "member", "viewer", "auditor"]) -> model.Invitation:
        """Makes a link that lets one person in."""
        return self._client.decoded(model.Invitation, self._client.send(_INVITE, body={"role": role}))

    def set_role(self, id: str, role: str, *, idempotency_key: str | None = None) -> None:
        """Gives a member another role; `owner` transfers the ownership."""
        self._client.done(
            self._client.send(_MEMBER_ROLE, path={"id": id}, body={"role": role}, idempotency_key=idempotency_key)
        )

    def remove(self, id: str, *, idempotency_key: str | None = None) -> None:
        """Removes a member. Their live keys wait in `departures.queue`; `departures.decide` does both at once."""
        self._client.done(self._client.send(_MEMBER_REMOVE, path={"id": id}, idempotency_key=idempotency_key))


class Departures(_Resource):
    """A person leaves, and somebody decides on every key."""

    def dossier(self, member_id: str) -> model.Dossier:
        """What would end by itself, and what somebody must decide on."""
        return self._client.decoded(model.Dossier, self._client.send(_DOSSIER, path={"id": member_id}))

    def decide(
        self,
        member_id: str,
        *,
        expected_revision: int,
        revoke: Iterable[str] = (),
        hand_over: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> model.Receipt:
        """Removes the member, ends and hands over (key to colleague) in one commit.

        `expected_revision` is the dossier's; 409 with the newer `revision` if anything changed since.
        """
        body = {
            "revoke": [*revoke],
            "hand_over": [{"id": key, "to": to} for key, to in (hand_over or {}).items()],
            "expected_revision": expected_revision,
        }
        answer = self._client.send(_DECIDE, path={"id": member_id}, body=body, idempotency_key=idempotency_key)
        return self._client.decoded(model.Receipt, answer)

    def queue(self) -> model.Queue:
        """The team's live keys whose holder has left and nobody has decided on. It should be empty."""
        return self._client.decoded(model.Queue, self._client.send(_QUEUE))


class Audit(_Resource):
    """What happened, in order."""

    def page(
        self,
        *,
        credential: str | None = None,
        actor: str | None = None,
        type: str | None = None,
        from_: datetime | None = None,
        to: datetime | None = None,
        after: int | None = None,
        limit: int | None = None,
        order: Literal["asc", "desc"] | None = None,
    ) -> model.Page:
        """One page; `after` is the `next` of the page before."""
        query: dict[str, object] = {
            "credential": credential,
            "actor": actor,
            "type": type,
            "from": from_,
            "to": to,
            "after": after,
            "limit": limit,
            "order": order,
        }
        return self._client.decoded(model.Page, self._client.send(_AUDIT, query=query))

    def events(
        self,
        *,
        credential: str | None = None,
        actor: str | None = None,
        type: str | None = None,
        from_: datetime | None = None,
        to: datetime | None = None,
        after: int | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int = 1_000,
    ) -> Iterator[model.Event]:
        """All that match, page by page of `limit`. Keep the last event's `position` to go on `after` it later."""
        while True:
            page = self.page(
                credential=credential, actor=actor, type=type, from_=from_, to=to, after=after, limit=limit, order=order
            )
            yield from page.events
            if page.next is None:
                return
            after = page.next


def given(members: Mapping[str, object]) -> dict[str, object]:
    """Without what is not given: the server's own default holds then."""
    return {name: value for name, value in members.items() if value is not None}

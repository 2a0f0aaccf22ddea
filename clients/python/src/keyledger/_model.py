"""What the ledger answers. Names are the wire's; members that this version does not know are dropped."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ._secret import Secret

datetime_ = datetime.datetime
T = TypeVar("T")


@dataclass(frozen=True)
class Accepted:
    """A key that is good, here and now."""

    # No default: an answer that does not say so is none.
    valid: Literal[True]
    credential_id: str
    kind: str
    team_id: str
    #: Who answers for it.
    user_id: str
    #: The last position the verdict rests on.
    position: int
    display_name: str | None = None
    expires_at: datetime_ | None = None


@dataclass(frozen=True)
class Denied:
    """A key that is not good. It counts as false."""

    #: `invalid_token` (401): malformed, unknown, expired, revoked or another team's, which are not told apart;
    #: `insufficient_scope` (403): alive, and of a kind that this surface does not take.
    code: Literal["invalid_token", "insufficient_scope"]
    valid: Literal[False] = False

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class BatchVerdict:
    """One key of a batch. Counts as true only if the key is good."""

    valid: bool
    #: `valid`, `malformed`, `unknown`, `revoked`, `expired` or `insufficient_scope`.
    code: str
    credential_id: str | None = None
    kind: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    expires_at: datetime_ | None = None

    def __bool__(self) -> bool:
        return self.valid


@dataclass(frozen=True)
class Batch:
    """The verdicts, in the order of the keys."""

    results: tuple[BatchVerdict, ...]
    position: int


@dataclass(frozen=True)
class Issued:
    """A key that was just issued."""

    id: str
    kind: str
    key_prefix: str
    position: int
    display_name: str | None = None
    #: The secret, in this answer only. None if the first answer was lost on its way: the key exists and nobody has
    #: its secret. `rotate(id, overlap_seconds=0)` gives it a successor.
    raw_key: Secret | None = None
    expires_at: datetime_ | None = None
    rotated_from: str | None = None


@dataclass(frozen=True)
class Credential:
    """A key as people see it."""

    id: str
    kind: str
    key_prefix: str
    user_id: str
    #: `active`, `expired` or `revoked`.
    key_status: str
    created_at: datetime_
    departed: bool
    display_name: str | None = None
    purpose: str | None = None
    issued_by: str | None = None
    last_used_at: datetime_ | None = None
    expires_at: datetime_ | None = None
    revoked_at: datetime_ | None = None
    revoke_reason: str | None = None
    revoke_note: str | None = None
    device_id: str | None = None
    companion_id: str | None = None
    rotated_from: str | None = None
    rotated_to: str | None = None


@dataclass(frozen=True)
class PageMeta:
    """Where a page lies in its list."""

    current_page: int
    per_page: int
    total_count: int


@dataclass(frozen=True)
class Credentials:
    """A page of credentials."""

    credentials: tuple[Credential, ...]
    page_meta: PageMeta
    position: int


@dataclass(frozen=True)
class Actor:
    """Who did it."""

    type: str
    id: str | None = None


@dataclass(frozen=True)
class Event:
    """What happened, as its team sees it."""

    position: int
    revision: int
    id: str
    team_id: str
    type: str
    recorded_at: datetime_
    hash: str
    previous: str
    actor: Actor
    auth: str
    correlation_id: str
    data: Mapping[str, Any]
    cause: str | None = None
    context: Any = None


@dataclass(frozen=True)
class History:
    """The events about one credential."""

    events: tuple[Event, ...]
    position: int


@dataclass(frozen=True)
class Page:
    """A page of the audit trail."""

    events: tuple[Event, ...]
    position: int
    #: What `after` of the next page is; None on the last.
    next: int | None = None


@dataclass(frozen=True)
class PairingStarted:
    """What a device needs to go on."""

    device_code: Secret
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    #: Seconds until the pairing ends.
    expires_in: int
    #: Seconds between polls.
    interval: int


@dataclass(frozen=True)
class Pairing:
    """What became of a pairing."""

    status: Literal["pending", "denied", "approved"]
    #: The device's key, once.
    raw_key: Secret | None = None
    #: Its companion's, once.
    agent_key: Secret | None = None


@dataclass(frozen=True)
class Team:
    """A team of yours."""

    id: str
    name: str
    role: str


@dataclass(frozen=True)
class Teams:
    """Your teams."""

    teams: tuple[Team, ...]


@dataclass(frozen=True)
class SignedIn:
    """An access token, and whose it is."""

    access_token: Secret
    expires_at: datetime_
    user_id: str
    teams: tuple[Team, ...]


@dataclass(frozen=True)
class WhoAmI:
    """Who asks: a person with their teams, or a credential."""

    type: Literal["person", "credential"]
    user_id: str
    teams: tuple[Team, ...] = ()
    credential_id: str | None = None
    kind: str | None = None
    team_id: str | None = None
    expires_at: datetime_ | None = None


@dataclass(frozen=True)
class Member:
    """A person in the team, now or once."""

    id: str
    role: str
    joined_at: datetime_
    name: str | None = None
    departed_at: datetime_ | None = None


@dataclass(frozen=True)
class Members:
    """The team's people."""

    members: tuple[Member, ...]
    revision: int


@dataclass(frozen=True)
class Invitation:
    """A link that lets one person in: a secret until it is used."""

    url: Secret
    role: str
    expires_at: datetime_


@dataclass(frozen=True)
class Dossier:
    """Everything that a member's departure is about."""

    member: Member
    #: What the decision must expect.
    revision: int
    ends_by_itself: tuple[Credential, ...]
    to_decide: tuple[Credential, ...]
    position: int


@dataclass(frozen=True)
class Receipt:
    """What a departure has done."""

    events: tuple[Event, ...]
    undecided: int
    position: int


@dataclass(frozen=True)
class Queue:
    """Live keys whose holder has left and nobody has decided on."""

    credentials: tuple[Credential, ...]
    total_count: int
    position: int


class NotOfThisForm(Exception):
    """An answer is not what the API document says. It names the place and never the value."""


def read(kind: type[T], value: object) -> T:
    """Reads a decoded JSON value as `kind`, checking every member's type."""
    result = _read(kind, value, kind.__name__)
    return typing.cast(T, result)


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _read(next(other for other in arguments if other is not types.NoneType), value, place)
    if origin is Literal:
        return _expect(value in arguments and type(value) is type(arguments[0]), value, place)
    if origin is tuple:
        _expect(isinstance(value, list), value, place)
        return tuple(_read(arguments[0], item, place) for item in value)
    if origin is Mapping:
        return _expect(isinstance(value, dict), value, place)
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, value, place)
    if kind is Secret:
        return Secret(_expect(isinstance(value, str), value, place))
    if kind is datetime_:
        return _read_instant(_expect(isinstance(value, str), value, place), place)
    # A bool is an int to Python and not to JSON.
    return _expect(type(value) is kind, value, place)


def _read_object(kind: Any, value: Any, place: str) -> Any:
    _expect(isinstance(value, dict), value, place)
    hints = _hints(kind)
    members = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            members[field.name] = _read(hints[field.name], value[field.name], f"{place}.{field.name}")
        else:
            _expect(field.default is not dataclasses.MISSING, value, f"{place}.{field.name}")
    return kind(**members)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read_instant(text: str, place: str) -> datetime_:
    try:
        # Python 3.10 does not know the Z.
        instant = datetime_.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise NotOfThisForm(place)
    return instant


def _expect(is_good: bool, value: T, place: str) -> T:
    if not is_good:
        raise NotOfThisForm(place)
    return value

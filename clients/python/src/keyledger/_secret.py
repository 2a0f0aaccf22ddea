"""The secrets the ledger hands out: a type that never shows itself, and the check of their form."""

from __future__ import annotations

import hmac
import re
import zlib
from typing import Literal, NoReturn

Kind = Literal["integration", "agent", "device", "service"]

#: What a scanner looks for; it finds a secret inside of other text, too.
PATTERN = re.compile(r"\b(?:sk|ak|dk|sv)-kl1[0-9A-Za-z]{49}\b", re.ASCII)

_FORM = re.compile(r"(sk|ak|dk|sv)-kl1[0-9A-Za-z]{49}")
_KINDS: dict[str, Kind] = {"sk": "integration", "ak": "agent", "dk": "device", "sv": "service"}
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_LEN = 49


class Secret:
    """A text that shows in no `repr`, log line, pickle or JSON. `expose` is the only way to it."""

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError("a secret is made of a str")
        object.__setattr__(self, "_text", text)

    def expose(self) -> str:
        """The text itself. Call it where it is handed over, and nowhere else."""
        return self._text

    def __repr__(self) -> str:
        kind = self._text[:3] if kind_of(self._text) else ""
        return f"Secret({kind}[redacted])"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (text.encode("utf-8", "surrogatepass") for text in (self._text, other._text))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash(self._text)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    # `dataclasses.asdict` copies what it finds; what can't change need not be copied.
    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


def kind_of(key: str | Secret) -> Kind | None:
    """The kind that a key's first characters claim; None if it can't be a key: length, alphabet or checksum are wrong.

    Whether the ledger issued it is not known here. A checksum is no proof of anything: it finds typos.
    """
    text = key.expose() if isinstance(key, Secret) else key
    found = _FORM.fullmatch(text)
    if found is None or _checksum(text[:_BODY_LEN]) != text[_BODY_LEN:]:
        return None
    return _KINDS[found[1]]


def _checksum(body: str) -> str:
    """CRC-32 (ISO-HDLC) as six base62 digits, most significant first."""
    rest, digits = zlib.crc32(body.encode("ascii")), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = _DIGITS[digit] + digits
    return digits

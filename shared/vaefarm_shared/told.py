"""What Redis tells of what others wrote there: text, counts and objects, and no error, whatever it is.

One worker, or one key, that somebody garbled must not keep everyone from seeing the rest.
"""

from collections.abc import Iterable
from typing import Any, Final

from pydantic_core import from_json
from redis.exceptions import ResponseError

from .leases import number

#: The most that anything is counted to: what integers of 64 bits hold.
MOST: Final[int] = 2**63 - 1


def text_of(raw: bytes | str) -> str:
    """Text; bytes that are no UTF-8 become replacement characters."""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw


def count_of(raw: bytes | str | None) -> int:
    """A count; 0 where it is missing or none."""
    return int(min(max(number(raw) or 0.0, 0.0), MOST))


def object_of(raw: bytes | str | None) -> dict[str, Any] | None:
    """A JSON object; None where it is missing, or is none: text with half a character in it, a number that is too long,
    lists without end."""
    try:
        found = None if raw is None else from_json(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def without_kinds(replies: Iterable[Any]) -> list[Any]:
    """Replies of a pipeline that did not raise: None for a key of another kind than was asked for. Raises every other
    error."""
    found = []
    for reply in replies:
        if isinstance(reply, Exception):
            if not (isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)):
                raise reply
            reply = None
        found.append(reply)
    return found

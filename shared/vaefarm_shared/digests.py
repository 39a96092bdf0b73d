"""Digests of requests: two of one digest ask for the same picture, whenever and for whom."""

import hashlib
import json
from typing import Any, Final

#: Fields of a spec that say when and for whom, not what: a repeated request may differ in them.
CIRCUMSTANCES: Final = frozenset(
    {
        "id",
        "request_hash",
        "producer",
        "owner",
        "priority",
        "deadline_seconds",
        "traceparent",
        "webhook",
        "result_seconds",
    }
    | {"failure_seconds"}
)


#: Made once: a submit costs less than making it.
_SORTED_JSON: Final = json.JSONEncoder(sort_keys=True, default=str)


def digest_of(wanted: dict[str, Any]) -> "hashlib._Hash":
    """The beginning of a request's digest: of the options that decide the picture and its file, not of the
    circumstances."""
    options = {name: value for name, value in wanted.items() if name not in CIRCUMSTANCES}
    return hashlib.sha256(_SORTED_JSON.encode(options).encode())


def request_hash(digest: "hashlib._Hash", packed_latents: bytes) -> str:
    """The digest of what decides the picture: of the options (`digest_of`), which stays as it is, and the latents."""
    whole = digest.copy()
    whole.update(packed_latents)
    return whole.hexdigest()[:32]

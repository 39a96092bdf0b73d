"""Where a farm's latents and pictures lie, as VAEFARM_STORE says it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from .errors import InvalidStore

#: What is expected, for whoever wrote something else.
EXPECTED: Final[str] = "expected redis://, file:///DIR or s3://BUCKET/PREFIX"

#: Names of buckets, and of access points' aliases.
BUCKET: Final[re.Pattern[str]] = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

#: What keys begin with: characters that no client writes in two ways.
KEY_PREFIX: Final[re.Pattern[str]] = re.compile(r"[A-Za-z0-9_.=-]+(/[A-Za-z0-9_.=-]+)*")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Redis alone unless there is a folder or a bucket, for what is above a threshold."""

    folder: Path | None = None
    bucket: str = ""
    #: What every key in the bucket begins with: nothing, or something that ends with a slash.
    prefix: str = ""


def read_store_url(url: str) -> StoreUrl:
    """Raises InvalidStore, which never shows a URL that may hold a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _invalid(url) from None
    if parts.scheme == "redis":
        return StoreUrl()
    if parts.query or parts.fragment:
        raise _invalid(url)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return StoreUrl(folder=Path(unquote(parts.path)))
    if parts.scheme != "s3":
        raise _invalid(url)
    if "@" in parts.netloc:
        raise InvalidStore(
            "VAEFARM_STORE holds a user or a password, which is not shown here; expected s3://BUCKET/PREFIX, and the"
            " credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE) or a role"
        )
    prefix = parts.path.strip("/")
    is_prefix = not prefix or (KEY_PREFIX.fullmatch(prefix) and not {".", ".."} & set(prefix.split("/")))
    if not BUCKET.fullmatch(parts.netloc) or not is_prefix:
        raise _invalid(url)
    return StoreUrl(bucket=parts.netloc, prefix=f"{prefix}/" if prefix else "")


def _invalid(url: str) -> InvalidStore:
    is_shown = not set("@?#") & set(url)
    return InvalidStore(f"VAEFARM_STORE={url!r}: {EXPECTED}" if is_shown else f"VAEFARM_STORE: {EXPECTED}")

"""Where webhooks may go: to hosts that the operator named, and nowhere else."""

from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from vaefarm_shared.errors import InvalidOption

from .settings import names


def is_allowed(url: str, hosts: str) -> bool:
    """Whether webhooks may go there: to a host of the operator's list, by http or https, without a login in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and parts.username is None
        and any(fnmatchcase(host, pattern) for pattern in names(hosts))
    )


def check_webhook(url: str | None, hosts: str) -> None:
    """Raise InvalidOption for a webhook that would never be called."""
    if url is None or is_allowed(url, hosts):
        return
    allowed = ", ".join(names(hosts)) or "none"
    raise InvalidOption(
        f"webhook={url[:80]!r} goes to a host that is not allowed; expected http(s) to one of: {allowed}"
        " (VAEFARM_WEBHOOK_HOSTS)"
    )

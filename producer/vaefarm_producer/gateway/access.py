"""Who calls: every request has a principal, and a job is seen by the one that made it, and by admins."""

from dataclasses import dataclass
from typing import Final

from aiohttp import web

from vaefarm_shared.errors import Forbidden, JobNotFound
from vaefarm_shared.reading import not_found

#: The owner of jobs that were made over Redis, and by admin keys.
ADMIN_OWNER: Final[str] = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever holds a key."""

    name: str
    is_admin: bool = False
    #: Requests that the key may make, such as '10/second'; no limit unless given.
    rate: str | None = None
    #: Jobs of the key that may be in the farm without having ended; no limit unless given.
    max_in_flight: int | None = None
    #: Whether it came by a signed URL, and so may read the one job of that URL, whosever it is.
    is_signed: bool = False

    @property
    def owner(self) -> str:
        """The owner of the jobs that it makes."""
        return ADMIN_OWNER if self.is_admin else self.name

    def sees(self, owner: str) -> bool:
        """Whether it may know of a job of that owner."""
        return self.is_admin or self.is_signed or owner == self.name


#: Who calls a gateway that needs no key.
ADMIN: Final = Principal(ADMIN_OWNER, is_admin=True)

#: Who calls what is open to all, and who calls by a signed URL; no key has such a name.
NOBODY: Final = Principal("")
SIGNED: Final = Principal("", is_signed=True)

#: Where a request keeps its principal.
PRINCIPAL: Final = web.RequestKey("principal", Principal)


def principal_of(request: web.Request) -> Principal:
    """Who made a request; the access middleware has put it there."""
    return request[PRINCIPAL]


def need_admin(request: web.Request) -> None:
    """Raise Forbidden unless an admin calls."""
    if not principal_of(request).is_admin:
        raise Forbidden("this is for admin keys: `vaefarm keys add NAME --admin` makes one")


def need_sight(request: web.Request, job_id: str, owner: str) -> None:
    """Raise JobNotFound unless the caller may know of a job: to others it does not exist."""
    if not principal_of(request).sees(owner):
        raise not_seen(job_id)


def not_seen(job_id: str) -> JobNotFound:
    """The same answer as for a job that nobody knows."""
    return not_found(job_id)

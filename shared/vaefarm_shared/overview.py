"""How the farm stands at one moment: what `vaefarm status --json`, `vaefarm top` and `GET /v1/overview` show.

Counters only grow: whoever wants a rate of its own takes two looks. What a worker says of its last seconds is the
difference of the counters in its description, which holds them as they are and as they were ten seconds ago.
"""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticUseDefault
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from .endpoints import EndpointState, read_endpoints
from .told import MOST
from .workers import serves

FROZEN: Final = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

#: How many of something a worker says that there are.
Count = Annotated[int, Field(ge=0, le=MOST)]

#: What is wrong, or held back: a VAE's jobs wait for a worker that serves it, or for one that holds pictures so large;
#: a VAE is paused; RQ is suspended: nothing is claimed; a device is quarantined; a worker died, says nothing, or
#: goes on without its device; an endpoint is not asked as usual; nearly all of the budget is in use.
Trouble = Literal[
    "no_worker",
    "too_large",
    "paused",
    "suspended",
    "quarantined",
    "died",
    "silent",
    "device_fault",
    "endpoint",
    "nearly_full",
]


class VaeOverview(BaseModel):
    """One VAE: what waits for it, who serves it, what became of its jobs."""

    model_config = FROZEN

    id: str
    #: Jobs that wait, all of them; those of each priority, 'plain' for plain RQ jobs; those of each size class.
    queued: int = 0
    by_priority: dict[str, int] = Field(default_factory=dict)
    by_size: dict[str, int] = Field(default_factory=dict)
    #: Device seconds that these take: for so long they keep one device busy. By a guess of a second each unless
    #: `pace_known`: none of the VAE was decoded yet.
    backlog_seconds: float = 0.0
    pace_known: bool = False
    paused: bool = False
    #: Workers that serve it, and how many of those have it loaded.
    workers: int = 0
    hot: int = 0
    #: Jobs that have ended so, since the farm began.
    finished: int = 0
    failed: int = 0
    canceled: int = 0
    expired: int = 0


class Counters(BaseModel):
    """What a worker had done some seconds ago."""

    model_config = FROZEN

    up_seconds: float
    busy_seconds: float
    pictures: Count


class BatchInHand(BaseModel):
    """What a device decodes now."""

    model_config = FROZEN

    vae: str
    jobs: Count
    pictures: Count
    #: Since it began.
    seconds: float


class WorkerOverview(BaseModel):
    """What a worker says of itself, every five seconds, and what follows from that. What this release does not know is
    kept as it is; what another wrote otherwise counts as not told.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    #: None for those who may not know of it, as all that is not told.
    name: str | None = None
    host: str | None = None
    device: str | None = None
    #: What tells the device apart from all others: a GPU's UUID.
    device_id: str | None = None
    #: Revision of the weights by VAE; those that it can decode now; those that are loaded.
    vaes: dict[str, Any] = Field(default_factory=dict)
    serves: list[str] = Field(default_factory=list)
    hot: list[str] = Field(default_factory=list)
    #: The size classes of which it holds every picture, by VAE.
    sizes: dict[str, list[str]] = Field(default_factory=dict)
    #: Unix seconds by its own clock.
    since: float | None = None
    #: Whether it decodes on a device of its own, or asks endpoints alone; and why it does, where it had one.
    has_device: bool | None = None
    device_fault: str | None = None
    endpoints: list[EndpointState] = Field(default_factory=list)
    #: Jobs that it has claimed and not settled yet; what its device decodes.
    held: Count | None = None
    batch: BatchInHand | None = None
    #: Jobs that it has ended so; pictures, or latents of encodes, of those that are finished.
    finished: Count | None = None
    failed: Count | None = None
    pictures: Count | None = None
    #: Seconds since its process began, and for how many of those its device decoded.
    up_seconds: float | None = None
    busy_seconds: float | None = None
    before: Counters | None = None
    #: Of the last ten seconds: the part for which its device decoded, and pictures each second.
    busy_share: float | None = None
    images_per_second: float | None = None
    #: Since it said all this.
    silent_seconds: float | None = None

    @property
    def gpu(self) -> str:
        """A GPU's id, where it has one: workers with a GPU each all call theirs cuda:0."""
        device_id = self.device_id or ""
        return device_id if device_id.startswith(("GPU-", "MIG-")) else ""

    @field_validator("*", mode="wrap")
    @classmethod
    def _known(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticUseDefault from None

    @field_validator("endpoints", mode="before")
    @classmethod
    def _known_endpoints(cls, value: Any) -> Any:
        return read_endpoints({"endpoints": value}) if all_plain(value) else value


class Totals(BaseModel):
    """The farm as a whole; None is what the asker may not know, or Redis does not tell."""

    model_config = FROZEN

    #: Jobs that wait on queues, those of paused VAEs too, and the device seconds that they take.
    queued: int = 0
    backlog_seconds: float = 0.0
    #: Jobs that workers have claimed and not settled.
    in_hand: int = 0
    workers: int = 0
    #: Of the last ten seconds: pictures of all workers each second, and the mean share of the workers that have a
    #: device.
    images_per_second: float | None = None
    busy_share: float | None = None
    #: Jobs that have not ended, and bytes of latents and pictures in Redis, of how many a submit is taken to.
    budget_jobs: int | None = None
    budget_jobs_limit: int | None = None
    budget_bytes: int | None = None
    budget_bytes_limit: int | None = None
    #: What Redis uses, and its maxmemory; 0 where it has none.
    redis_bytes: int | None = None
    redis_bytes_limit: int | None = None


class RecentFailure(BaseModel):
    """A job of those that failed last."""

    model_config = FROZEN

    id: str
    vae: str
    reason: str
    attempts: int
    owner: str
    #: Unix seconds by Redis' clock.
    ended_at: float | None = None


class Death(BaseModel):
    """A worker whose process died without a word, and that none of its name has followed."""

    model_config = FROZEN

    worker: str
    #: Unix seconds by Redis' clock.
    at: float


class Quarantined(BaseModel):
    """A device that no worker uses."""

    model_config = FROZEN

    id: str
    reason: str | None = None
    #: Unix seconds by Redis' clock.
    since: float | None = None


class Warned(BaseModel):
    """Something that an operator should know: `message` is a line for people."""

    model_config = FROZEN

    code: Trouble
    message: str
    vae: str | None = None


class Overview(BaseModel):
    """How the farm stands."""

    model_config = FROZEN

    #: Unix seconds by Redis' clock.
    taken_at: float
    totals: Totals
    #: By id.
    vaes: list[VaeOverview]
    #: By name.
    workers: list[WorkerOverview]
    #: The newest first, twenty at most.
    failures: list[RecentFailure]
    #: None for those who may not know of devices.
    quarantined: list[Quarantined] | None = None
    #: Of the last ten minutes, the newest first. None for those who may not know of workers.
    deaths: list[Death] | None = None
    #: Whether RQ is suspended.
    suspended: bool = False
    warnings: list[Warned] = Field(default_factory=list)


def busiest_first(vaes: Iterable[VaeOverview]) -> list[VaeOverview]:
    """VAEs for which something waits, or that are paused, before the others."""
    return sorted(vaes, key=lambda vae: (not (vae.queued or vae.paused), vae.id))


def worker_overview(description: Mapping[str, Any], silent_seconds: float | None = None) -> WorkerOverview:
    """What a worker's description tells, which is so many seconds old."""
    told = WorkerOverview.model_validate({**description, "serves": [], "busy_share": None, "images_per_second": None})
    changes: dict[str, Any] = {
        "serves": sorted(serves({**description, "vaes": told.vaes})),
        "silent_seconds": silent_seconds,
    }
    before = told.before
    if before is not None and told.up_seconds is not None and told.up_seconds > before.up_seconds:
        seconds = told.up_seconds - before.up_seconds
        if told.busy_seconds is not None and told.has_device is not False:
            busy = (told.busy_seconds - before.busy_seconds) / seconds
            changes["busy_share"] = round(min(max(busy, 0.0), 1.0), 4) if isfinite(busy) else None
        if told.pictures is not None:
            rate = max(told.pictures - before.pictures, 0) / seconds
            changes["images_per_second"] = round(rate, 4) if isfinite(rate) else None
    return told.model_copy(update=changes)


def all_plain(value: Any) -> bool:
    """Whether a list came as JSON's values, not as what was read from them already."""
    return not (isinstance(value, list) and any(isinstance(one, EndpointState) for one in value))

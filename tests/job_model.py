"""What is true of a few jobs and their queue: the model that `test_states` compares Redis with."""

from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from vaefarm_producer.submission import PreparedJob, SubmitOptions, prepare
from vaefarm_shared.blob_names import latent_name
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import ADMIN
from vaefarm_shared.leases import Claim
from vaefarm_shared.submissions import Submission

#: Few jobs, so that calls meet.
IDS: Final[tuple[str, ...]] = ("a", "b", "c")

#: The one whose latents are more than its script carries.
LARGE: Final[str] = "a"

QUEUE: Final[str] = "vaefarm.demo.normal.s.default"

#: Bytes that each job is reckoned to hold until it ends.
HELD: Final[int] = 1000

MAX_ATTEMPTS: Final[int] = 2

#: Seconds of a lease that stands for as long as the test lasts, and of one that is over at once.
LIVE, OVER = 600.0, -1.0

ENDED: Final = frozenset({"finished", "failed", "canceled", "expired"})

RQ_STATUS: Final = {"expired": "canceled"}


@dataclass
class Model:
    """What is true of one job."""

    status: str
    attempts: int = 0
    claim: Claim | None = None
    is_over: bool = False
    begun: bool = False
    shared: bool = False
    #: The token and status of the settle that ended it: repeating that one is no loss.
    settled: tuple[str, str] | None = None


def submission(job_id: str, content: float, owner: str = ADMIN, **options: Any) -> Submission:
    contract = Catalogue.load()["demo"].contract
    assert contract is not None
    side = 64 if job_id == LARGE else 8
    latents = np.full((1, 4, side, side), content, np.float32)
    prepared: PreparedJob = prepare(latents, "demo", contract, job_id, cast("SubmitOptions", options))
    name = latent_name(job_id, prepared.spec.request_hash)
    return Submission(prepared.spec.model_copy(update={"owner": owner}), f"redis:{name}", prepared.packed, HELD)


#: Whose the jobs are; the others' submits of the same ids are refused.
OWNERS: Final = {"a": ADMIN, "b": "ann", "c": "ann"}

#: Who is told of their ends.
WEBHOOKS: Final = {"c": "https://example.com/told"}

JOBS: Final = {job_id: submission(job_id, 0.0, OWNERS[job_id], webhook=WEBHOOKS.get(job_id)) for job_id in IDS}
OTHERS: Final = {job_id: submission(job_id, 1.0) for job_id in IDS}
FOREIGN: Final = [submission(job_id, content, "bob") for job_id in IDS for content in (0.0, 1.0)]


@dataclass
class World:
    """Every job, the queue, and who ever claimed what."""

    jobs: dict[str, Model] = field(default_factory=dict)
    queue: list[str] = field(default_factory=list)
    claims: dict[str, list[Claim]] = field(default_factory=lambda: {job_id: [] for job_id in IDS})
    told: int = 0
    #: Whether a bulk cancel may have left entries in the queue, which a new attempt of the same job takes over.
    has_stale_entries: bool = False
    #: Every change of status: job id, status, owner.
    events: list[tuple[str, str, str]] = field(default_factory=list)
    #: The last end of each job with a webhook.
    webhooks: dict[str, str] = field(default_factory=dict)

    def tell(self, job_id: str, status: str) -> None:
        """Note a change of status."""
        self.events.append((job_id, status, OWNERS[job_id]))

    def has_claims(self) -> bool:
        return any(self.claims.values())

    def has_held(self) -> bool:
        return any(model.claim is not None for model in self.jobs.values())

    def has_begun(self) -> bool:
        return any(model.begun for model in self.jobs.values())

    def has_ended(self) -> bool:
        return any(model.status in (ENDED | {"discarded"}) - {"finished"} for model in self.jobs.values())

    def has_queued(self) -> bool:
        return bool(self.queue)

    def one_claim(self, place: int) -> tuple[str, Claim, bool]:
        """A claim of some job, and whether the job is in its hands."""
        held = {one: model.claim for one, model in self.jobs.items() if model.claim is not None}
        past = [(one, claim, False) for one, claims in self.claims.items() for claim in reversed(claims)]
        known = [(one, claim, True) for one, claim in held.items()]
        known += [one for one in past if held.get(one[0]) != one[1]]
        return known[place % len(known)]

    def release(self, job_id: str, *, free: bool) -> None:
        """Put a job at the front of the queue."""
        model = self.jobs[job_id]
        if model.begun:
            self.tell(job_id, "queued")
        model.attempts -= model.begun and free
        model.status, model.claim, model.begun, model.is_over = "queued", None, False, False
        self.queue.insert(0, job_id)

    def end(self, job_id: str, status: str) -> None:
        model = self.jobs[job_id]
        model.status, model.claim, model.begun = status, None, False
        self.told += 1
        self.tell(job_id, status)
        if job_id in WEBHOOKS:
            self.webhooks[job_id] = status

"""Every Redis key and channel of vaefarm, and its life.

Redis keys (RQ's own, `rq:*`, are written by RQ's code in `rq_bridge` and by `lua/*.lua`, nowhere else):

| key                              | type   | holds                                      | life                        |
| -------------------------------- | ------ | ------------------------------------------ | --------------------------- |
| vaefarm:job:{id}                 | hash   | the record: spec, status, queue, times     | none until it has ended,    |
|                                  |        |                                            | then result or failure life |
| vaefarm:tombstone:{id}           | string | JSON: status, reason, request hash, owner  | as the record, plus 7 days; |
|                                  |        |                                            | of a discarded result 60 s  |
| vaefarm:latent:{id}.{hash}       | string | the latent's safetensors bytes             | until the job has ended;    |
|                                  |        |                                            | failed: the failure's life  |
| vaefarm:image:{id}.{token}.{n}   | string | the n-th picture's bytes                   | the result's                |
| vaefarm:lease:{id}               | string | the token of the worker that holds the job | claim to settle or return   |
| vaefarm:leases                   | zset   | id of each job in hand, by its lease's end | entries: claim to settle    |
| vaefarm:queues:{vae}:{priority}  | zset   | the non-empty queues of a VAE and priority,| entries: while non-empty    |
|                                  |        | by device seconds that their lane was served |                           |
| vaefarm:paused                   | set    | VAEs from whose queues nothing is claimed  | until resumed               |
| vaefarm:budget                   | hash   | bytes and jobs in the farm, its rate       | none                        |
| vaefarm:inflight                 | hash   | how many jobs of each owner but the admin  | fields: while not 0         |
|                                  |        | have not ended                             |                             |
| vaefarm:pushed                   | hash   | how many jobs each queue of ours was given | fields: while non-empty     |
|                                  |        | since it was last empty                    |                             |
| vaefarm:gaps:{queue}             | zset   | places of those taken off out of turn, the | while the queue is          |
|                                  |        | last 1000                                  | non-empty                   |
| vaefarm:pace                     | hash   | {vae}:{size}: mean device seconds of a job | none                        |
| vaefarm:webhooks                 | zset   | ids of ended jobs of whose end somebody is | entries: until delivered,   |
|                                  |        | to be told, by when that is due            | 3 days at most              |
| vaefarm:webhook:{id}             | hash   | url, owner, status, reason, ended_at,      | until delivered, 3 days at  |
|                                  |        | attempts, traceparent                      | most                        |
| vaefarm:previews                 | zset   | ids of previews that are not made yet, by  | entries: until made, or the |
|                                  |        | when their lives are over (`previews`)     | job has ended, or then      |
| vaefarm:repairing                | string | somebody repairs the budget                | 250 s                       |
| vaefarm:sweeping                 | string | somebody swept the bucket of late          | 900 s                       |
| vaefarm:kept                     | zset   | {id}:{bytes} of ended jobs, by their end   | entries: as their blobs     |
| vaefarm:ended                    | hash   | {vae}:{status}: how many jobs have ended so| none                        |
| vaefarm:lost                     | hash   | VAE: how many jobs' workers died, or fell  | none                        |
|                                  |        | silent                                     |                             |
| vaefarm:failures                 | zset   | ids of the jobs that failed last, by when  | entries: the last 100       |
| vaefarm:dependents               | set    | ended jobs that plain RQ jobs wait for     | entries: until queued       |
| vaefarm:events                   | stream | id, status, owner: every change of status  | entries: the last 50 000 or |
|                                  |        | that others can see (`events`)             | a few more                  |
| vaefarm:history                  | stream | how the farm stood every 15 s (`history`)  | an hour                     |
| vaefarm:sampling                 | string | a gateway has written the last of it       | 14 s                        |
| vaefarm:contract:{vae}           | string | JSON: the contract a worker serves         | 7 days after it last served |
| vaefarm:worker:{name}            | string | JSON: VAEs, device, since when             | 30 s, renewed by the worker |
| vaefarm:deaths                   | zset   | names of workers whose process died, by    | an hour, the last 20        |
|                                  |        | when                                       |                             |
| vaefarm:devices                  | hash   | who has which device (`device_locks`)      | entries: the worker's lease |
| vaefarm:secret                   | string | what gateways sign URLs and webhooks with  | none                        |
| vaefarm:rate:*                   | string | requests of a key (library `limits`)       | two spans of the key's rate |

| channel                 | message                | for                                  |
|-------------------------|------------------------|--------------------------------------|
| vaefarm:doorbell:{vae}  | a queue's name         | wakes idle workers                   |
| vaefarm:done:{id}       | the job's final status | wakes those who wait for the job     |
| vaefarm:wake:{uuid}     | nothing                | wakes a watcher's own thread         |

Fields of vaefarm:job:{id}: spec, status, queue, request_hash, latent (a blob reference), queued_at, started_at,
ended_at, attempts, worker, execution (RQ's), started_with (the token of the claim that began it), token (of the one
that settled it), reason, last_error, report (JSON), pixels, held and reserve (bytes of the budget, now and at the
submit), result_seconds, failure_seconds; shared (it is on the device with others), alone (it must not be again),
avoid (workers that handed it back, between commas); owner, unless that is the admin;
place (in its queue: `position` in `lua/lib.lua`); webhook (a URL); of a preview shown (bytes of what was made last).
"""

from typing import Final

PREFIX: Final[str] = "vaefarm:"

LEASES: Final[str] = f"{PREFIX}leases"
PAUSED: Final[str] = f"{PREFIX}paused"
BUDGET: Final[str] = f"{PREFIX}budget"
KEPT: Final[str] = f"{PREFIX}kept"
ENDED: Final[str] = f"{PREFIX}ended"
LOST: Final[str] = f"{PREFIX}lost"
FAILURES: Final[str] = f"{PREFIX}failures"
DEPENDENTS: Final[str] = f"{PREFIX}dependents"
SECRET: Final[str] = f"{PREFIX}secret"
RATE: Final[str] = f"{PREFIX}rate"
REPAIRING: Final[str] = f"{PREFIX}repairing"
SWEEPING: Final[str] = f"{PREFIX}sweeping"
EVENTS: Final[str] = f"{PREFIX}events"
DEATHS: Final[str] = f"{PREFIX}deaths"
HISTORY: Final[str] = f"{PREFIX}history"
SAMPLING: Final[str] = f"{PREFIX}sampling"
INFLIGHT: Final[str] = f"{PREFIX}inflight"
PUSHED: Final[str] = f"{PREFIX}pushed"
PACE: Final[str] = f"{PREFIX}pace"
PREVIEWS: Final[str] = f"{PREFIX}previews"
WEBHOOKS: Final[str] = f"{PREFIX}webhooks"

#: Seconds that a published contract outlives the last worker that served it: a week.
CONTRACT_SECONDS: Final[int] = 7 * 24 * 3600

#: Seconds after which a worker that says nothing is no longer listed.
WORKER_SECONDS: Final[int] = 30


def job(job_id: str) -> str:
    """The record."""
    return f"{PREFIX}job:{job_id}"


def tombstone(job_id: str) -> str:
    """What is left of a job past its life."""
    return f"{PREFIX}tombstone:{job_id}"


def lease(job_id: str) -> str:
    """The token of the worker that holds the job."""
    return f"{PREFIX}lease:{job_id}"


def blob(name: str) -> str:
    """A latent or a picture, by its blob name."""
    return f"{PREFIX}{name}"


def queue_index(vae: str, priority: str) -> str:
    """The non-empty queues of a VAE and priority."""
    return f"{PREFIX}queues:{vae}:{priority}"


def webhook(job_id: str) -> str:
    """A job's end of which somebody is to be told."""
    return f"{PREFIX}webhook:{job_id}"


def contract(vae: str) -> str:
    """The contract that a worker serves."""
    return f"{PREFIX}contract:{vae}"


def worker(name: str) -> str:
    """A worker's description of itself."""
    return f"{PREFIX}worker:{name}"


def doorbell(vae: str) -> str:
    """Channel that wakes the idle workers of a VAE."""
    return f"{PREFIX}doorbell:{vae}"


def done(job_id: str) -> str:
    """Channel on which a job's end is told."""
    return f"{PREFIX}done:{job_id}"


def wake(name: str) -> str:
    """Channel by which a watcher wakes its own thread."""
    return f"{PREFIX}wake:{name}"

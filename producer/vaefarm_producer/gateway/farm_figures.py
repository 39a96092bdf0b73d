"""The whole farm's figures, read from Redis when somebody asks for them: the same on each gateway, whoever did what.

What workers count comes from their descriptions, with a `worker` label; a worker that starts anew begins at nought, as
Prometheus expects of a process.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast, get_args

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vaefarm_shared import keys, pace, reading
from vaefarm_shared.endpoints import Circuit
from vaefarm_shared.errors import FarmError
from vaefarm_shared.figures import JOBS, SECONDS, read_counted
from vaefarm_shared.job import JobStatus
from vaefarm_shared.queues import parts_of
from vaefarm_shared.workers import WorkerEndpoint, read_workers, serves, worker_endpoints

from .backing import Backing

#: Jobs in hand that one round trip reads.
PAGE: Final[int] = 1000

#: A figure's labels and its value.
Sample = tuple[tuple[str, ...], float]


class FarmCollector(Collector):
    """Asks Redis at each scrape, some few round trips; without Redis it says just that."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing

    def collect(self) -> Iterable[Metric]:
        """Every figure of the farm; blocks."""
        try:
            found = self._backing.ask(lambda connection: list(farm_metrics(connection)))
        except FarmError:
            found = []
        yield gauge("vaefarm_redis_up", "Whether Redis answers this gateway.", (), [((), float(bool(found)))])
        yield from found


def farm_metrics(connection: redis.Redis) -> Iterator[Metric]:
    """What Redis and the workers that live know. Raises what redis-py raises."""
    jobs = count_in_hand(connection)
    by_queue: Counter[tuple[str, ...]] = Counter()
    queues = reading.read_queues(connection)
    for one in queues:
        vae, priority, size, _ = parts_of(one.name)
        jobs[JobStatus.QUEUED.value, vae] += one.queued
        if priority:
            by_queue[vae, priority, size] += one.queued
    yield gauge("vaefarm_jobs", "Jobs that have not ended.", ("state", "vae"), jobs.items())
    yield gauge("vaefarm_queue_jobs", "Entries of queues.", ("vae", "priority", "size"), by_queue.items())
    waiting = pace.backlog(((one.name, one.queued) for one in queues), pace.read_pace(connection))
    known = [((vae,), one.device_seconds) for vae, one in waiting.items() if one.device_seconds is not None]
    yield gauge("vaefarm_backlog_seconds", "Device seconds that a VAE's waiting jobs take.", ("vae",), known)
    ended = [(tuple(reversed(name.split(":", 1))), value) for name, value in read_hash(connection, keys.ENDED)]
    yield counter("vaefarm_jobs_ended", "Jobs that have ended.", ("state", "vae"), ended)
    lost = [((name,), value) for name, value in read_hash(connection, keys.LOST)]
    yield counter("vaefarm_leases_lost", "Jobs whose worker died or fell silent.", ("vae",), lost)
    held = dict(read_hash(connection, keys.BUDGET))
    yield gauge("vaefarm_budget_bytes", "Bytes of the budget in use.", (), [((), held.get("bytes", 0.0))])
    yield gauge("vaefarm_budget_jobs", "Jobs that the budget counts.", (), [((), held.get("jobs", 0.0))])
    workers = read_workers(connection)
    yield from worker_metrics(workers)
    yield from endpoint_metrics(worker_endpoints(workers))


def count_in_hand(connection: redis.Redis) -> Counter[tuple[str, ...]]:
    """Claimed jobs by status and VAE: those that wait for the device are queued still."""
    found: Counter[tuple[str, ...]] = Counter()
    leased = cast("list[bytes]", connection.zrange(keys.LEASES, 0, -1))
    for start in range(0, len(leased), PAGE):
        with connection.pipeline(transaction=False) as pipe:
            for job_id in leased[start : start + PAGE]:
                pipe.hmget(keys.job(job_id.decode("utf-8", "replace")), "status", "queue")
            replies = pipe.execute()
        for status, queue in replies:
            if status in (b"queued", b"started") and queue:
                found[status.decode(), parts_of(queue.decode("utf-8", "replace"))[0]] += 1
    return found


def read_hash(connection: redis.Redis, key: str) -> list[tuple[str, float]]:
    """A hash of numbers."""
    raw = cast("dict[bytes, bytes]", connection.hgetall(key))
    return sorted((name.decode("utf-8", "replace"), float(value)) for name, value in raw.items())


def worker_metrics(workers: list[dict[str, Any]]) -> Iterator[Metric]:
    """What workers say of themselves."""
    vaes = Counter((vae,) for one in workers for vae in serves(one))
    yield gauge("vaefarm_workers", "Workers that live, by the VAEs that they serve.", ("vae",), vaes.items())
    named = [(str(one["name"]), one) for one in workers]
    born = [((name, str(one.get("device", ""))), float(one.get("since", 0.0))) for name, one in named]
    yield gauge("vaefarm_worker_start_time_seconds", "When each worker began.", ("worker", "device"), born)
    busy = [((name,), float(one.get("busy_seconds", 0.0))) for name, one in named]
    yield counter("vaefarm_worker_busy_seconds", "Seconds for which a device has decoded.", ("worker",), busy)
    done = [((name, state), float(one.get(state, 0))) for name, one in named for state in ("finished", "failed")]
    yield counter("vaefarm_worker_jobs", "Jobs that a worker has ended.", ("worker", "state"), done)
    batches = HistogramMetricFamily("vaefarm_batch_jobs", "Jobs of each batch.", labels=("worker", "vae"))
    stages = HistogramMetricFamily(
        "vaefarm_job_stage_seconds",
        "Seconds of finished jobs: queued until the claim, decode as their share of the device, encode, store.",
        labels=("worker", "vae", "stage"),
    )
    for name, one in named:
        counted = read_counted(one)
        for vae, sizes in counted.batches.items():
            batches.add_metric((name, vae), sizes.buckets(JOBS), sizes.sum)
        for vae, seconds in counted.seconds.items():
            for stage, spent in seconds.items():
                stages.add_metric((name, vae, stage), spent.buckets(SECONDS), spent.sum)
    yield batches
    yield stages


def endpoint_metrics(endpoints: list[WorkerEndpoint]) -> Iterator[Metric]:
    """What workers say of the endpoints that they ask."""
    # A series that is there twice would spoil the scrape: of a worker's endpoints of one name the last is shown.
    named = {(one.worker, one.vae, one.name): one for one in endpoints}
    labels = ("worker", "vae", "endpoint")
    states = [((*key, state), float(state == one.state)) for key, one in named.items() for state in get_args(Circuit)]
    yield gauge("vaefarm_endpoint_state", "1 for the state of an endpoint's circuit.", (*labels, "state"), states)
    busy = [(key, one.in_flight) for key, one in named.items()]
    yield gauge("vaefarm_endpoint_in_flight", "Requests that an endpoint has not answered.", labels, busy)
    most = [(key, one.concurrency) for key, one in named.items()]
    yield gauge("vaefarm_endpoint_concurrency", "Requests that an endpoint is asked at a time.", labels, most)
    done = [
        ((*key, outcome), count)
        for key, one in named.items()
        for outcome, count in (("succeeded", one.succeeded), ("failed", one.failed))
    ]
    yield counter("vaefarm_endpoint_requests", "Requests that an endpoint ended.", (*labels, "outcome"), done)
    took = [
        ((*key, quantile), value)
        for key, one in named.items()
        for quantile, value in (("0.5", one.latency_p50_seconds), ("0.95", one.latency_p95_seconds))
        if value is not None
    ]
    says = "Quantiles of an endpoint's last hundred pictures."
    yield gauge("vaefarm_endpoint_latency_seconds", says, (*labels, "quantile"), took)
    wrong = [(key, one.error_rate) for key, one in named.items()]
    yield gauge("vaefarm_endpoint_error_ratio", "Failed of an endpoint's last hundred requests.", labels, wrong)


def gauge(name: str, says: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    """A gauge."""
    return filled(GaugeMetricFamily(name, says, labels=labels), samples)


def counter(name: str, says: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    """A counter; `_total` is added to its name."""
    return filled(CounterMetricFamily(name, says, labels=labels), samples)


def filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[Sample]) -> Metric:
    """A family with its samples."""
    for labels, value in samples:
        family.add_metric(labels, value)
    return family

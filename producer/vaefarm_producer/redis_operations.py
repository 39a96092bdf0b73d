"""What an operator asks of a farm over Redis, and the patience that all of the transport has with it."""

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import redis
from rq.utils import as_text
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from vaefarm_shared import failures, pauses, quarantine, reading, rq_bridge
from vaefarm_shared.connection import REPLY_SECONDS, connect, farm_errors
from vaefarm_shared.errors import FarmUnavailable
from vaefarm_shared.failures import FailedJob
from vaefarm_shared.overview import Overview
from vaefarm_shared.overview_reading import SHOWN, read_overview
from vaefarm_shared.quarantine import Device
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import WorkerEndpoint, read_workers, worker_endpoints

T = TypeVar("T")

#: Jobs that one round trip reads: ids of those that wait, or how some stand.
PAGE: Final[int] = 1000


class RedisOperations:
    """Queues, workers, pauses, failures and devices of a farm, over a Redis connection."""

    def __init__(self, settings: Settings, reply_seconds: float = REPLY_SECONDS) -> None:
        """`reply_seconds`: after how long without a reply Redis counts as away. Raises ConfigurationError for a URL
        that is none."""
        self._settings = settings
        self._connection: redis.Redis = connect(settings.redis_url.get_secret_value(), reply_seconds)

    def _insist(self, call: Callable[[], T], seconds: float | None = None) -> T:
        """Repeat a call that may be repeated until Redis answers, for `submit_timeout` or so many seconds."""
        # Most calls succeed at once, and a submit is too short for the machinery of repeating it.
        try:
            with farm_errors(self._connection):
                return call()
        except FarmUnavailable as error:
            if not error.retryable:
                raise
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, FarmUnavailable) and error.retryable),
            stop=stop_after_delay(self._settings.submit_timeout if seconds is None else seconds),
            wait=wait_random_exponential(multiplier=0.05, max=2.0),
            reraise=True,
        )
        for attempt in retrying:
            with attempt, farm_errors(self._connection):
                return call()
        raise AssertionError("tenacity raises the last error")

    def overview(self, most_failures: int = SHOWN) -> Overview:
        """How the farm stands now, with so many of the newest hundred failures."""
        settings = self._settings
        with farm_errors(self._connection):
            return read_overview(
                self._connection, settings.budget_bytes, settings.max_queued_jobs, most_failures=most_failures
            )

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue."""
        with farm_errors(self._connection):
            return reading.read_queues(self._connection)

    def queued(self, vae: str) -> Iterator[str]:
        """The ids of a VAE's waiting jobs, the newest first, some perhaps twice."""
        with farm_errors(self._connection):
            names = [queue.name for queue in reading.read_queues(self._connection)]
            for name in (name for name in names if failures.vae_of(name) == vae):
                key, last = rq_bridge.queue_key(name), -1
                # From the end: what workers take from the front meanwhile moves no place that is counted from there.
                while page := self._connection.lrange(key, last - PAGE + 1, last):
                    yield from (as_text(job_id) for job_id in reversed(page))
                    last -= PAGE

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself."""
        with farm_errors(self._connection):
            return read_workers(self._connection)

    def endpoints(self) -> list[WorkerEndpoint]:
        """The remote endpoints that living workers ask."""
        return worker_endpoints(self.workers())

    def pause(self, vae: str) -> bool:
        """Let no worker claim a VAE's jobs."""
        return self._insist(lambda: pauses.pause(self._connection, vae))

    def resume(self, vae: str) -> bool:
        """Let workers claim a VAE's jobs again."""
        return self._insist(lambda: pauses.resume(self._connection, vae))

    def paused(self) -> list[str]:
        """The paused VAEs."""
        with farm_errors(self._connection):
            return pauses.read_paused(self._connection)

    def failed(self, vae: str | None = None) -> Iterator[FailedJob]:
        """The failed jobs of a VAE, or of all."""
        with farm_errors(self._connection):
            yield from failures.read_failed(self._connection, vae)

    def retry(self, job_id: str) -> bool:
        """Put a failed job back on its queue."""
        return self._insist(lambda: failures.retry(self._connection, job_id))

    def quarantined(self) -> list[Device]:
        """The quarantined devices."""
        with farm_errors(self._connection):
            return quarantine.read_quarantined(self._connection)

    def devices(self) -> list[Device]:
        """The devices that workers have, that failed of late or are quarantined."""
        with farm_errors(self._connection):
            return quarantine.read_devices(self._connection)

    def release(self, device_id: str) -> bool:
        """Let a quarantined device be used again."""
        return self._insist(lambda: quarantine.release(self._connection, device_id))

    def ping(self) -> None:
        """Return if Redis answers now."""
        with farm_errors(self._connection):
            self._connection.ping()

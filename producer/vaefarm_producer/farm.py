"""`Farm`: submit latents, get jobs, wait for pictures."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import Any, Unpack

from vaefarm_shared.errors import InvalidInput, InvalidOption, WaitTimeout
from vaefarm_shared.job import JobStatus, check_job_id
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.settings import Settings

from .handle import Job
from .redis_transport import RedisTransport
from .submission import PreparedJob, SubmitOptions, prepare
from .transport import Transport


class Farm(AbstractContextManager["Farm"]):
    """A farm of VAE workers, reached over Redis. Safe to share between threads; usable after a fork.

    farm = Farm("redis://localhost:6379")
    job = farm.submit(latents, vae="sdxl")
    image = job.image(timeout=60)
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        """Connect lazily: nothing is sent before the first call.

        Args:
            url: Where the queue is; `settings` or the default (redis://localhost:6379/0) otherwise.
            settings: Everything else; the defaults otherwise. The environment is read by `from_env` only.

        Raises:
            ConfigurationError: the URL, the blob store or the catalogue is not what it should be.
        """
        chosen = settings if settings is not None else Settings.model_construct()
        if url is not None:
            chosen = chosen.with_redis(url)
        self._transport: Transport = RedisTransport(chosen)

    @classmethod
    def from_env(cls) -> "Farm":
        """A farm as the `VAEFARM_*` variables say. Raises ConfigurationError."""
        return cls(settings=Settings.from_env())

    def submit(self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[SubmitOptions]) -> Job:
        """Queue latents for decoding, as a diffusers pipeline returns them with `output_type="latent"`.

        Args:
            latents: A torch tensor (any device) or NumPy array of float16, bfloat16 or float32:
                (n, channels, height/scale, width/scale), or packed, (n, tokens, features), with height and width.
            vae: A VAE id of the catalogue, such as 'sdxl'.
            job_id: An id of your own. The same id with the same latents and options is one job, however often it
                is submitted; a failed, canceled or expired one starts anew.
            options: See SubmitOptions.

        Returns:
            The job, acknowledged: from here on it is not lost.

        Raises:
            InvalidLatents, InvalidJobId, InvalidOption, UnknownVae: nothing was queued.
            JobConflict: the id was used for other content.
            FarmUnavailable, QueueFull: the farm takes it not now.
        """
        return self.submit_prepared([self.prepare(latents, vae=vae, job_id=job_id, **options)])[0]

    def submit_many(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        job_ids: Sequence[str] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> list[Job]:
        """Queue each of several latents as a job of its own, in few round trips.

        All are checked before any is queued. Raises as `submit`; the message of a refusal names its place.
        """
        tensors = list(latents)
        if job_ids is not None and len(job_ids) != len(tensors):
            raise InvalidOption(f"{len(job_ids)} job ids were given for {len(tensors)} latents; expected one each")
        if job_ids is not None and len(set(job_ids)) != len(job_ids):
            raise InvalidOption("a job id was given twice; expected a different one for each of the latents")
        prepared: list[PreparedJob] = []
        for place, tensor in enumerate(tensors):
            try:
                prepared.append(self.prepare(tensor, vae=vae, job_id=job_ids[place] if job_ids else None, **options))
            except InvalidInput as error:
                raise type(error)(f"latents {place}: {error}") from error
        return self.submit_prepared(prepared)

    def prepare(
        self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[SubmitOptions]
    ) -> PreparedJob:
        """Check and pack latents without queueing them. Takes and raises what `submit` does."""
        return prepare(latents, vae, self._transport.contract(vae), job_id, options)

    def submit_prepared(self, prepared: Sequence[PreparedJob]) -> list[Job]:
        """Queue what `prepare` made, in few round trips. Raises JobConflict, FarmUnavailable, QueueFull."""
        self._transport.submit(prepared)
        return [Job(one.spec.id, self._transport) for one in prepared]

    def job(self, job_id: str) -> Job:
        """A job by its id, from any process. Raises InvalidJobId; whether it exists shows when it is asked."""
        return Job(check_job_id(job_id), self._transport)

    def as_completed(
        self, jobs: Iterable[Job], *, timeout: float | None = None, discard: bool = False
    ) -> Iterator[Job]:
        """Give jobs back as they end, whatever their end; those that ended together in the order given.

        Args:
            timeout: Seconds for all of them.
            discard: Remove each job's pictures and record from the farm once the loop asks for the next.

        Raises:
            WaitTimeout: `timeout` is over; says how many have not ended.
            JobNotFound: one of them is not known.
        """
        end = None if timeout is None else monotonic() + timeout
        waiting: dict[Future[JobStatus], Job] = {job.ended(): job for job in jobs}
        try:
            while waiting:
                left = None if end is None else max(0.0, end - monotonic())
                done, _ = wait(waiting, left, return_when=FIRST_COMPLETED)
                if not done:
                    raise WaitTimeout(f"{len(waiting)} jobs have not ended within {timeout} seconds; they live on")
                for future in [future for future in waiting if future in done]:
                    job = waiting.pop(future)
                    future.result()
                    yield job
                    if discard:
                        job.discard()
        finally:
            for future in waiting:
                future.cancel()

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue."""
        return self._transport.queues()

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself: name, VAEs, device, since when."""
        return self._transport.workers()

    def ping(self) -> None:
        """Return if the farm is reachable now, without waiting for it. Raises FarmUnavailable."""
        self._transport.ping()

    def close(self) -> None:
        """Close connections and threads; jobs live on."""
        self._transport.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

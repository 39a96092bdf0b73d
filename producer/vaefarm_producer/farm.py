"""`Farm`: submit latents, get jobs, wait for pictures."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Unpack

from vaefarm_shared import tracing
from vaefarm_shared.job import JobStatus
from vaefarm_shared.job_ids import check_job_id
from vaefarm_shared.settings import Settings

from .attaching import Attaching
from .backpressure import Patience
from .bulk import Bulk
from .completing import completed
from .encoding import EncodeOptions, prepare_encode
from .handle import Job
from .opening import open_transport
from .operating import Operating
from .previews import check_many_with_previews, prepare_with_preview
from .sending import submit_all
from .submission import DecodeOptions, PreparedJob, SubmitOptions, prepare
from .transport import Flushed, Transport


class Farm(Attaching, Operating, Bulk, AbstractContextManager["Farm"]):
    """A farm of VAE workers, reached over Redis or a gateway. Safe to share between threads; usable after a fork:

        farm = Farm("redis://localhost:6379")        # or Farm("https://farm.example", key=...)
        job = farm.submit(latents, vae="sdxl")
        image = job.image(timeout=60)

    For asyncio there is `AsyncFarm`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        spool: str | PathLike[str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Connect lazily: nothing is sent before the first call, but what an earlier process left in the spool.

        Args:
            url: Where the queue is, or a gateway (https://HOST); `settings` or the default (redis://localhost:6379/0)
                otherwise.
            key: The gateway's key, unless the address holds it (https://vaefarm:KEY@HOST).
            spool: A folder of this machine's disk, one for each farm. While Redis is away `submit` writes jobs into
                it, and they are sent in the background, by this process or by a later one with that spool.
            settings: Everything else; the defaults otherwise. The environment is read by `from_env` only.

        Raises:
            ConfigurationError: the URL, the blob store, the catalogue or the spool is not what it should be.
        """
        chosen = settings if settings is not None else Settings.model_construct()
        if url is not None:
            chosen = chosen.at(url, key)
        folder = chosen.spool if spool is None else fspath(spool)
        self._patience_seconds = chosen.submit_timeout
        self._transport: Transport = open_transport(chosen, folder)

    @classmethod
    def from_env(cls) -> "Farm":
        """A farm as the `VAEFARM_*` variables say. Raises ConfigurationError."""
        return cls(settings=Settings.from_env())

    def submit(
        self,
        latents: Any,
        *,
        vae: str,
        job_id: str | None = None,
        block: bool = False,
        timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Job:
        """Queue latents for decoding, as a diffusers pipeline returns them with `output_type="latent"`.

        Args:
            latents: A torch tensor (any device) or NumPy array of float16, bfloat16 or float32:
                (n, channels, height/scale, width/scale), or packed, (n, tokens, features), with height and width.
            vae: A VAE id of the catalogue, such as 'sdxl'.
            job_id: An id of your own. The same id with the same latents and options is one job, however often it
                is submitted; a failed, canceled or expired one starts anew.
            block: Wait while the farm is full, or over HTTP the key's quota of unended jobs is used up.
            timeout: Seconds for which `block` waits; without limit unless given.
            options: See SubmitOptions.

        Returns:
            The job, acknowledged; from here on it is not lost.

        Raises:
            InvalidLatents, InvalidJobId, InvalidOption, UnknownVae: nothing was queued.
            JobConflict: the id was used for other content.
            FarmUnavailable, QueueFull, QuotaExceeded: the farm takes it not now.
            ConfigurationError: Redis evicts what it was given, or is too old.
        """
        with tracing.span("vaefarm submit", "producer", vaefarm__vae=vae):
            prepared = self.prepare(latents, vae=vae, job_id=job_id, **options)
            return self.submit_prepared([prepared], block=block, timeout=timeout)[0]

    def submit_many(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        job_ids: Sequence[str] | None = None,
        block: bool = False,
        timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> list[Job]:
        """Queue each of several latents as a job of its own, in few round trips.

        All are checked before any is queued. Raises as `submit`; the message of a refusal names its place. When the
        farm is full those before the first that it refused are queued, and with `block` the rest follows.
        """
        with tracing.span("vaefarm submit", "producer", vaefarm__vae=vae):
            checked = check_many_with_previews(latents, vae, self._transport.contract, job_ids, options)
            # Each is packed for its own round trip, while the one before it goes: memory holds two of them, and workers
            # have what is there meanwhile.
            return self.submit_prepared((pack() for pack in checked), block=block, timeout=timeout)

    def encode(
        self,
        image: Any,
        *,
        vae: str,
        job_id: str | None = None,
        block: bool = False,
        timeout: float | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Job:
        """Queue an image for encoding, as an img2img pipeline does it first: `job.latents()` gives what it then holds.

        Args:
            image: The bytes of a PNG, JPEG or WebP; a PIL image; uint8 pixels (height, width, 3) or (n, height, width,
                3); or a float tensor (n, 3, height, width) in [-1, 1]. Nothing is resized: height and width must be
                multiples of the VAE's scale, of twice that where its latents are packed.
            job_id, block, timeout: As `submit`.
            options: See EncodeOptions.

        Raises:
            InvalidPicture: the image; nothing was queued. Else as `submit`.
        """
        with tracing.span("vaefarm submit", "producer", vaefarm__vae=vae):
            prepared = self.prepare_encode(image, vae=vae, job_id=job_id, **options)
            return self.submit_prepared([prepared], block=block, timeout=timeout)[0]

    def prepare_encode(
        self, image: Any, *, vae: str, job_id: str | None = None, **options: Unpack[EncodeOptions]
    ) -> PreparedJob:
        """Check an image without queueing it. Takes and raises what `encode` does."""
        return prepare_encode(image, vae, self._transport.contract(vae), job_id, options)

    def prepare(
        self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[SubmitOptions]
    ) -> PreparedJob:
        """Check and pack latents without queueing them. Takes and raises what `submit` does."""
        return prepare_with_preview(latents, vae, self._transport.contract, job_id, options)

    def prepare_many(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        job_ids: Sequence[str] | None = None,
        **options: Unpack[SubmitOptions],
    ) -> list[PreparedJob]:
        """Check and pack each of several latents without queueing them. Takes and raises what `submit_many` does."""
        checked = check_many_with_previews(latents, vae, self._transport.contract, job_ids, options)
        return [pack() for pack in checked]

    def submit_prepared(
        self, prepared: Iterable[PreparedJob], *, block: bool = False, timeout: float | None = None
    ) -> list[Job]:
        """Queue what `prepare` made, in few round trips.

        Raises JobConflict, FarmUnavailable, QueueFull, ConfigurationError as `submit`.
        """
        patience = Patience(block, timeout)
        return [Job(one, self._transport) for one in submit_all(self._transport, prepared, patience)]

    def put_latent(
        self, latents: Any, *, vae: str, job_id: str | None = None, **options: Unpack[DecodeOptions]
    ) -> dict[str, Any]:
        """Store latents for a plain RQ job, which must be enqueued within a day.

        Takes and raises what `submit` does. Returns the one argument of that job, which the id belongs to as well:

            argument = farm.put_latent(latents, vae="sdxl")
            queue = rq.Queue("vaefarm.sdxl", connection=connection, serializer=JSONSerializer)
            queue.enqueue("vaefarm_worker.tasks.decode", argument, job_id=argument["id"])
        """
        job = prepare(latents, vae, self._transport.contract(vae), job_id, options)
        spec: dict[str, Any] = json.loads(job.spec.to_json())
        return spec | {"latent": self._transport.put_latent(job)}

    def job(self, job_id: str) -> Job:
        """A job by its id, from any process. Raises InvalidJobId; whether it exists shows when it is asked."""
        return Job(check_job_id(job_id), self._transport)

    def queued(self, vae: str) -> Iterator[Job]:
        """The jobs of a VAE that wait, some perhaps twice."""
        return (Job(job_id, self._transport) for job_id in self._transport.queued(vae))

    def cancel_many(self, jobs: Iterable[Job]) -> list[JobStatus | None]:
        """End those jobs that have not ended, in few round trips; how each stands now, None for an unknown one."""
        return self._transport.cancel_many([job.id for job in jobs])

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
        return completed(self._transport, list(jobs), timeout, discard)

    def spooled(self) -> int:
        """How many jobs are in the spool, of this process and of others; 0 without a spool."""
        return self._transport.spooled()

    def flush(self, timeout: float | None = None) -> Flushed:
        """Return once the jobs that are in the spool now have left it; what this farm did with spooled jobs so far.

        Raises:
            WaitTimeout: some have not after `timeout` seconds; they stay there until they are sent.
        """
        return self._transport.flush(timeout)

    def close(self) -> None:
        """Close connections and threads; jobs live on."""
        self._transport.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

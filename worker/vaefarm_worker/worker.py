"""The worker's loop: claim, load, decode, encode, store, settle, one job after another."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from threading import Event
from typing import Final, TypeVar

import numpy as np
import redis

from vaefarm_shared import checks, keys, latents, leases, rq_bridge, transitions
from vaefarm_shared.blobs import BlobStore, image_name
from vaefarm_shared.connection import AWAY, connect
from vaefarm_shared.errors import DecodeError, FarmError, LeaseLost, NonFiniteImage, RefusedJob
from vaefarm_shared.fence import Claim, text
from vaefarm_shared.job import DecodeReport, ImageRecord, JobSpec, JobStatus
from vaefarm_shared.queues import PRIORITIES
from vaefarm_shared.settings import Settings

from .decoder import Batch, BatchItem, Decoded, Decoder
from .doorbell import Doorbell
from .encode import encoded_files
from .keeper import Keeper
from .registration import Registration

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that an idle worker waits for a ring before it looks by itself.
LOOK_SECONDS: Final[float] = 1.0

#: Seconds between tries while Redis is away or full: from the first to the longest.
FIRST_WAIT_SECONDS: Final[float] = 0.1
LONGEST_WAIT_SECONDS: Final[float] = 5.0

#: Seconds for which a stopping worker still tries to store what it has decoded.
STOP_GRACE_SECONDS: Final[float] = 30.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A claimed job, read and checked."""

    item: BatchItem
    queued_at: float
    latent_reference: str


class Abandoned(FarmError):
    """A stopping worker gave up on a store that is away: no fault of the job's, which is left to its lease."""


class Worker:
    """One process, one device, its VAEs loaded; `run` serves until `stop`."""

    def __init__(self, settings: Settings, decoder: Decoder, name: str) -> None:
        url = settings.redis_url.get_secret_value()
        self._settings = settings
        self._decoder = decoder
        self.name = name
        self._connection = connect(url)
        self._blobs = BlobStore(self._connection, settings.blobs, settings.blob_threshold)
        self._registration = Registration(connect(url), name, decoder)
        self._doorbell = Doorbell(self._connection, decoder.vaes)
        self._indexes = [keys.queue_index(vae, priority) for priority in PRIORITIES for vae in decoder.vaes]
        self._keeper = Keeper(
            connect(url),
            self._blobs,
            settings.lease_seconds,
            settings.max_attempts,
            self._registration.heartbeat,
        )
        self._stopping = Event()
        self._stop_by = float("inf")

    def stop(self) -> None:
        """Finish what is in hand, then leave `run`."""
        self._stop_by = time.monotonic() + STOP_GRACE_SECONDS
        self._stopping.set()

    def run(self, burst: bool = False) -> None:
        """Serve until `stop`; with `burst`, until no job waits."""
        self._insist(self._registration.birth)
        self._keeper.start()
        logger.info("worker %s serves %s on %s", self.name, ", ".join(self._decoder.vaes), self._decoder.device)
        try:
            while not self._stopping.is_set():
                claim = self._claim()
                if claim is not None:
                    self.process(claim)
                elif burst:
                    break
                else:
                    self._doorbell.wait(LOOK_SECONDS)
        finally:
            self._keeper.stop()
            self._doorbell.close()
            self._leave()

    def process(self, claim: Claim) -> None:
        """Bring one claimed job to its end."""
        with self._keeper.holding(claim):
            try:
                self._decode_and_settle(claim)
            except LeaseLost as error:
                logger.warning("%s: what was done for it is dropped", error)
            except Abandoned as error:
                logger.warning("job %s is left to its lease: %s", claim.job_id, error)
            except Exception:
                # Nothing that one job does may end the worker; the job comes back when its lease ends.
                logger.exception("job %s is left to its lease", claim.job_id)

    def _claim(self) -> Claim | None:
        vaes = list(self._decoder.vaes)
        try:
            claims = leases.claim(self._connection, self._indexes, vaes, 1, self._settings.lease_seconds)
        except AWAY as error:
            # What a lost reply claimed comes back when its lease ends.
            logger.warning("Redis is away: %s", error)
            self._stopping.wait(LOOK_SECONDS)
            return None
        return claims[0] if claims else None

    def _decode_and_settle(self, claim: Claim) -> None:
        attempt = 0
        try:
            loaded = self._insist(partial(self._load, claim))
            spec, seconds_queued = loaded.item.spec, max(0.0, claim.claimed_at - loaded.queued_at)
            if spec.deadline_seconds is not None and seconds_queued > spec.deadline_seconds:
                reason = f"its deadline of {spec.deadline_seconds} seconds passed before its decode"
                self._settle(claim, JobStatus.EXPIRED, reason=reason)
                self._blobs.delete_file(loaded.latent_reference)
                return
            attempt = self._insist(partial(transitions.begin, self._connection, claim, self.name))
            began = time.monotonic()
            decoded = self._decoder.decode(Batch((loaded.item,)))[0]
            decoded_at = time.monotonic()
            files = encoded_files(decoded, spec)
            seconds = (seconds_queued, decoded_at - began, time.monotonic() - decoded_at)
        except (LeaseLost, Abandoned):
            raise
        except Exception as error:
            self._fail_or_retry(claim, error, attempt)
            return
        self._store_and_finish(claim, loaded, files, self._report(spec, decoded, attempt, seconds))

    def _load(self, claim: Claim) -> Loaded:
        """Read a claimed job: its RQ hash is compared, its spec validated, its sizes bounded, its latent read."""
        with self._connection.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.job(claim.job_id))
            rq_bridge.read_hash(pipe, claim.job_id)
            raw, data_bytes, meta_bytes, data, hooks = pipe.execute()
        fields = text(raw)
        refusal = rq_bridge.refusal(claim.job_id, data_bytes, meta_bytes, data, hooks)
        if refusal is not None:
            raise RefusedJob(f"the job is refused: {refusal}")
        for name in ("spec", "latent", "queued_at"):
            if name not in fields:
                raise RefusedJob(f"the job is refused: its record has no {name}; submit it with vaefarm")
        spec = JobSpec.from_json(fields["spec"])
        if spec.id != claim.job_id or spec.vae not in self._decoder.vaes:
            raise RefusedJob(f"the job is refused: its spec is of job {spec.id!r} and VAE {spec.vae!r}")
        item = BatchItem(spec, self._read_latents(spec, fields["latent"]))
        return Loaded(item, float(fields["queued_at"]), fields["latent"])

    def _read_latents(self, spec: JobSpec, reference: str) -> latents.Latents:
        contract = self._decoder.vaes[spec.vae].contract
        packed = spec.layout == "packed"
        pictures = checks.check_shape(
            spec.vae, contract, spec.shape, spec.height if packed else None, spec.width if packed else None
        )
        if pictures != checks.Pictures(spec.layout, spec.count, spec.height, spec.width):
            raise RefusedJob(f"the job is refused: its spec says {spec.height} x {spec.width}, its shape {spec.shape}")
        itemsize = np.dtype(latents.STORAGE[spec.dtype]).itemsize
        checks.check_bytes(spec.shape, itemsize)
        data = self._blobs.get(reference, prod(spec.shape) * itemsize + latents.MAX_HEADER_BYTES)
        if data is None:
            raise FarmError(f"its latent {reference} is gone; submit the job again")
        held = latents.unpack(data)
        if (held.shape, held.dtype) != (spec.shape, spec.dtype):
            raise RefusedJob(f"the job is refused: its latent is {held.dtype} {held.shape}, its spec says otherwise")
        return held

    def _report(
        self, spec: JobSpec, decoded: Decoded, attempt: int, seconds: tuple[float, float, float]
    ) -> DecodeReport:
        seconds_queued, seconds_decode, seconds_encode = (round(value, 6) for value in seconds)
        return DecodeReport(
            vae=spec.vae,
            revision=self._decoder.vaes[spec.vae].revision,
            dtype=decoded.dtype,
            device=self._decoder.device,
            worker=self.name,
            attempt=attempt,
            seconds_queued=seconds_queued,
            seconds_decode=seconds_decode,
            seconds_encode=seconds_encode,
            reproducible=spec.reproducible,
            widened_from=decoded.widened_from,
            switches=decoded.switches,
        )

    def _store_and_finish(self, claim: Claim, loaded: Loaded, files: list[bytes], report: DecodeReport) -> None:
        """Write the pictures under the lease's token, then the record that names them."""
        spec = loaded.item.spec
        images: list[ImageRecord] = []
        try:
            for index, data in enumerate(files):
                name = image_name(claim.job_id, claim.token, index)
                reference = self._insist(partial(self._blobs.put, name, data, spec.result_seconds))
                images.append(
                    ImageRecord(
                        blob=reference,
                        image_format=spec.image_format,
                        size_bytes=len(data),
                        width=spec.width,
                        height=spec.height,
                    )
                )
            finished = report.model_copy(update={"images": tuple(images)})
            self._settle(claim, JobStatus.FINISHED, report=finished)
        except LeaseLost:
            for image in images:
                self._blobs.delete(image.blob)
            raise
        self._blobs.delete_file(loaded.latent_reference)
        logger.info(
            "job %s finished: %d x %s %dx%d, decode %.3f s, encode %.3f s",
            *(claim.job_id, spec.count, spec.vae, spec.width, spec.height),
            *(report.seconds_decode, report.seconds_encode),
        )

    def _fail_or_retry(self, claim: Claim, error: Exception, attempt: int) -> None:
        """A job that can never be decoded fails now; another is tried again, `max_attempts` times in all.

        What went wrong before the decode began (`attempt` 0) goes wrong each time: the store being away raises
        Abandoned instead.
        """
        reason = str(error) if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
        may_pass = isinstance(error, DecodeError) or not isinstance(error, FarmError)
        hopeless = attempt == 0 or not may_pass or isinstance(error, NonFiniteImage)
        if not isinstance(error, FarmError):
            logger.error("job %s: an error of no kind of ours", claim.job_id, exc_info=error)
        if hopeless or attempt >= self._settings.max_attempts:
            self._settle(claim, JobStatus.FAILED, reason=reason)
            logger.warning("job %s failed: %s", claim.job_id, reason)
        else:
            self._insist(partial(transitions.give_back, self._connection, claim, self.name))
            logger.warning("job %s goes back to %s: %s", claim.job_id, claim.queue, reason)

    def _settle(
        self,
        claim: Claim,
        status: JobStatus,
        *,
        report: DecodeReport | None = None,
        reason: str | None = None,
    ) -> None:
        settle = partial(transitions.settle, self._connection, claim, status, worker_name=self.name)
        self._insist(partial(settle, report=report, reason=reason))
        if status is JobStatus.FINISHED:
            self._registration.finished += 1
        elif status is JobStatus.FAILED:
            self._registration.failed += 1

    def _insist(self, call: Callable[[], T]) -> T:
        """Repeat a call that may be repeated while Redis or the disk is away or full.

        A stopping worker gives up after its grace: its jobs come back when their leases end.
        """
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                return call()
            except (*AWAY, redis.OutOfMemoryError, OSError) as error:
                if time.monotonic() > self._stop_by:
                    raise Abandoned(f"the store is away or full: {error}") from error
                logger.warning("the store is away or full, once more in %.1f s: %s", wait, error)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _leave(self) -> None:
        try:
            self._registration.death()
        except AWAY as error:
            logger.warning("worker %s could not say goodbye: %s", self.name, error)

"""The intake: a thread that claims jobs, loads their latents, and lets them wait for the device."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import redis

from vaefarm_shared import leases, tracing, transitions
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.budget import held_bytes
from vaefarm_shared.connection import is_away
from vaefarm_shared.errors import (
    ConfigurationError,
    EncodesNothing,
    EndpointRefused,
    RefusedJob,
    StoreAway,
    UnsupportedVersion,
    WorkerLacks,
)
from vaefarm_shared.leases import Claim, ClaimedJob, Wanted
from vaefarm_shared.queues import parts_of
from vaefarm_shared.submissions import Submission

from .claiming import FIRST_JOBS, ClaimOrder
from .doorbell import Doorbell
from .elsewhere import another_holds
from .endings import Done
from .loading import Loaded, Plain, Unloadable, load
from .outbox import Outbox
from .patience import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS
from .pool import Pool
from .registration import Registration, held_sizes
from .sharing import Side
from .station import Station

if TYPE_CHECKING:
    from .remote.remote_decoder import RemoteDecoder

logger = logging.getLogger(__name__)

#: Bytes of latents that come with an idle worker's claim: those of two SDXL pictures of 1024 pixels in float16.
IDLE_LATENT_BYTES: Final[int] = 272 * 1024

#: Seconds that an idle intake waits for a ring before it looks by itself.
LOOK_SECONDS: Final[float] = 1.0

#: The same where there was no room for some VAE's jobs, which ring no more.
PARTIAL_LOOK_SECONDS: Final[float] = 0.1


class Intake:
    """Claims as much as the pool has room for, as soon as there is any."""

    def __init__(
        self,
        station: Station,
        registration: Registration,
        pool: Pool,
        outbox: Outbox,
        connection: redis.Redis,
        blobs: BlobStore,
    ) -> None:
        self._station = station
        self._registration = registration
        self._pool = pool
        self._outbox = outbox
        self._connection = connection
        self._blobs = blobs
        # Three: each counts its claims, of which every tenth begins with the lowest priority.
        self._order, self._cold_order, self._forward_order = (ClaimOrder(list(station.decoder.vaes)) for _ in range(3))
        self._doorbell = Doorbell(connection, station.decoder.vaes)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vaefarm-intake", daemon=True)
        self._nothing_since: int | None = None
        self._skipped = False
        self._store_away = False
        self._rest_seconds = 0.0

    @property
    def found_nothing(self) -> bool:
        """Whether the last claim found nothing anywhere, and no job went back to its queue since."""
        return self._nothing_since == self._outbox.returned

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Claim no more; return when the claim under way has ended."""
        self._stopping.set()
        self._doorbell.wake()
        self._thread.join()
        self._doorbell.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._pool.has_room():
                    self._pool.wait_for_room(LOOK_SECONDS)
                elif not self.claim_once():
                    self._doorbell.wait(PARTIAL_LOOK_SECONDS if self._skipped else LOOK_SECONDS)
                else:
                    self._rest()
            except Exception as error:
                if is_away(error):
                    # What a lost reply claimed comes back when its lease ends.
                    logger.warning("Redis is away: %s", error)
                else:
                    logger.exception("a claim failed")
                self._stopping.wait(LOOK_SECONDS)

    def _rest(self) -> None:
        """Claim more and more rarely while the store of latents is away: what was claimed has gone back each time."""
        if self._store_away:
            self._rest_seconds = min(max(2 * self._rest_seconds, FIRST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
            self._stopping.wait(self._rest_seconds)
        else:
            self._rest_seconds = 0.0
        self._store_away = False

    def claim_once(self) -> int:
        """Claim and load once, for the device and for endpoints; return how many jobs there were."""
        returned, remote = self._outbox.returned, self._station.sides.remote
        jobs, pixels = self._pool.room()
        # Where there is no room, jobs may wait that ring no more; where an endpoint rests, it says when it is back.
        self._skipped = not jobs and self._station.sides.local is not None
        claimed = self._claim_for_device(jobs, pixels) if jobs else 0
        rooms = self._pool.forward_room()
        if remote is not None:
            claimed += sum(self._claim_for_endpoints(remote, vae, room) for vae, room in rooms.items())
        if not claimed and jobs:
            self._station.backlog.forget()
        is_everywhere = not self._skipped and all(vae in rooms for vae in self._endpoints_alone())
        self._nothing_since = returned if is_everywhere and not claimed else None
        return claimed

    def _endpoints_alone(self) -> list[str]:
        """The VAEs that no device of this worker decodes."""
        remote, local = self._station.sides.remote, self._station.sides.local
        return [vae for vae in (remote.vaes if remote else ()) if local is None or vae not in local.vaes]

    def _claim_for_device(self, jobs: int, pixels: int) -> int:
        decoder = self._station.sides.local
        if decoder is None:
            return 0
        sizes = self._registration.sizes if self._station.sides.remote is None else held_sizes(decoder)
        hot = {vae: held for vae, held in sizes.items() if decoder.is_hot(vae)}
        claimed = self._claim(self._order, hot, jobs, pixels) if hot else 0
        if len(hot) < len(sizes):
            # A few jobs of a VAE that is not loaded: they wait for its load, and must not fill the pool meanwhile.
            waiting = self._pool.waiting_vaes()
            cold = {
                vae: held
                for vae, held in sizes.items()
                if vae not in hot and vae not in waiting and decoder.load_error(vae) is None
            }
            claimed += self._claim(self._cold_order, cold, FIRST_JOBS, self._pool.room()[1] or 1) if cold else 0
        return claimed

    def _claim_for_endpoints(self, remote: "RemoteDecoder", vae: str, room: int) -> int:
        """Claim jobs that endpoints alone take, as they have slots, and as many of the others as there is room for."""
        alone, shared = self._station.sides.forwarded_sizes(vae)
        own_room, most, claimed = self._pool.endpoint_room(vae), max(1, remote.max_pixels_now(vae)), 0
        local = self._station.sides.local
        is_hot_here = local is not None and vae in local.vaes and local.is_hot(vae)
        if (alone and not own_room) or (shared and not room and not is_hot_here):
            self._skipped = True
        if alone and own_room:
            claimed = self._claim(self._forward_order, {vae: alone}, own_room, own_room * most, forward=True)
        if shared and room > claimed:
            jobs = room - claimed
            claimed += self._claim(self._forward_order, {vae: shared}, jobs, jobs * most, forward=True)
        return claimed

    def _claim(
        self, order: ClaimOrder, sizes: Mapping[str, Sequence[str]], jobs: int, pixels: int, *, forward: bool = False
    ) -> int:
        """Claim of those VAEs, and take up what came; how many jobs that was."""
        sources = order.next(self._station.cost, sizes)
        # Nothing keeps the device from what an idle worker claims: it need not ask again for latent and begin.
        idle = not forward and self._pool.is_idle() and self._outbox.has_room()
        begins = idle and not self._station.settings.batch_window and order is self._order
        wanted = Wanted(
            sources,
            jobs,
            pixels,
            self._station.settings.lease_seconds,
            latent_bytes=IDLE_LATENT_BYTES if idle else 0,
            begins=begins,
        )
        began = time.time()
        claimed = leases.claim(self._connection, self._station.name, wanted)
        if not claimed:
            return 0
        claims = [one.claim for one in claimed]
        self._station.lifeline.hold(claims)
        try:
            self._take_up(claimed, began, forward)
        except Exception as error:
            # Their leases end, and they come back.
            which = {"job_ids": [one.job_id for one in claims]}
            logger.warning("%d jobs are left to their leases: %s", len(claims), error, extra=which)
            self._station.lifeline.drop(claims)
        return len(claimed)

    def _take_up(self, claimed: Sequence[ClaimedJob], began: float, forward: bool) -> None:
        ready: list[tuple[Loaded, Side]] = []
        chosen = self._station.settings
        loading = partial(
            load,
            *(self._blobs, self._station.decoder, claimed),
            exact=chosen.exact,
            embed_metadata=chosen.embed_metadata,
            lacks=self._station.lacks,
        )
        for one in self._station.patience.insist(loading):
            if isinstance(one, Loaded):
                self._trace(one, began)
                try:
                    side = self._station.sides.of(one.spec)
                except EndpointRefused as error:
                    self._outbox.put([Done(one, 0, error, 0.0, 1)])
                    continue
                # It was claimed for an endpoint, since the device has enough to do.
                ready.append((one, Side.ENDPOINT if forward and side is Side.EITHER else side))
            elif isinstance(one, Plain):
                self._station.patience.insist(partial(self._adopt, one))
            else:
                self._refuse(one)
        self._pool.put(ready)

    def _trace(self, one: Loaded, began: float) -> None:
        tracing.record(
            "vaefarm load",
            began,
            time.time(),
            parent=one.spec.traceparent,
            vaefarm__job_id=one.spec.id,
            vaefarm__vae=one.spec.vae,
            vaefarm__worker=self._station.name,
        )

    def _adopt(self, plain: Plain) -> None:
        spec = plain.spec
        bytes_held = held_bytes(spec, 0, self._blobs)
        transitions.adopt(self._connection, plain.claim, Submission(spec, plain.latent_reference, b"", bytes_held))
        self._station.lifeline.drop([plain.claim])

    def _refuse(self, one: Unloadable) -> None:
        if isinstance(one.error, UnsupportedVersion | EncodesNothing):
            # A worker of the other release, or with an encoder, may live, or be about to.
            self._outbox.hand_back(one.claim, "avoid", str(one.error))
        elif isinstance(one.error, WorkerLacks):
            self._do_without(one.claim, one.error)
        elif isinstance(one.error, StoreAway):
            self._store_away = True
            self._outbox.hand_back(one.claim, "free", str(one.error))
        elif isinstance(one.error, OSError | ConfigurationError):
            # Another worker may have the folder that this one has not.
            self._outbox.hand_back(one.claim, "avoid", f"its latent cannot be read here: {one.error}")
        else:
            self._outbox.fail(one.claim, one.error)

    def _do_without(self, claim: Claim, error: WorkerLacks) -> None:
        """Leave a job to a worker that has what this one lacks; where none lives that says so, nobody makes it."""
        vae, name = parts_of(claim.queue)[0], self._station.name
        holds = partial(another_holds, self._connection, claim, vae, name, error.lack)
        if self._station.patience.insist(holds):
            self._outbox.hand_back(claim, "avoid", str(error))
        else:
            self._outbox.fail(claim, RefusedJob(f"{error}; no other worker that lives has it"))

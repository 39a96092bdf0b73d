"""The worker: one process, one device, its VAEs loaded; claim, decode, encode and settle run at the same time."""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import redis

from vaefarm_shared import budget, leases, quarantine, rq_bridge
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.connection import connect
from vaefarm_shared.errors import DeviceFault, InvalidStore, StoreAway
from vaefarm_shared.keeper import TIDY_SECONDS, Keeper
from vaefarm_shared.leases import Claim, How
from vaefarm_shared.reaper import LOOK_SECONDS as REAP_SECONDS
from vaefarm_shared.reaper import Reaper
from vaefarm_shared.settings import Settings
from vaefarm_shared.sweeping import sweep
from vaefarm_shared.workers import forget_dead

from .after_decode import AfterDecodes
from .decoder import Decoder
from .device import Device
from .forwarder import Forwarder
from .intake import Intake
from .lacks import REASONS, lacks_of
from .lifeline import Lifeline
from .outbox import Outbox
from .patience import Abandoned
from .pool import Pool
from .pooled_decoder import PooledDecoder
from .registration import HEARTBEAT_SECONDS, Registration
from .station import Station

logger = logging.getLogger(__name__)

#: Seconds between two looks of the main thread, which serves signals.
LOOK_SECONDS: Final[float] = 0.5

#: Seconds between two looks at the queues' lengths, of a worker that may forward what its device is behind with.
BACKLOG_SECONDS: Final[float] = 0.5

#: Seconds between two looks whether what endpoints are asked for is still wanted.
UNWANTED_SECONDS: Final[float] = 1.0

#: Seconds without an endpoint after which a worker that lost its device ends.
HOPELESS_SECONDS: Final[float] = 60.0

#: The same in a burst, which looks whether it is over.
BURST_LOOK_SECONDS: Final[float] = 0.01


class Worker:
    """Wires the threads together; `run` serves until `stop`, a fault of the device, or the end of a burst."""

    def __init__(self, settings: Settings, decoder: Decoder, name: str, lifeline: Lifeline | None = None) -> None:
        """`lifeline`: the one that was started before torch was imported; its own otherwise."""
        self._settings = settings
        self._decoder = decoder
        self.name = name
        self._url = settings.redis_url.get_secret_value()
        self._connections: list[redis.Redis] = []
        self._connection, self._tidying, self._fault_connection = (self._connect() for _ in range(3))
        self._blobs = BlobStore(self._connection, settings.store, settings.store_threshold)
        steps = AfterDecodes.load(settings.after_decode)
        self._station = Station(
            name, settings, decoder, lifeline or Lifeline(settings, name), steps, lacks=lacks_of(self._blobs)
        )
        self._registration = Registration(self._connect(), name, decoder)
        self._registration.figures = self.figures
        self._pool = Pool(self._station)
        decoder.on_load(self._pool.notify)
        self._outbox = Outbox(self._station, self._connect(), self._blobs, self._pool.notify)
        self._device = Device(self._station, self._pool, self._outbox, self._connect(), self._on_fault)
        remote = self._station.sides.remote
        self._forwarder = (
            None if remote is None else Forwarder(self._station, remote, self._pool, self._outbox, self._connect())
        )
        self._intake = Intake(self._station, self._registration, self._pool, self._outbox, self._connect(), self._blobs)
        # Tidying walks over all that there is: the reaper must not wait for it.
        self._keepers = (Keeper(self._chores()), Keeper([(TIDY_SECONDS, self._tidy)]))
        self._over = threading.Event()
        self._fault: DeviceFault | None = None
        self._stuck = self._serves = False
        self._born = self._hopeful_at = time.monotonic()

    def stop(self) -> None:
        """Claim no more, finish what is on the device, hand the rest back, leave `run`."""
        self._over.set()
        if not self._serves:
            self._station.patience.end()

    def run(self, burst: bool = False) -> None:
        """Serve until `stop`; with `burst`, until no job waits.

        Raises:
            DeviceFault: the device is at fault. Its jobs were handed back, and this process must end.
        """
        try:
            self._decoder.self_test()
            self._station.patience.insist(self._registration.birth)
        except Abandoned:
            self._station.lifeline.close()
            return
        except BaseException:
            self._station.lifeline.close()
            raise
        self._serves = True
        device = None if self._station.sides.local is None else self._device
        for part in (*self._keepers, self._outbox, device, self._forwarder, self._intake):
            if part is not None:
                part.start()
        if "video" in self._station.lacks and any(one.contract.temporal_scale for one in self._decoder.vaes.values()):
            logger.warning("worker %s leaves videos that play to others: %s", self.name, REASONS["video"])
        logger.info("worker %s serves %s on %s", self.name, ", ".join(self._decoder.vaes), self._decoder.device)
        try:
            while not self._over.wait(BURST_LOOK_SECONDS if burst else LOOK_SECONDS):
                if burst and self.is_idle():
                    break
        finally:
            self._drain()
        if self._fault is not None:
            raise self._fault

    @property
    def is_stuck(self) -> bool:
        """Whether a drained worker's device still decodes, beyond its grace."""
        return self._stuck

    def is_idle(self) -> bool:
        """Whether the last claim found nothing, and nothing is in hand."""
        return self._intake.found_nothing and not self._station.lifeline.held()

    def figures(self) -> dict[str, Any]:
        """What the worker has done so far."""
        seconds = max(time.monotonic() - self._born, 1e-9)
        return {
            "finished": self._outbox.finished,
            "failed": self._outbox.failed,
            "jobs_per_second": round(self._outbox.finished / seconds, 3),
            "pictures": self._outbox.pictures,
            "busy_seconds": round(self._device.busy.seconds, 3),
            "up_seconds": round(seconds, 3),
            "has_device": self._station.sides.local is not None,
            "batch": self._device.busy.batch(),
            "held": len(self._station.lifeline.held()),
            "pid": os.getpid(),
            "birth": self._station.lifeline.birth,
            "counted": self._station.figures.read(),
            "lacks": sorted(self._station.lacks),
        }

    def _drain(self) -> None:
        """Hand back what has not begun, finish what has within the grace, hand back what is left of it."""
        deadline = time.monotonic() + self._settings.drain_seconds
        self._station.patience.end_by(deadline)
        self._intake.stop()
        waiting = self._pool.clear()
        self._hand_back([(one.claim, "free") for one in waiting])
        decoded = self._fault is not None or self._device.stop(max(0.0, deadline - time.monotonic()))
        self._stuck = not decoded
        if self._forwarder is not None:
            self._forwarder.stop(max(0.0, deadline - time.monotonic()))
        settled = self._outbox.stop(max(0.0, deadline - time.monotonic()))
        if self._fault is not None or not (decoded and settled):
            self._hand_back_all()
        for keeper in self._keepers:
            keeper.stop()
        self._leave()

    def _hand_back_all(self) -> None:
        """Return whatever is still held; an attempt that had begun costs nothing."""
        self._hand_back(
            [(Claim(job_id, "", token, 0.0), "free") for job_id, token in self._station.lifeline.held().items()]
        )

    def _hand_back(self, claims: list[tuple[Claim, How]]) -> None:
        if not claims:
            return
        which = {"job_ids": [claim.job_id for claim, _ in claims]}
        try:
            returned = leases.give_back(self._connection, claims, self.name, "its worker stopped")
        except redis.RedisError as error:
            logger.warning("%d jobs are left to their leases: %s", len(claims), error, extra=which)
            return
        logger.info("worker %s handed %d jobs back", self.name, sum(returned), extra=which)
        self._station.lifeline.drop([claim for claim, _ in claims])

    def _on_fault(self, fault: DeviceFault) -> None:
        logger.error("the device is at fault, its jobs are handed back: %s", fault)
        if not isinstance(self._decoder, PooledDecoder):
            self._fault = fault
            self._over.set()
            return
        logger.error("endpoints alone decode from now on; restart worker %s once its device is well", self.name)
        self._decoder.lose_device(str(fault))
        self._device.abandon()
        try:
            quarantine.note_exit(self._fault_connection, self._decoder.device_id, str(fault))
        except redis.RedisError as error:
            logger.warning("the fault of device %s is not noted: %s", self._decoder.device_id, error)

    def _despair(self) -> None:
        """End for the device's fault where endpoints decode nothing either: a supervisor may start what does."""
        decoder = self._decoder
        if not isinstance(decoder, PooledDecoder) or decoder.device_fault is None:
            return
        if any(map(decoder.is_hot, decoder.vaes)):
            self._hopeful_at = time.monotonic()
        elif time.monotonic() - self._hopeful_at > HOPELESS_SECONDS:
            self._fault = DeviceFault(f"{decoder.device_fault}; and no endpoint answers")
            self._over.set()

    def _chores(self) -> list[tuple[float, Callable[[], Any]]]:
        reaper = Reaper(self._connect(), self._settings.lease_seconds, self._settings.max_attempts)
        return [
            (REAP_SECONDS, reaper.look),
            (REAP_SECONDS, self._station.lifeline.check),
            (HEARTBEAT_SECONDS, self._registration.heartbeat),
            (HEARTBEAT_SECONDS, self._decoder.drop_idle),
            (HEARTBEAT_SECONDS, self._despair),
            *self._forwarding_chores(),
        ]

    def _forwarding_chores(self) -> list[tuple[float, Callable[[], Any]]]:
        """What a worker does besides that has endpoints; and where it has a device as well."""
        if self._forwarder is None:
            return []
        connection = self._connect()
        chores: list[tuple[float, Callable[[], Any]]] = [
            (UNWANTED_SECONDS, partial(self._forwarder.end_unwanted, connection))
        ]
        if self._station.sides.local is not None:
            chores.append((BACKLOG_SECONDS, partial(self._station.backlog.look, connection)))
        return chores

    def _tidy(self) -> None:
        rq_bridge.clean_registries(self._tidying)
        forget_dead(self._tidying)
        try:
            if swept := sweep(self._tidying, self._blobs, self._over.is_set):
                logger.info("swept %d blobs that no record names", swept)
        except (StoreAway, InvalidStore) as error:
            logger.warning("the store is not swept: %s", error)
        if drift := budget.repair(self._tidying):
            logger.warning("the budget was off by %d bytes and is right again", drift)

    def _connect(self) -> redis.Redis:
        """A connection of a station's own: none waits for another's reply."""
        self._connections.append(connect(self._url))
        return self._connections[-1]

    def _leave(self) -> None:
        try:
            # Before the renewer ends, to which a worker that is still listed has died.
            self._registration.death()
        except redis.RedisError as error:
            logger.warning("worker %s could not say goodbye: %s", self.name, error)
        self._station.lifeline.close()
        for connection in self._connections:
            connection.close()
        self._blobs.close()

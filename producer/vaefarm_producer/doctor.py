"""`vaefarm doctor`: what is wrong with a farm, or may go wrong, one line each."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final, Literal

import redis as redis_py
import typer
from rich.console import Console
from rich.text import Text

from vaefarm_shared import rq_bridge
from vaefarm_shared.blobs import check_store
from vaefarm_shared.budget import read_limits
from vaefarm_shared.cli_errors import EXIT_FAILED, EXIT_USAGE
from vaefarm_shared.connection import address, connect, farm_errors
from vaefarm_shared.errors import FarmError, InvalidStore, StoreAway
from vaefarm_shared.failures import vae_of
from vaefarm_shared.redis_policy import NO_AOF, RedisPolicy, eviction, read_clock, read_policy
from vaefarm_shared.settings import Settings

from .commands import JsonOption, RedisOption
from .farm import Farm

Level = Literal["ok", "note", "warning", "error"]

#: Seconds by which a clock may differ from Redis' before it is mentioned.
SKEW_SECONDS: Final[float] = 2.0

#: How each level is shown.
STYLES: Final[dict[str, str]] = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and how it is."""

    level: Level
    check: str
    message: str


def doctor(redis: RedisOption = None, as_json: JsonOption = False) -> None:
    """Look for what is wrong with the farm, or may go wrong: Redis' policy and durability, budget, workers, devices.

    It asks Redis itself: run it where VAEFARM_REDIS_URL is reachable, not through a gateway. Exits 1 when something is
    an error, 2 when it is the store alone, which is as with every command.
    """
    console, failed = Console(), set()
    for finding in examine(Settings.from_env(redis_url=redis)):
        if as_json:
            print(json.dumps(asdict(finding)))
        else:
            line = Text(f"{finding.level:8}", STYLES[finding.level]).append(f"{finding.check}: ", "bold")
            console.print(line.append(finding.message, "not bold"), soft_wrap=True)
        if finding.level == "error":
            failed.add(finding.check)
    if failed:
        raise typer.Exit(EXIT_USAGE if failed == {"store"} else EXIT_FAILED)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding; only the first, an error, where Redis is not reachable."""
    connection = connect(settings.redis_url.get_secret_value())
    # The doctor sends nothing, so what waits in a spool stays there.
    with connection, Farm(settings=settings.model_copy(update={"spool": None})) as farm:
        try:
            with farm_errors(connection):
                connection.ping()
                policy = read_policy(connection)
        except FarmError as error:
            yield Finding("error", "Redis", str(error))
            return
        yield version(connection, policy)
        yield from durability(policy, settings.allow_eviction)
        yield memory(connection, policy, settings)
        yield clock_skew(connection)
        yield suspension(connection)
        yield store(settings)
        checks: tuple[Callable[[Farm], Iterator[Finding]], ...] = (workers, pauses, devices)
        for check in checks:
            yield from check(farm)


def version(connection: redis_py.Redis, policy: RedisPolicy) -> Finding:
    """Whether Redis is new enough."""
    place = f"{policy.product} at {address(connection)}"
    if policy.is_too_old:
        return Finding("error", "Redis", f"{place}; expected 6.2 or newer")
    return Finding("ok", "Redis", place)


def durability(policy: RedisPolicy, allow_eviction: bool) -> Iterator[Finding]:
    """Whether Redis keeps what was acknowledged, while it runs and when it ends."""
    if policy.evicts:
        yield Finding("warning" if allow_eviction else "error", "eviction", f"Redis {eviction(policy)}")
    elif policy.maxmemory_policy is None:
        yield Finding("warning", "eviction", "Redis does not tell its maxmemory-policy; expected noeviction")
    else:
        yield Finding("ok", "eviction", "none (maxmemory-policy noeviction)")
    if policy.aof_enabled is None:
        yield Finding("warning", "durability", "Redis does not tell whether it has an append-only file")
    elif not policy.aof_enabled:
        yield Finding("warning", "durability", f"Redis {NO_AOF}")
    elif policy.appendfsync == "always":
        yield Finding("ok", "durability", "append-only file, each write on disk before its reply")
    else:
        yield Finding("note", "durability", f"append-only file, {FSYNC_WINDOWS[policy.appendfsync]}")


#: What appendfsync risks; None is an appendfsync that Redis does not tell.
FSYNC_WINDOWS: Final[dict[str | None, str]] = {
    "everysec": "appendfsync everysec: about the last second, two at most, is lost when its machine ends;"
    " always loses nothing",
    "no": "appendfsync no: what the kernel has not written yet, half a minute or so, is lost when its machine ends;"
    " always loses nothing",
    None: "but Redis does not tell its appendfsync; unless that is always, seconds are lost when its machine ends",
}


def memory(connection: redis_py.Redis, policy: RedisPolicy, settings: Settings) -> Finding:
    """Whether the budget fits into what Redis has."""
    budget = read_limits(connection, settings.budget_bytes, settings.max_queued_jobs).max_bytes
    if policy.maxmemory == 0:
        return Finding("note", "memory", f"no maxmemory; the budget of {mebibytes(budget)} bounds latents and pictures")
    used = f"budget {mebibytes(budget)} of maxmemory {mebibytes(policy.maxmemory)}"
    if budget > policy.maxmemory:
        return Finding(
            "error", "memory", f"{used}: Redis is full before the budget is; lower VAEFARM_BUDGET_BYTES to 60 %"
        )
    if budget > 0.8 * policy.maxmemory:
        return Finding("warning", "memory", f"{used} leaves little for records and buffers; 60 % is the default")
    return Finding("ok", "memory", used)


def mebibytes(size: int) -> str:
    """Bytes in MiB."""
    return f"{size / 2**20:.0f} MiB"


def clock_skew(connection: redis_py.Redis) -> Finding:
    """How far this machine's clock is from Redis', by which all leases and deadlines go."""
    before = time.time()
    there = read_clock(connection)
    skew = (before + time.time()) / 2 - there
    if abs(skew) <= SKEW_SECONDS:
        return Finding("ok", "clock", "this machine's agrees with Redis'")
    way = "ahead of" if skew > 0 else "behind"
    return Finding("note", "clock", f"this machine's is {abs(skew):.0f} s {way} Redis', by which the farm goes")


def suspension(connection: redis_py.Redis) -> Finding:
    """Whether `rq suspend` holds every worker."""
    if connection.exists(rq_bridge.SUSPENDED_KEY):
        return Finding("warning", "suspended", "no worker takes jobs since `rq suspend`; `rq resume` ends it")
    return Finding("ok", "suspended", "no")


def store(settings: Settings) -> Finding:
    """Whether this machine can write, read, list and remove in the store outside of Redis."""
    if settings.store == "redis://":
        return Finding("ok", "store", "Redis keeps latents and pictures")
    try:
        check_store(settings)
    except StoreAway as error:
        return Finding("warning", "store", f"{settings.store}: {error}; jobs wait for it")
    except InvalidStore as error:
        return Finding("error", "store", str(error))
    return Finding("ok", "store", f"{settings.store}, above {settings.store_threshold} bytes")


def workers(farm: Farm) -> Iterator[Finding]:
    """Who works, and which jobs nobody works for."""
    living = farm.workers()
    served = {vae for worker in living if isinstance(vaes := worker.get("vaes"), dict) for vae in vaes}
    if living:
        yield Finding("ok", "workers", f"{len(living)} alive, serving {', '.join(sorted(served))}")
    else:
        yield Finding("warning", "workers", "none is alive; start `vaefarm worker`")
    waiting: dict[str, int] = {}
    for queue in farm.queues():
        waiting[vae_of(queue.name)] = waiting.get(vae_of(queue.name), 0) + queue.queued
    for vae, count in sorted(waiting.items()):
        if count and vae not in served:
            yield Finding("warning", "workers", f"{count} jobs wait for {vae}, which no worker serves")


def pauses(farm: Farm) -> Iterator[Finding]:
    """Which VAEs are paused."""
    paused = farm.paused()
    if paused:
        yield Finding("warning", "paused", f"{', '.join(paused)}; `vaefarm resume` ends it")
    else:
        yield Finding("ok", "paused", "no VAE")


def devices(farm: Farm) -> Iterator[Finding]:
    """Which devices are quarantined."""
    quarantined = farm.quarantined()
    for device in quarantined:
        message = f"{device.id} is quarantined: {device.reason}; `vaefarm devices --release {device.id}` ends it"
        yield Finding("warning", "devices", message)
    if not quarantined:
        yield Finding("ok", "devices", "none is quarantined")

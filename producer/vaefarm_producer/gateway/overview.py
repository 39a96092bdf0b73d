"""`/v1/queues`, `/v1/workers`, `/v1/vaes`: how the farm stands, for everyone who holds a key.

Who is no admin is told nothing of others: queues without their lanes, which are producers' names, and workers without
their names and devices.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from aiohttp import web

from vaefarm_shared.errors import UnknownVae
from vaefarm_shared.pace import Backlog, backlog, read_pace
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.workers import serves

from .access import principal_of
from .desk import Desk, desk_of
from .jobs import json_answer
from .models import QueueAnswer, QueuesAnswer, VaeAnswer, VaesAnswer, WorkersAnswer

#: What of a worker's description those see who are no admins.
OF_WORKERS: frozenset[str] = frozenset({"vaes", "sizes", "since"})


async def get_queues(request: web.Request) -> web.Response:
    """How many jobs wait on each queue; for who is no admin, of each VAE, priority and size."""
    desk = desk_of(request)
    queues = await desk.call(desk.transport.queues)
    paused = await desk.call(desk.transport.paused)
    pace = await desk.call(desk.transport.ask, read_pace)
    waiting = [one for vae, one in backlogs(queues, pace).items() if vae not in paused]
    if not principal_of(request).is_admin:
        queues = without_lanes(queues)
    return json_answer(
        QueuesAnswer(
            queues=[QueueAnswer(name=queue.name, queued=queue.queued) for queue in queues],
            paused=paused,
            queued=sum(one.queued for one in waiting),
            backlog_seconds=sum(one.estimate for one in waiting),
        )
    )


def backlogs(queues: Sequence[QueueDepth], pace: Mapping[tuple[str, str], float]) -> dict[str, Backlog]:
    """What waits for each VAE."""
    return backlog(((one.name, one.queued) for one in queues), pace)


def without_lanes(queues: Sequence[QueueDepth]) -> list[QueueDepth]:
    """Depths of the queues of a VAE, priority and size together: `vaefarm.{vae}.{priority}.{size}`."""
    depths: Counter[str] = Counter()
    for queue in queues:
        depths[".".join(queue.name.split(".")[:4])] += queue.queued
    return [QueueDepth(name, queued) for name, queued in sorted(depths.items())]


async def get_workers(request: web.Request) -> web.Response:
    """What each living worker says of itself; for who is no admin, which VAEs and sizes it serves."""
    desk = desk_of(request)
    workers = await desk.call(desk.transport.workers)
    if not principal_of(request).is_admin:
        workers = [{name: one[name] for name in one if name in OF_WORKERS} for one in workers]
    return json_answer(WorkersAnswer(workers=workers))


async def get_vaes(request: web.Request) -> web.Response:
    """Every VAE of the catalogue, and those that workers serve besides."""
    desk = desk_of(request)
    return json_answer(VaesAnswer(vaes=await desk.call(read_vaes, desk, None)))


async def get_vae(request: web.Request) -> web.Response:
    """One VAE: what latents for it must look like, and whether a worker serves it now."""
    desk = desk_of(request)
    return json_answer((await desk.call(read_vaes, desk, request.match_info["vae"]))[0])


def read_vaes(desk: Desk, wanted: str | None) -> list[VaeAnswer]:
    """The VAE of that id, or all; blocks. Raises UnknownVae."""
    transport = desk.transport
    served = [serves(one) for one in transport.workers()]
    entries = {entry.id: entry for entry in transport.catalogue}
    waiting = backlogs(transport.queues(), transport.ask(read_pace))
    paused = set(transport.paused())
    found = []
    for vae in [wanted] if wanted is not None else sorted({*entries, *(vae for vaes in served for vae in vaes)}):
        try:
            contract = transport.contract(vae)
        except UnknownVae:
            if wanted is not None:
                raise
            # The catalogue names it, and no worker has read its contract yet.
            continue
        found.append(
            VaeAnswer(
                id=vae,
                description=entries[vae].description if vae in entries else "",
                contract=contract.model_dump(mode="json"),
                workers=sum(vae in vaes for vaes in served),
                paused=vae in paused,
                queued=waiting[vae].queued if vae in waiting else 0,
                backlog_seconds=waiting[vae].estimate if vae in waiting and vae not in paused else 0.0,
            )
        )
    return found

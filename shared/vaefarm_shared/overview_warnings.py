"""What in an overview an operator should know: each a line, with what to do."""

import time
from collections.abc import Iterable, Iterator
from typing import Final

from .endpoints import EndpointState
from .overview import Death, Overview, Quarantined, Totals, VaeOverview, Warned, WorkerOverview

#: Part of the budget in use from which a farm counts as nearly full.
NEARLY_FULL: Final[float] = 0.9

#: Seconds without a word from a worker from which it counts as silent; it speaks every five.
SILENT_SECONDS: Final[float] = 12.0


def with_warnings(overview: Overview) -> Overview:
    """The same overview with the warnings that follow from it."""
    return overview.model_copy(update={"warnings": list(warnings_of(overview))})


def warnings_of(overview: Overview) -> Iterator[Warned]:
    """What stops jobs first."""
    if overview.suspended:
        yield Warned(code="suspended", message="RQ is suspended, no worker takes a job (rq resume)")
    for vae in overview.vaes:
        yield from of_vae(vae, overview.workers)
    paused = [vae.id for vae in overview.vaes if vae.paused]
    if paused:
        yield Warned(code="paused", message=f"paused: {', '.join(paused)} (vaefarm resume VAE)")
    yield from of_quarantined(overview.quarantined or ())
    yield from of_deaths(overview.deaths or ())
    yield from of_workers(overview.workers)
    yield from of_budget(overview.totals)


def of_vae(vae: VaeOverview, workers: Iterable[WorkerOverview]) -> Iterator[Warned]:
    """Whether jobs wait for a worker that there is not."""
    if not vae.queued:
        return
    if not vae.workers:
        message = f"no worker serves {vae.id}, for which {vae.queued} jobs wait (vaefarm worker --vaes {vae.id})"
        yield Warned(code="no_worker", message=message, vae=vae.id)
        return
    held = {size for worker in workers if vae.id in worker.serves for size in worker.sizes.get(vae.id, ())}
    for size, queued in vae.by_size.items():
        if size and queued and size not in held:
            message = f"no worker that serves {vae.id} holds pictures of size {size}, for which {queued} jobs wait"
            yield Warned(code="too_large", message=message, vae=vae.id)


def of_quarantined(devices: Iterable[Quarantined]) -> Iterator[Warned]:
    """Each device that no worker uses."""
    for device in devices:
        message = f"quarantined: {device.id}: {device.reason} (vaefarm devices --release {device.id})"
        yield Warned(code="quarantined", message=message)


def of_deaths(deaths: Iterable[Death]) -> Iterator[Warned]:
    """Each worker that died, and was not started again."""
    for death in deaths:
        at = time.strftime("%H:%M:%S UTC", time.gmtime(death.at))
        message = f"worker {death.worker} died at {at}; its jobs went on elsewhere (see its log, start it again)"
        yield Warned(code="died", message=message)


def of_workers(workers: Iterable[WorkerOverview]) -> Iterator[Warned]:
    """Each worker that says nothing, or whose device failed, and each endpoint that is not asked as usual."""
    asked = []
    for worker in workers:
        if worker.silent_seconds is not None and worker.silent_seconds > SILENT_SECONDS:
            # Rounded, so that the line does not change with each look.
            message = (
                f"worker {worker.name or ''} has said nothing for {worker.silent_seconds // 5 * 5:.0f} s: it hangs or"
                " is dead; its jobs go on elsewhere (see its log)"
            )
            yield Warned(code="silent", message=" ".join(message.split()))
        asked += [(one.vae, one.name, worker.name or "", one) for one in worker.endpoints if one.state != "closed"]
        if worker.device_fault:
            message = (
                f"worker {worker.name}: its device failed, endpoints alone decode: {worker.device_fault}"
                " (restart the worker once the device is well)"
            )
            yield Warned(code="device_fault", message=message)
    for vae, name, worker_name, one in sorted(asked, key=lambda found: found[:3]):
        why = f": {one.last_error}" if one.last_error else ""
        message = f"endpoint {name} of {vae}, asked by {worker_name}: {standing(one)}{why} (vaefarm endpoints)"
        yield Warned(code="endpoint", message=message, vae=vae)


def of_budget(totals: Totals) -> Iterator[Warned]:
    """Whether submits will be refused soon."""
    shares = [
        (what, used / limit)
        for what, used, limit in (
            ("jobs", totals.budget_jobs, totals.budget_jobs_limit),
            ("bytes", totals.budget_bytes, totals.budget_bytes_limit),
        )
        if used is not None and limit
    ]
    for what, share in shares:
        if share >= NEARLY_FULL:
            message = f"{share:.0%} of the budget of {what} is in use, beyond it submits are refused"
            yield Warned(code="nearly_full", message=message)


def standing(one: EndpointState) -> str:
    """An endpoint's circuit, and for how long it is left alone since it said so."""
    rest = one.resting_until - time.time()
    return one.state + (f", rests {rest:.0f} s" if rest > 0 else "")

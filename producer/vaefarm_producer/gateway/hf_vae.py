"""Which VAE a request of the Hugging Face remote-VAE protocol means, and whether a worker serves it now."""

import re
from typing import Any, Final

from aiohttp import web

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import FarmUnavailable, InvalidOption, UnknownVae
from vaefarm_shared.job import JobSpec
from vaefarm_shared.queues import size_class
from vaefarm_shared.workers import holders, serves

from .believed import Believed
from .desk import Desk, desk_of

#: Seconds for which the list of workers is believed.
BELIEVED_SECONDS: Final[float] = 1.0

#: Seconds after which to try again where no worker serves a VAE.
RETRY_SECONDS: Final[float] = 10.0

#: Characters of a VAE id.
VAE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class NoWorker(FarmUnavailable):
    """No worker that lives serves the VAE."""

    retry_after_seconds = RETRY_SECONDS


#: Where an application keeps what its workers say of themselves.
WORKERS: Final = web.AppKey("hf_workers", Believed[list[dict[str, Any]]])


async def read_loadable(desk: Desk) -> list[dict[str, Any]]:
    """The workers that live, with the sizes of what they have: one that could not load a VAE names it still. Raises
    FarmUnavailable."""
    workers: list[dict[str, Any]] = await desk.call(desk.transport.workers)
    return [one | {"sizes": loadable(one)} for one in workers]


def loadable(worker: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a worker's VAEs, without those that it could not load."""
    served = serves(worker)
    return {vae: sizes for vae, sizes in worker.get("sizes", {}).items() if vae in served}


async def vae_of(request: web.Request) -> str:
    """The VAE in a request's path; else the configured one; else the one that is served.

    Raises:
        InvalidOption: none is configured, and not just one is served.
        NoWorker: none is configured, and none is served.
    """
    if "vae" in request.match_info:
        return request.match_info["vae"]
    desk = desk_of(request)
    if desk.settings.default_vae is not None:
        return desk.settings.default_vae
    served = sorted({vae for one in await request.app[WORKERS].get() for vae in one["sizes"]})
    if not served:
        raise NoWorker("no worker serves a VAE; start one, or try again")
    if len(served) > 1:
        raise InvalidOption(
            f"this address means no one VAE: {', '.join(served)} are served; post to /hf/VAE, or have the operator set"
            " VAEFARM_DEFAULT_VAE"
        )
    return str(served[0])


async def contract_of(desk: Desk, vae: str) -> Contract:
    """A VAE's contract. Raises UnknownVae."""
    if not VAE_ID.fullmatch(vae):
        raise UnknownVae(f"VAE {vae[:80]!r} is none: an id has 1 to 64 letters, digits, '_' and '-'")
    return await desk.call(desk.transport.contract, vae)


async def need_worker(request: web.Request, vae: str, spec: JobSpec | None = None) -> None:
    """Raise NoWorker unless one that lives serves a VAE and, if a job is given, pictures or videos of its size."""
    workers = await request.app[WORKERS].get()
    if not any(vae in one["sizes"] for one in workers):
        raise NoWorker(f"no worker serves VAE {vae!r} now; start one, or try again")
    if spec is not None and not holders(workers, vae, size_class(spec.picture_pixels)):
        frames, smaller = (
            ("", "smaller pictures")
            if spec.num_frames is None
            else (f"{spec.num_frames} frames of ", "fewer or smaller frames")
        )
        raise NoWorker(
            f"no worker that serves VAE {vae!r} now has room for {frames}{spec.width} x {spec.height} pixels; start one"
            f" with more memory, or send {smaller}"
        )

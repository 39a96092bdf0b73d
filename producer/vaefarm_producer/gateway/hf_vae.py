"""Which VAE a request of the Hugging Face remote-VAE protocol means, and whether a worker serves it now."""

import asyncio
import re
import time
from typing import Any, Final

from aiohttp import web

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import FarmUnavailable, InvalidOption, UnknownVae
from vaefarm_shared.job import JobSpec
from vaefarm_shared.queues import size_class
from vaefarm_shared.workers import holders

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


class Workers:
    """The workers that live, asked for by one request at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._found: list[dict[str, Any]] = []

    async def read(self, desk: Desk) -> list[dict[str, Any]]:
        """What each says of itself, at most BELIEVED_SECONDS old. Raises FarmUnavailable."""
        async with self._lock:
            if time.monotonic() - self._read_at >= BELIEVED_SECONDS:
                found = await desk.call(desk.transport.workers)
                # One that could not load a VAE names it still.
                self._found = [one | {"sizes": _loadable(one)} for one in found]
                self._read_at = time.monotonic()
            return self._found


def _loadable(worker: dict[str, Any]) -> dict[str, Any]:
    failed = worker.get("unavailable", {})
    return {vae: sizes for vae, sizes in worker.get("sizes", {}).items() if vae not in failed}


#: Where an application keeps them.
WORKERS: Final = web.AppKey("hf_workers", Workers)


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
    served = sorted({vae for one in await request.app[WORKERS].read(desk) for vae in one["sizes"]})
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
    """Raise NoWorker unless one that lives serves a VAE and, if a job is given, pictures of its size."""
    workers = await request.app[WORKERS].read(desk_of(request))
    if not any(vae in one["sizes"] for one in workers):
        raise NoWorker(f"no worker serves VAE {vae!r} now; start one, or try again")
    if spec is not None and not holders(workers, vae, size_class(spec.picture_pixels)):
        raise NoWorker(
            f"no worker that serves VAE {vae!r} now has room for {spec.width} x {spec.height} pixels; start one with"
            " more memory, or send smaller pictures"
        )

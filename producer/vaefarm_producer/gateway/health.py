"""Whether the gateway lives, and whether it can be used: for load balancers, supervisors, and whoever sets one up."""

import asyncio
from functools import partial
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from vaefarm_shared.errors import FarmError
from vaefarm_shared.workers import serves

from .believed import Believed
from .desk import Desk
from .problems import problem, validated

#: Seconds for which what was found is believed: probes cost Redis one question a second.
BELIEVED_SECONDS: Final[float] = 1.0

#: Seconds that Redis may take to answer.
ANSWER_SECONDS: Final[float] = 2.0

Part = Literal["redis", "worker"]


class ReadyQuery(BaseModel):
    """What a gateway needs in order to be ready."""

    model_config = ConfigDict(extra="forbid")

    need: Annotated[
        Part, Field(description="worker: Redis, and a worker that serves; redis: Redis alone, so jobs can be taken.")
    ] = "worker"


class ReadyAnswer(BaseModel):
    """A gateway that can be used."""

    ready: Literal[True] = True


#: What is missing and what to say of it; None where nothing is.
Missing = tuple[Part, str] | None


async def find_missing(desk: Desk) -> Missing:
    """Ask Redis and its workers."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            workers = await desk.call(desk.transport.workers)
    except FarmError as error:
        return "redis", str(error)
    except TimeoutError:
        return "redis", f"Redis did not answer within {ANSWER_SECONDS:g} seconds"
    vae = desk.settings.default_vae
    served = {str(name) for one in workers for name in serves(one)}
    if served if vae is None else vae in served:
        return None
    return "worker", f"no worker that lives serves {'any VAE' if vae is None else f'VAE {vae!r}'}; start one"


#: Where an application keeps what it knows of that.
READINESS: Final = web.AppKey("readiness", Believed[Missing])


async def get_health(_: web.Request) -> web.Response:
    """That the gateway lives, whatever its farm does."""
    return web.Response(text="Ok")


async def get_ready(request: web.Request) -> web.Response:
    """Whether Redis answers, and, unless `need=redis`, a worker serves the default VAE, or any where none is set."""
    need = validated(ReadyQuery, dict(request.query)).need
    missing = await request.app[READINESS].get()
    if missing is None or (need == "redis" and missing[0] == "worker"):
        return web.json_response({"ready": True})
    part, says = missing
    answer = problem(503, says, "NotReady", missing=part)
    answer.headers["Retry-After"] = "1"
    return answer


def add_readiness(app: web.Application, desk: Desk) -> None:
    """Give an application its readiness."""
    app[READINESS] = Believed(partial(find_missing, desk), BELIEVED_SECONDS)

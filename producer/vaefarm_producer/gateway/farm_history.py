"""Samples of how the farm stands, for the charts of its page: of a farm's gateways each writes some."""

import asyncio
import logging
from typing import Final

from aiohttp import web

from vaefarm_shared.errors import FarmError
from vaefarm_shared.history import SAMPLE_SECONDS, take_turn, write_sample

from .desk import Desk
from .farm_overview import LOOKS

logger = logging.getLogger(__name__)

#: Seconds between two tries: where another gateway ends, its turn is soon taken.
TRY_SECONDS: Final[float] = SAMPLE_SECONDS / 3


async def keep_history(app: web.Application, desk: Desk) -> None:
    """Write a sample whenever it is this gateway's turn, until canceled; while Redis is away there are none."""
    while True:
        try:
            if await desk.call(desk.transport.ask, take_turn):
                await desk.call(desk.transport.ask, write_sample, await app[LOOKS].ask(None))
        except FarmError as error:
            logger.debug("no sample was taken: %s", error)
        except Exception:
            logger.exception("no sample was taken")
        await asyncio.sleep(TRY_SECONDS)

"""Delivering webhooks: every gateway takes its share of the outbox, and what one had in hand as it died comes back.

The form is that of Standard Webhooks (standardwebhooks.com): `webhook-id`, the same at each try of one end, so that a
receiver can tell repeats; `webhook-timestamp`; and `webhook-signature`, an HMAC-SHA256 over both and the body.
"""

import asyncio
import json
import logging
import random
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from standardwebhooks import Webhook

from vaefarm_shared import tracing, webhooks
from vaefarm_shared.errors import FarmError
from vaefarm_shared.webhooks import Delivery

from .access import principal_of
from .desk import Desk, desk_of
from .jobs import json_answer
from .models import WebhookSecret
from .secret import Secret, derive
from .signing import SIGNER
from .webhook_hosts import is_allowed

logger = logging.getLogger(__name__)

#: Seconds between two looks at the outbox.
LOOK_SECONDS: Final[float] = 1.0

#: Deliveries that a gateway has in hand at a time.
IN_HAND: Final[int] = 50

#: Seconds that a receiver may take, and after which a delivery in hand is due again.
CALL_SECONDS: Final[float] = 20.0
HOLD_SECONDS: Final[float] = 60.0

#: Seconds before each further try, up to three days in all; then a delivery is given up.
DELAYS: Final[tuple[float, ...]] = (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 24 * 3600)

#: By how much of itself a delay may be longer, so that those who failed together do not come back together.
JITTER: Final[float] = 0.2


class Deliverer:
    """Calls the webhooks that are due, until it is canceled."""

    def __init__(self, desk: Desk, secret: Secret) -> None:
        self._desk = desk
        self._secret = secret
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look, call, and look again."""
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        agent = {"User-Agent": f"vaefarm/{version('vaefarm')}"}
        async with aiohttp.ClientSession(timeout=timeout, headers=agent, cookie_jar=aiohttp.DummyCookieJar()) as client:
            try:
                while True:
                    try:
                        await self._look(client)
                    except FarmError as error:
                        logger.debug("no webhooks: %s", error)
                    except Exception:
                        logger.exception("webhooks are looked at anew")
                    await asyncio.sleep(LOOK_SECONDS)
            finally:
                for call in self._calls:
                    call.cancel()

    async def _look(self, client: aiohttp.ClientSession) -> None:
        while room := IN_HAND - len(self._calls):
            due = await self._desk.call(self._desk.transport.ask, webhooks.claim_due, room, HOLD_SECONDS)
            for delivery in due:
                call = asyncio.create_task(self._deliver(client, delivery))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            if len(due) < room:
                return

    async def _deliver(self, client: aiohttp.ClientSession, delivery: Delivery) -> None:
        """Call one webhook, and write what came of it; where that cannot be written, it is due again by itself."""
        try:
            problem = await self._call(client, delivery)
            with suppress(FarmError):
                await self._note(delivery, problem)
        except Exception:
            logger.exception("the webhook of job %s is tried again", delivery.job_id, extra={"job_id": delivery.job_id})

    async def _call(self, client: aiohttp.ClientSession, delivery: Delivery) -> str | None:
        """What went wrong; None for nothing. Raises FarmUnavailable where the secret is not to be had."""
        if not is_allowed(delivery.url, self._desk.settings.webhook_hosts):
            return "its host is not allowed here any more"
        body = payload(delivery, self._desk.settings.public_url)
        now, message = datetime.now(UTC), f"{delivery.job_id}.{delivery.ended_at}"
        secret = await webhook_secret(self._secret, self._desk, delivery.owner)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret).sign(message, now, body),
        }
        with tracing.span(
            "vaefarm webhook", "client", parent=delivery.traceparent, vaefarm__job_id=delivery.job_id
        ) as span:
            if trace := tracing.traceparent_of(span) or delivery.traceparent:
                headers["traceparent"] = trace
            try:
                # Redirects are refused: where they lead nobody allowed.
                async with client.post(
                    delivery.url, data=body.encode(), headers=headers, allow_redirects=False
                ) as answer:
                    return None if 200 <= answer.status < 300 else f"it answered {answer.status}"
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if span is not None:
                    tracing.fail(span)
                return f"it cannot be reached: {error or type(error).__name__}"

    async def _note(self, delivery: Delivery, problem: str | None) -> None:
        ask = self._desk.transport.ask
        if problem is None:
            await self._desk.call(ask, webhooks.delivered, delivery)
            return
        delay = delay_after(delivery.attempts)
        host, which = urlsplit(delivery.url).hostname, {"job_id": delivery.job_id}
        if delay is None or problem == GONE:
            logger.warning("the webhook of job %s at %s is given up: %s", delivery.job_id, host, problem, extra=which)
            await self._desk.call(ask, webhooks.failed, delivery, None)
            return
        logger.info(
            "the webhook of job %s at %s: %s; again in %.0f s", delivery.job_id, host, problem, delay, extra=which
        )
        await self._desk.call(ask, webhooks.failed, delivery, delay)


#: What a receiver says that wants to hear no more.
GONE: Final[str] = "it answered 410"


def payload(delivery: Delivery, public_url: str | None) -> str:
    """What a receiver is told: `type`, `timestamp` and `data`, as JSON."""
    ended = datetime.fromtimestamp(float(delivery.ended_at), UTC)
    data = {"id": delivery.job_id, "status": delivery.status.value}
    data["url"] = f"{(public_url or '').rstrip('/')}/v1/jobs/{delivery.job_id}"
    if delivery.reason:
        data["reason"] = delivery.reason
    return json.dumps({"type": f"job.{delivery.status.value}", "timestamp": ended.isoformat(), "data": data})


def delay_after(attempts: int) -> float | None:
    """Seconds before the next try after so many; None for no more."""
    if attempts > len(DELAYS):
        return None
    return DELAYS[max(attempts, 1) - 1] * (1 + random.random() * JITTER)


async def get_webhook_secret(request: web.Request) -> web.Response:
    """What the caller's webhooks are signed with."""
    secret = await webhook_secret(request.app[SIGNER].secret, desk_of(request), principal_of(request).owner)
    return json_answer(WebhookSecret(secret="whsec_" + b64encode(secret).decode()))


async def webhook_secret(secret: Secret, desk: Desk, owner: str) -> bytes:
    """What the webhooks of an owner's jobs are signed with: an owner cannot sign in another's name."""
    return derive(await secret.get(desk), "webhook", owner)

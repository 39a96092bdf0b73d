"""What an operator asks of a farm over HTTP; the key must be an admin's for most of it."""

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp

from vaefarm_shared.failures import FailedJob
from vaefarm_shared.overview import Overview
from vaefarm_shared.quarantine import Device
from vaefarm_shared.reading import QueueDepth
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import WorkerEndpoint

from .background import Background
from .http_client import HttpClient, part

#: Lines of a long answer that are handed on at a time.
LINES: Final[int] = 500


class HttpOperations:
    """Queues, workers, pauses, failures and devices of a farm, over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigurationError for a URL or a key that is none."""
        self._client = HttpClient(settings)
        self._background = Background()

    def _get(self, path: str, **query: object) -> Any:
        """The JSON at a path; asked once."""
        search = urlencode({name: value for name, value in query.items() if value is not None})
        return self._background.run(self._client.call("GET", f"{path}?{search}")).json()

    def _insist(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that answers a request which may be repeated."""
        return self._background.run(self._client.insist(method, path, **options)).json()

    def overview(self) -> Overview:
        """How the farm stands now, as far as the key may know."""
        return Overview.model_validate(self._get("/v1/overview"))

    def queues(self) -> list[QueueDepth]:
        """How many jobs wait on each queue; on those of each VAE, priority and size for a key that is no admin's."""
        return [QueueDepth(**one) for one in self._get("/v1/queues")["queues"]]

    def queued(self, vae: str) -> Iterator[str]:
        """The ids of a VAE's waiting jobs, some perhaps twice."""
        return (one["id"] for one in self._lines(f"/v1/queued?{urlencode({'vae': vae})}"))

    def workers(self) -> list[dict[str, object]]:
        """What each living worker says of itself; for a key that is no admin's, which VAEs it serves."""
        return list(self._get("/v1/workers")["workers"])

    def endpoints(self) -> list[WorkerEndpoint]:
        """The remote endpoints that living workers ask."""
        return [WorkerEndpoint.model_validate(one) for one in self._get("/v1/endpoints")["endpoints"]]

    def pause(self, vae: str) -> bool:
        """Let no worker claim a VAE's jobs."""
        return bool(self._insist("PUT", f"/v1/vaes/{part(vae)}/pause")["changed"])

    def resume(self, vae: str) -> bool:
        """Let workers claim a VAE's jobs again."""
        return bool(self._insist("DELETE", f"/v1/vaes/{part(vae)}/pause")["changed"])

    def paused(self) -> list[str]:
        """The paused VAEs."""
        return list(self._get("/v1/queues")["paused"])

    def failed(self, vae: str | None = None) -> Iterator[FailedJob]:
        """The failed jobs of a VAE, or of all."""
        query = urlencode({} if vae is None else {"vae": vae})
        return (FailedJob(**{"ended_at": None, **one}) for one in self._lines(f"/v1/failed?{query}"))

    def quarantined(self) -> list[Device]:
        """The quarantined devices."""
        return [Device(**one) for one in self._get("/v1/devices", quarantined="true")["devices"]]

    def devices(self) -> list[Device]:
        """The devices that workers have, that failed of late or are quarantined."""
        return [Device(**one) for one in self._get("/v1/devices")["devices"]]

    def release(self, device_id: str) -> bool:
        """Let a quarantined device be used again."""
        return bool(self._insist("DELETE", f"/v1/devices/{part(device_id)}")["changed"])

    def ping(self) -> None:
        """Return if the gateway answers now, reaches Redis, and takes the key."""
        self._background.run(self._client.call("POST", "/v1/statuses", json={"ids": ["ping"]}))

    def _lines(self, path: str) -> Iterator[dict[str, Any]]:
        """The objects of a long answer, one a line, while they arrive."""
        stack = AsyncExitStack()
        try:
            response = self._background.run(self._open(stack, path))
            while lines := self._background.run(next_lines(response)):
                yield from map(json.loads, lines)
        finally:
            self._background.run(stack.aclose())

    async def _open(self, stack: AsyncExitStack, path: str) -> aiohttp.ClientResponse:
        response = await stack.enter_async_context(self._client.open("GET", path))
        await self._client.raise_for(response)
        return response


async def next_lines(response: aiohttp.ClientResponse) -> list[bytes]:
    """Some of the lines that come next; none at the end."""
    lines: list[bytes] = []
    while len(lines) < LINES and (line := await response.content.readline()):
        lines.append(line)
    return lines

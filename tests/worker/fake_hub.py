"""A Hugging Face hub of our own: what huggingface_hub asks of the real one to fetch a file, over real HTTP."""

import asyncio
import hashlib
import threading
from pathlib import Path

from aiohttp import web

#: The commit that every repository's main is at.
COMMIT = "0123456789abcdef0123456789abcdef01234567"

#: The token whose owner accepted the licence of what is gated.
GOOD_TOKEN = "hf_good"


class FakeHub:
    """Serves folders as repositories; notes the paths that are read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        #: Repositories that only GOOD_TOKEN reads.
        self.gated: set[str] = set()
        #: Paths whose bytes stop in the middle, for as long as they are here.
        self.stalling: set[str] = set()
        #: Paths that were read, as REPOSITORY/PATH; looking at headers alone is no reading.
        self.read: list[str] = []
        self.has_stalled = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self) -> None:
        """Listen on a port of its own, on a thread of its own."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def stop(self) -> None:
        """End, and let nobody wait any longer."""
        assert self._runner is not None
        self.stalling.clear()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{port}"

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        matched = request.match_info
        repository = f"{matched['owner']}/{matched['name']}"
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not (self.root / repository).is_dir():
            return _refuse(404, "RepoNotFound")
        if matched["revision"] not in ("main", COMMIT):
            return _refuse(404, "RevisionNotFound")
        if repository in self.gated and token != GOOD_TOKEN:
            return _refuse(403 if token else 401, "GatedRepo")
        file = self.root / repository / matched["path"]
        if not file.is_file():
            return _refuse(404, "EntryNotFound")
        data = file.read_bytes()
        response = web.StreamResponse(
            headers={"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        )
        response.content_length = len(data)
        await response.prepare(request)
        if request.method != "HEAD":
            self.read.append(f"{repository}/{matched['path']}")
            await self._send(response, data, matched["path"])
        return response

    async def _send(self, response: web.StreamResponse, data: bytes, path: str) -> None:
        half = len(data) // 2
        await response.write(data[:half])
        while path in self.stalling:
            self.has_stalled.set()
            await asyncio.sleep(0.02)
        await response.write(data[half:])


def _refuse(status: int, code: str) -> web.Response:
    return web.Response(status=status, headers={"X-Error-Code": code, "X-Repo-Commit": COMMIT})

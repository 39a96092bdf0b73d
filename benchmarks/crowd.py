"""Clients of a gateway, in a process of their own: those who wait for jobs, one who asks how a job stands, open pages.

python -m benchmarks.crowd wait URL     ids on standard input as JSON, a line of JSON at the end
python -m benchmarks.crowd ask URL      asks until its standard input is closed
python -m benchmarks.crowd look URL     has pages open until then, and fetches the thumbnails that they name
"""

import asyncio
import http.client
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

#: Clients that wait at a time: one half by long polls, the other by streams of one job.
WAITING: Final = 500

#: Streams of all jobs.
OF_ALL: Final = 10

#: Seconds within which the last event comes.
SECONDS: Final = 300.0

#: Requests of the one who asks, each second.
ASKED: Final = 50


async def wait(url: str) -> dict[str, Any]:
    """Wait for every job, each by one of the clients, and follow all on a few streams besides."""
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    ids, since = list(told["ids"]), str(told["since"])
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:
        following = [asyncio.create_task(follow_all(client, set(ids), since)) for _ in range(OF_ALL)]
        turn = iter(enumerate(ids))
        ends: Counter[str] = Counter()
        streaming = asyncio.Semaphore(0)
        waiting = [asyncio.create_task(take_turns(client, turn, ends, streaming)) for _ in range(WAITING)]
        # A gateway takes requests in the order in which they come: the polls between the streams are there too.
        for _ in range(WAITING // 2):
            await streaming.acquire()
        print("ready", flush=True)
        await asyncio.gather(*waiting)
        events = await asyncio.gather(*following)
    return {"ends": ends, "events": events}


async def take_turns(
    client: aiohttp.ClientSession, turn: Any, ends: "Counter[str]", streaming: asyncio.Semaphore
) -> None:
    """Wait for one job after the other."""
    for place, job_id in turn:
        how = "poll" if place % 2 else "stream"
        status = await (poll(client, job_id) if place % 2 else follow(client, job_id, streaming))
        ends[f"{how} {status}"] += 1


async def poll(client: aiohttp.ClientSession, job_id: str) -> str:
    """The status that a long poll ends with."""
    async with client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=250"}) as answer:
        return str((await answer.json())["status"])


async def follow(client: aiohttp.ClientSession, job_id: str, streaming: asyncio.Semaphore) -> str:
    """The last status that a job's stream tells."""
    status = "nothing"
    async with client.get(f"/v1/jobs/{job_id}/events") as answer:
        streaming.release()
        async for line in answer.content:
            if line.startswith(b"data: "):
                status = str(json.loads(line[6:])["status"])
    return status


async def follow_all(client: aiohttp.ClientSession, wanted: set[str], since: str) -> dict[str, int]:
    """How many events of the jobs a stream of all tells, by status; until each has ended."""
    counts: Counter[str] = Counter()
    async with client.get("/v1/events", headers={"Last-Event-ID": since}) as answer, aclosing(lines(answer)) as told:
        async for line in told:
            if line.startswith(b"event: reset"):
                counts["reset"] += 1
            if line.startswith(b"data: ") and len(line) > 10:
                event = json.loads(line[6:])
                counts[event["status"]] += event["id"] in wanted
                if counts["finished"] == len(wanted):
                    break
    return dict(counts)


async def lines(answer: aiohttp.ClientResponse) -> Any:
    """The lines of an answer."""
    async for line in answer.content:
        yield line


def until_closed(closed: threading.Event) -> None:
    """Set `closed` at the end of standard input."""
    sys.stdin.read()
    closed.set()


def ask(url: str) -> dict[str, Any]:
    """Seconds of `GET /v1/jobs/{id}`, over one connection, for jobs by chance."""
    ids = json.loads(sys.stdin.readline())["ids"]
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port)
    chance, seconds, statuses = random.Random(0), list[float](), Counter[int]()
    closed = threading.Event()
    threading.Thread(target=until_closed, args=(closed,), daemon=True).start()
    print("ready", flush=True)
    while not closed.wait(1 / ASKED):
        began = time.perf_counter()
        client.request("GET", f"/v1/jobs/{chance.choice(ids)}")
        answer = client.getresponse()
        answer.read()
        seconds.append(time.perf_counter() - began)
        statuses[answer.status] += 1
    return {"seconds": seconds, "statuses": statuses}


async def look(url: str) -> dict[str, int]:
    """Have the farm's page open, many times."""
    count = int(json.loads(sys.stdin.readline())["pages"])
    seen: Counter[str] = Counter()
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as client:
        opened = [asyncio.Event() for _ in range(count)]
        pages = [asyncio.create_task(one_page(client, seen, one)) for one in opened]
        for one in opened:
            await one.wait()
        seen.clear()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for page in pages:
            page.cancel()
        await asyncio.gather(*pages, return_exceptions=True)
    return {name: seen[name] for name in ("bytes", "thumbnails", "failed")}


async def one_page(client: aiohttp.ClientSession, seen: "Counter[str]", opened: asyncio.Event) -> None:
    """One page, as a browser has it."""
    fetched: set[str] = set()
    timeout = aiohttp.ClientTimeout(total=None)
    async with client.get("/page/events", headers={"Accept": "text/event-stream"}, timeout=timeout) as answer:
        buffer = b""
        async for chunk in answer.content.iter_any():
            seen["bytes"] += len(chunk)
            buffer += chunk
            while b"\n\n" in buffer:
                event, _, buffer = buffer.partition(b"\n\n")
                for address in set(re.findall(rb"/page/thumbnails/[^\"\\]+", event)) - fetched:
                    fetched.add(address)
                    async with client.get(address.decode()) as picture:
                        await picture.read()
                        seen["thumbnails" if picture.status == 200 else "failed"] += 1
                # What it shows at first is there.
                opened.set()


#: What clients do, by name.
CLIENTS: Final[dict[str, Callable[[str], Any]]] = {
    "wait": lambda url: asyncio.run(wait(url)),
    "ask": ask,
    "look": lambda url: asyncio.run(look(url)),
}

if __name__ == "__main__":
    print(json.dumps(CLIENTS[sys.argv[1]](sys.argv[2])))

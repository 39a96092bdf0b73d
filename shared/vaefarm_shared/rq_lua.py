"""RQ's own commands as Lua: recorded from RQ's code once, replayed inside our scripts.

A change of state of ours and RQ's side of it are one step in Redis, so both stand in one script; RQ's schema is still
written by RQ's code alone. Its functions run here on a pipeline that is never sent, for a job whose id, queue, worker
and times are placeholders. What they leave on the pipeline becomes the Lua function `rq_NAME(v)` of these values:

    id, queue, worker, execution: names          time: Unix seconds         iso, created: dates as RQ writes them
    result_seconds, failure_seconds: lives       data, result, exc_string: as RQ encodes them (`rq_bridge`)
"""

import re
import time
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Final

import redis
from redis.client import Pipeline
from rq.job import Job

from . import rq_bridge

#: Placeholders are names that RQ takes; lives are numbers that no constant of RQ's equals.
ID, QUEUE, WORKER = "placeholder-id", "placeholder-queue", "placeholder-worker"
LIVES: Final[dict[int, str]] = {1_000_003: "v.result_seconds", 2_000_003: "v.failure_seconds"}
RESULT_SECONDS, FAILURE_SECONDS = LIVES

#: Values that RQ encodes before they reach a command, by the field in which they stand.
ENCODED: Final[dict[str, str]] = {"data": "v.data", "return_value": "v.result", "exc_string": "v.exc_string"}

#: Fields of RQ's job hash that hold when the job was queued.
QUEUED_AT: Final = frozenset({"created_at", "enqueued_at"})

#: Fields of RQ's job hash that an end leaves as they are: the attempt wrote them, and the recorded job had none.
KEPT: Final[dict[str, str]] = dict.fromkeys(("started_at", "last_heartbeat", "worker_name"), "")

DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

#: Numbers above this are Unix times.
UNIX_TIMES: Final[float] = 1e9


def render(name: str) -> str:
    """The recorded step of that name as a Lua function."""
    return f"local function rq_{name}(v)\n" + "\n".join(f"  {line}" for line in _recorded()[name]) + "\nend\n"


@cache
def _recorded() -> dict[str, list[str]]:
    client, execution = redis.Redis(), "placeholder-execution"
    steps: dict[str, Callable[[Pipeline, Job], Any]] = {
        "create": lambda pipe, job: pipe.hset(job.key, mapping=dict(_hash(client))),
        "begin": lambda pipe, job: rq_bridge.begin(pipe, job, WORKER),
        "finish": lambda pipe, job: rq_bridge.finish(pipe, job, execution, WORKER),
        "fail": lambda pipe, job: rq_bridge.fail(pipe, job, execution, WORKER),
        "fail_unstarted": lambda pipe, job: rq_bridge.fail(pipe, job, None, WORKER),
        "cancel": lambda pipe, job: rq_bridge.cancel(pipe, job, RESULT_SECONDS),
        "requeue": lambda pipe, job: rq_bridge.requeue(pipe, job),
        "end_execution": lambda pipe, job: rq_bridge.end_execution(pipe, job, execution, WORKER),
        "forget": lambda pipe, job: rq_bridge.forget(pipe, job),
    }
    queued = {field: _text(value) for field, value in _hash(client)}
    rendered = {}
    for name, step in steps.items():
        pipe = client.pipeline()
        drawn = step(pipe, _job(client))
        names = {ID: "v.id", QUEUE: "v.queue", WORKER: "v.worker", execution: "v.execution"}
        if name == "begin":
            names[drawn] = "v.execution"
        unchanged = {"finish": queued, "fail": KEPT, "fail_unstarted": KEPT}.get(name, {})
        recorder = _Recorder(names, unchanged, rq_bridge.job_key(ID), time.time())
        rendered[name] = [line for args, _ in pipe.command_stack if (line := recorder.line(args))]
    return rendered


def _job(client: redis.Redis) -> Job:
    return rq_bridge.build_job(
        client, ID, QUEUE, result_seconds=RESULT_SECONDS, failure_seconds=FAILURE_SECONDS, queued_at=0.0
    )


def _hash(client: redis.Redis) -> list[tuple[str, Any]]:
    return _pairs(rq_bridge.hash_fields(_job(client)))


class _Recorder:
    """Turns one command of RQ's into a line of Lua."""

    def __init__(self, names: dict[str, str], unchanged: Mapping[str, str], job_key: str, now: float) -> None:
        self._names = names
        self._unchanged = unchanged
        self._job_key = job_key
        self._now = now
        self._split = re.compile("|".join(map(re.escape, names)))

    def line(self, arguments: tuple[Any, ...]) -> str | None:
        """The Lua call; None for a write of nothing new."""
        command, *rest = arguments
        if command == "HSET" and rest[0] == self._job_key:
            return self._job_fields(rest[0], _pairs(rest[1:]))
        rendered, before = [f"'{command}'"], None
        for argument in rest:
            rendered.append(ENCODED.get(before or "") or self._value(argument))
            before = argument if isinstance(argument, str) else None
        return f"redis.call({', '.join(rendered)})"

    def _job_fields(self, key: str, pairs: list[tuple[str, Any]]) -> str | None:
        rendered = []
        for field, value in pairs:
            if field in self._unchanged and self._unchanged[field] == _text(value):
                continue
            moment = "v.created" if field in QUEUED_AT else None
            rendered += [_quoted(field), moment or ENCODED.get(field) or self._value(value)]
        return f"redis.call('HSET', {self._value(key)}, {', '.join(rendered)})" if rendered else None

    def _value(self, argument: Any) -> str:
        if isinstance(argument, int | float):
            return self._number(argument)
        text = _text(argument)
        if DATE.fullmatch(text):
            return "v.iso"
        parts, place = [], 0
        for found in self._split.finditer(text):
            parts += [_quoted(text[place : found.start()]), self._names[found.group()]]
            place = found.end()
        parts.append(_quoted(text[place:]))
        return " .. ".join(part for part in parts if part != "''") or "''"

    def _number(self, number: float) -> str:
        if number in LIVES:
            return LIVES[int(number)]
        if number < UNIX_TIMES:
            return str(number)
        ahead = number - self._now
        for seconds, name in LIVES.items():
            if abs(ahead - seconds) < 60:
                return f"math.floor(v.time + {name})"
        return "v.time" if abs(ahead) < 60 else f"math.floor(v.time + {round(ahead, -1):.0f})"


def _pairs(flat: Any) -> list[tuple[str, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _text(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

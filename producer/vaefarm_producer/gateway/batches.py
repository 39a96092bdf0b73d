"""`POST /v1/batches`: many jobs in one request, each with a verdict of its own.

The body is multipart/form-data: for each job a part `latents`, its bytes, before which a part `options` may stand, a
JSON object of its options and its `id`; what that leaves out is taken from the query.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import web
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from vaefarm_shared.checks import MAX_LATENT_BYTES
from vaefarm_shared.errors import FarmError, FarmUnavailable, InvalidOption
from vaefarm_shared.job import JobStatus
from vaefarm_shared.job_ids import check_job_id, new_job_id

from ..sending import ROUND_TRIP_JOBS
from ..submission import PreparedJob
from .access import Principal, principal_of
from .bodies import ROOM, read_chunks
from .desk import Desk, desk_of
from .jobs import MAX_JSON, json_answer
from .models import BatchAnswer, BatchEntry
from .problems import farm_problem
from .submitting import options_from, prepare_body, raw_options, read_json

#: Jobs in one batch.
MAX_JOBS: Final[int] = ROUND_TRIP_JOBS

#: Bytes that may belong to a part besides a latent tensor's own: the header of its safetensors file.
MAX_PART_BYTES: Final[int] = MAX_LATENT_BYTES + 64 * 1024

#: One job as it came: its options, unchecked, and its bytes.
Part = tuple[dict[str, Any], bytes]


async def post_batch(request: web.Request) -> web.Response:
    """Queue many jobs; the answer says of each whether it was taken, or why not."""
    desk, principal, defaults = desk_of(request), principal_of(request), raw_options(request.query)
    async with request.app[ROOM].hold() as share:
        parser = BatchParser(_boundary_of(request))
        async for chunk in read_chunks(request, share):
            parser.feed(chunk)
        entries = await desk.carry(submit_parts, desk, principal, parser.finish(), defaults, request.headers)
    answer = BatchAnswer(jobs=[_entry(job_id, verdict) for job_id, verdict in entries])
    refusals = [verdict for _, verdict in entries if isinstance(verdict, FarmError)]
    if len(refusals) < len(entries):
        return json_answer(answer, 202)
    return farm_problem(refusals[0], **answer.model_dump(mode="json", exclude_none=True))


def submit_parts(
    desk: Desk, principal: Principal, parts: Sequence[Part], defaults: dict[str, Any], headers: Mapping[str, str]
) -> list[tuple[str, JobStatus | FarmError]]:
    """Check each job, and queue those that may be in one round trip; blocks. Each job's id and verdict, in order."""
    verdicts: list[tuple[str, JobStatus | FarmError]] = []
    prepared: dict[int, PreparedJob] = {}
    for place, (own, body) in enumerate(parts):
        job_id, raw = str(own.get("id") or new_job_id()), {name: own[name] for name in own if name != "id"}
        verdicts.append((job_id, JobStatus.QUEUED))
        try:
            options = options_from(defaults | raw, headers)
            prepared[place] = prepare_body(desk, principal, body, options, check_job_id(job_id))
        except FarmUnavailable:
            # Of all jobs the same, and of none in particular.
            raise
        except FarmError as error:
            verdicts[place] = job_id, error
    found = desk.transport.submit_each(list(prepared.values()), principal.max_in_flight) if prepared else []
    for place, verdict in zip(prepared, found, strict=True):
        verdicts[place] = verdicts[place][0], verdict
    return verdicts


def _entry(job_id: str, verdict: JobStatus | FarmError) -> BatchEntry:
    if isinstance(verdict, JobStatus):
        return BatchEntry(id=job_id, status=verdict, url=f"/v1/jobs/{job_id}")
    return BatchEntry(
        id=job_id[:100],
        error=str(verdict),
        code=type(verdict).__name__,
        retry_after_seconds=getattr(verdict, "retry_after_seconds", None),
    )


def _boundary_of(request: web.Request) -> str:
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if kind != "multipart/form-data":
        raise InvalidOption(f"the body is {kind[:80] or 'of no type'}; expected multipart/form-data")
    return str(options.get("boundary", ""))


class BatchParser:
    """A batch's parts, out of its body's chunks."""

    def __init__(self, boundary: str) -> None:
        """Raises InvalidOption for a boundary that is none."""
        with _refusals():
            self._parser = PushMultipartParser(
                boundary, max_segment_count=2 * MAX_JOBS + 2, max_segment_size=MAX_PART_BYTES, strict=True
            )
        self._parts: list[Part] = []
        self._options: dict[str, Any] | None = None
        self._name = ""
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. Raises InvalidOption, naming the job of a part that is wrong by its place."""
        with _refusals():
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    self._name, self._body = event.name, bytearray()
                elif event is None:
                    self._take()
                elif self._name == "options" and len(self._body) + len(event) > MAX_JSON:
                    raise InvalidOption(f"job {len(self._parts)}: its options have more than {MAX_JSON} bytes")
                else:
                    self._body += event

    def _take(self) -> None:
        place = f"job {len(self._parts)}"
        if self._name == "options" and self._options is None:
            self._options = read_json(bytes(self._body), f"{place}: its options")
            if not isinstance(self._options, dict):
                raise InvalidOption(f"{place}: its options are no JSON object")
        elif self._name == "latents":
            if len(self._parts) == MAX_JOBS:
                raise InvalidOption(f"the batch has more than {MAX_JOBS} jobs; send it as several")
            self._parts.append((self._options or {}, bytes(self._body)))
            self._options = None
        else:
            raise InvalidOption(f"{place}: part {self._name[:40]!r} came; expected `options`, then `latents`")

    def finish(self) -> list[Part]:
        """The jobs, once all has come. Raises InvalidOption for a body that ended too early, and for one of no job."""
        with _refusals():
            self._parser.close()
        if self._options is not None:
            raise InvalidOption(f"job {len(self._parts)}: its options came without `latents`")
        if not self._parts:
            raise InvalidOption("the batch has no job; expected a part `latents` for each")
        return self._parts


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the parser finds wrong into InvalidOption."""
    try:
        yield
    except MultipartError as error:
        raise InvalidOption(f"the body is no multipart/form-data that can be read: {error}") from error

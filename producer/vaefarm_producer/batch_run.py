"""Decoding a batch of files into a folder, as often interrupted and resumed as need be."""

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console

from vaefarm_shared.cli_errors import EXIT_FAILED, EXIT_INTERRUPTED
from vaefarm_shared.errors import (
    FarmError,
    InvalidInput,
    JobCanceled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
)
from vaefarm_shared.workers import serves

from .batch_plan import Batch, Plan, Planned, make_plan
from .batch_progress import BatchProgress
from .collecting import make_folder, write_file
from .farm import Farm
from .handle import Job
from .latent_files import prepare_file
from .manifest import Manifest
from .submission import PreparedJob

#: Failures that are listed at the end; the manifest has all.
LISTED: Final[int] = 20

#: What the manifest says of those without a picture.
STATUSES: Final[dict[type[FarmError], str]] = {
    JobFailed: "failed",
    JobCanceled: "canceled",
    JobExpired: "expired",
    JobNotFound: "lost",
    JobConflict: "conflict",
    InvalidInput: "refused",
}

HOW_TO_RESUME: Final[str] = "the same command with --resume collects them and makes the rest"


@dataclass(slots=True)
class Work:
    """A file on its way, and what its metadata say once it was read."""

    planned: Planned
    metadata: dict[str, str] = field(default_factory=dict)


class BatchRun:
    """One run of a batch."""

    def __init__(self, farm: Farm, batch: Batch, manifest: Manifest, way: str, as_json: bool) -> None:
        """`way`: how the farm is reached, 'redis' or 'http': a job that was made one way is another's the other way."""
        self._farm, self._batch, self._manifest = farm, batch, manifest
        self._way, self.as_json = way, as_json
        self._digest = batch.digest

    def is_there(self, one: Planned) -> bool:
        """Whether all of a file's pictures are there, and none is known to be made with other options."""
        return all(
            self._manifest.made.get(output, self._digest) == self._digest and has_bytes(self._batch.out / output)
            for output in one.outputs
        )

    def note_present(self, present: Sequence[Planned]) -> None:
        """Write down pictures that are there without a line of the manifest: a crash came between the two."""
        self._manifest.append(
            {"id": None, "file": str(one.path), "output": output, "status": "present", "options": self._digest}
            for one in present
            for output in one.outputs
            if output not in self._manifest.made
        )

    def prepare(self, work: Work) -> PreparedJob:
        """Read a file; its job's id is made of content, options and the first picture's name, so that a later run
        finds the job."""
        batch, planned = self._batch, work.planned
        job, work.metadata = prepare_file(self._farm, planned.path, batch.vae, batch.height, batch.width, batch.options)
        content = "\0".join((job.spec.request_hash, planned.outputs[0], self._way))
        job_id = hashlib.sha256(content.encode()).hexdigest()[:32]
        return PreparedJob(job.spec.model_copy(update={"id": job_id}), job.packed)

    def collect(self, work: Work, job: Job) -> list[dict[str, Any]]:
        """Write a job's pictures, then the manifest; then the farm needs it no more."""
        result = job.fetch()
        entries = []
        for data, output in zip(result.data, work.planned.outputs, strict=True):
            path = self._batch.out / output
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, data)
            except OSError as error:
                raise FarmError(f"{path} cannot be written: {error.strerror}") from error
            record = result.record
            waited = (record.ended_at or 0.0) - (record.queued_at or 0.0)
            entries.append(
                {
                    **self._entry(job.id, work, output, "finished"),
                    "seconds": round(waited, 3),
                    "seconds_decode": round(result.report.seconds_decode, 3),
                }
            )
        self._manifest.append(entries)
        # What is left of it goes with its life.
        with suppress(FarmError):
            job.discard()
        return entries

    def fail(self, job_id: str | None, work: Work, error: FarmError) -> dict[str, Any]:
        """Write down what has no picture."""
        status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
        entry = {**self._entry(job_id, work, None, status), "error": str(error)}
        self._manifest.append([entry])
        return entry

    def _entry(self, job_id: str | None, work: Work, output: str | None, status: str) -> dict[str, Any]:
        told = {name: work.metadata[name] for name in ("seed", "prompt") if name in work.metadata}
        entry: dict[str, Any] = {"id": job_id, "file": str(work.planned.path), "output": output, "status": status}
        return entry | told | {"metadata": work.metadata, "options": self._digest}

    def say(self, entry: dict[str, Any]) -> None:
        """Print an object for programs."""
        if self.as_json:
            print(json.dumps(entry), flush=True)

    def go(self, missing: Sequence[Planned], progress: BatchProgress, window: int, timeout: float | None) -> list[str]:
        """Make what is missing; what could not be made, one line each."""
        failures = []
        works = (Work(one) for one in missing)
        flow = self._farm.flow(
            works, self.prepare, self.collect, window=window, ordered=False, timeout=timeout, is_owner=False
        )
        with closing(flow.outcomes()) as outcomes:
            for outcome in outcomes:
                if outcome.error is not None:
                    self.say(self.fail(outcome.job_id, outcome.item, outcome.error))
                    failures.append(named(outcome.item.planned.path, outcome.error))
                for entry in outcome.value or ():
                    self.say(entry)
                progress.advance(failed=outcome.error is not None)
        return failures


def run_batch(
    farm: Farm, batch: Batch, way: str, *, resume: bool, window: int, timeout: float | None, as_json: bool
) -> None:
    """Decode a batch; exit 1 when some could not be, 130 on Ctrl-C.

    Raises InvalidInput, and whatever ends the run early, with what is under way left to a later one.
    """
    make_folder(batch.out)
    with Manifest(batch.out) as manifest:
        run = BatchRun(farm, batch, manifest, way, as_json)
        with Console(stderr=True).status("reading headers ..."):
            plan = make_plan(farm, batch)
        there: list[Planned] = []
        missing: list[Planned] = []
        for one in plan.planned:
            (there if run.is_there(one) else missing).append(one)
        if resume:
            run.note_present(there)
        elif there:
            print(f"vaefarm: {len(there)} files are done in {batch.out}; they are made anew", file=sys.stderr)
            missing = plan.planned
        present = len(plan.planned) - len(missing)
        total, wonder = len(plan.planned) + len(plan.refused), partial(no_worker, farm, batch.vae)
        with BatchProgress(total, present, as_json, wonder) as progress:
            run.say({"total": progress.total, "present": present, "refused": len(plan.refused)})
            try:
                failures = refused(run, plan, progress)
                failures += run.go(missing, progress, window, timeout)
            except KeyboardInterrupt:
                end(progress, "interrupted")
                raise typer.Exit(EXIT_INTERRUPTED) from None
            except FarmError as error:
                if not isinstance(error, InvalidInput):
                    end(progress, "ended")
                raise
        summarise(run, progress, batch.out, failures)


def no_worker(farm: Farm, vae: str) -> str | None:
    """That no worker serves a VAE, if none does."""
    try:
        if any(vae in serves(one) for one in farm.workers()):
            return None
    except FarmError:
        return None
    return f"no worker serves {vae}, so the jobs wait for one: vaefarm worker --vaes {vae}"


def refused(run: BatchRun, plan: Plan, progress: BatchProgress) -> list[str]:
    """Tell at once of what cannot be decoded; one line each for the end."""
    if plan.refused:
        first = plan.refused[0][1]
        count = f"{len(plan.refused)} of {progress.total} files"
        print(f"vaefarm: {count} are left out, for the first {first}", file=sys.stderr)
    for path, error in plan.refused:
        run.say(run.fail(None, Work(Planned(path, ())), error))
        progress.advance(failed=True)
    return [named(path, error) for path, error in plan.refused]


def end(progress: BatchProgress, how: str) -> None:
    """Say how far it came, and how to go on."""
    done = progress.present + progress.done
    print(
        f"vaefarm: {how} with {done} of {progress.total} files done; jobs under way stay queued: {HOW_TO_RESUME}",
        file=sys.stderr,
    )


def summarise(run: BatchRun, progress: BatchProgress, out: Path, failures: Sequence[str]) -> None:
    """Say what was done; list what was not, and exit 1."""
    run.say(
        {
            "decoded": progress.done,
            "present": progress.present,
            "failed": progress.failed,
            "seconds": round(progress.seconds, 3),
        }
    )
    if not run.as_json:
        there = f", {progress.present} were there" if progress.present else ""
        print(f"{progress.done} files decoded into {out}{there}, {progress.failed} failed; {progress.rate:.1f}/s")
    for failure in failures[:LISTED]:
        print(f"vaefarm: {failure}", file=sys.stderr)
    if len(failures) > LISTED:
        print(f"vaefarm: and {len(failures) - LISTED} more, which the manifest names", file=sys.stderr)
    if failures:
        raise typer.Exit(EXIT_FAILED)


def named(path: Path, error: FarmError) -> str:
    """An error with its file, once."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def has_bytes(path: Path) -> bool:
    """Whether a file is there with anything in it: one that is empty was lost by its disk."""
    try:
        return path.stat().st_size > 0 and path.is_file()
    except OSError:
        return False

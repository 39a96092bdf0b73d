"""Pictures, latents and raw tensors into a folder, as their jobs end."""

import json
import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vaefarm_shared.errors import FarmError, InvalidOption

from .farm import Farm
from .handle import Job
from .result import LATENTS_SUFFIX, Result

#: File name endings of the formats.
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def make_folder(out: Path) -> None:
    """Make the folder for the pictures, before anything is queued for it. Raises InvalidOption."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"--out {out}: {error.strerror}; expected a folder that can be written") from error


def collect(farm: Farm, names: dict[Job, str], out: Path, timeout: float | None, as_json: bool) -> None:
    """Save each job's pictures as it ends; name those that failed, and exit 1 if there are any."""
    failures: list[str] = []
    waiting = dict(names)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    try:
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        # What goes elsewhere than the terminal must not be taken for its text.
        with Progress(*columns, *times, console=console, redirect_stdout=sys.stdout.isatty()) as progress:
            bar = progress.add_task("decoding", total=len(names))
            for job in farm.as_completed(names, timeout=timeout):
                try:
                    paths = save(job.fetch(), out, names[job])
                    say_saved(job, paths, as_json)
                except FarmError as error:
                    failures.append(str(error))
                del waiting[job]
                progress.advance(bar)
    except KeyboardInterrupt:
        print(f"vaefarm: {len(waiting)} jobs go on; collect them with:", file=sys.stderr)
        print("  vaefarm fetch " + " ".join(job.id for job in waiting), file=sys.stderr)
        raise typer.Exit(130) from None
    for failure in failures:
        print(f"vaefarm: {failure}", file=sys.stderr)
    if failures:
        raise typer.Exit(1)


def save(result: Result, out: Path, stem: str) -> list[Path]:
    """Write a job's pictures, or videos: STEM.png, or STEM-0.png, STEM-1.png, ... of several; else its tensor."""
    paths = []
    report = result.report
    suffixes = [SUFFIXES[one.image_format] for one in report.images] or [
        f".{one.video_format}" for one in report.videos
    ]
    suffixes = suffixes or [LATENTS_SUFFIX]
    for index, (data, suffix) in enumerate(zip(result.data, suffixes, strict=True)):
        path = out / (f"{stem}{suffix}" if len(result.data) == 1 else f"{stem}-{index}{suffix}")
        write_file(path, data)
        paths.append(path)
    return paths


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is whole, or as it was. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def say_saved(job: Job, paths: list[Path], as_json: bool) -> None:
    """Print what a job became."""
    if as_json:
        print(json.dumps({"id": job.id, "files": [str(path) for path in paths]}), flush=True)
    else:
        for path in paths:
            print(path, flush=True)

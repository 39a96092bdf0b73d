"""The producer's commands: submit, fetch, status, cancel."""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

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
from rich.table import Table

from vaefarm_shared import latents
from vaefarm_shared.checks import MAX_LATENT_BYTES
from vaefarm_shared.errors import FarmError, InvalidInput, InvalidOption
from vaefarm_shared.job import JobRecord
from vaefarm_shared.settings import Settings

from .farm import Farm
from .handle import Job, Result
from .submission import SubmitOptions

RedisOption = Annotated[str | None, typer.Option(help="Redis URL. Otherwise VAEFARM_REDIS_URL.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
TimeoutOption = Annotated[float | None, typer.Option(help="Seconds to wait for all; otherwise no limit.")]

#: File name endings of the formats.
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def submit(
    files: Annotated[list[Path], typer.Argument(help="Latents as safetensors files, one tensor each.")],
    vae: Annotated[str, typer.Option(help="VAE id, such as sdxl.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if missing.")] = Path(),
    height: Annotated[
        int | None, typer.Option(help="Pixels; for packed latents. Otherwise the file's metadata.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Pixels; for packed latents. Otherwise the file's metadata.")
    ] = None,
    image_format: Annotated[str, typer.Option("--format", help="png, jpeg or webp.")] = "png",
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg and webp. Otherwise 90.")] = None,
    reproducible: Annotated[bool, typer.Option("--reproducible", help="The pipeline's picture, bit for bit.")] = False,
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "normal",
    wait: Annotated[bool, typer.Option(help="Wait for the pictures, or print the job ids and end.")] = True,
    timeout: TimeoutOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue latents for decoding, wait, and save the pictures as FILE.png.

    Exits 1 when a job fails, and names it. On Ctrl-C the jobs go on: `vaefarm fetch` collects them.
    """
    if image_format not in SUFFIXES:
        raise InvalidOption(f"--format {image_format!r}: expected one of {', '.join(SUFFIXES)}")
    options: SubmitOptions = {
        "image_format": image_format,
        "reproducible": reproducible,
        "priority": priority,
    }
    if quality is not None:
        options["quality"] = quality
    with open_farm(redis) as farm:
        names = submit_files(farm, files, vae, height, width, options)
        if not wait:
            for job, stem in names.items():
                print(json.dumps({"id": job.id, "file": stem}) if as_json else job.id)
            return
        collect(farm, names, out, timeout, as_json)


def fetch(
    jobs: Annotated[list[str], typer.Argument(help="Job ids.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if missing.")] = Path(),
    timeout: TimeoutOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for jobs by their ids and save their pictures as ID.png."""
    with open_farm(redis) as farm:
        collect(farm, {farm.job(job_id): job_id for job_id in jobs}, out, timeout, as_json)


def status(
    jobs: Annotated[list[str] | None, typer.Argument(help="Job ids; none for the whole farm.")] = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show jobs by their ids, or the farm: its queues and workers."""
    with open_farm(redis) as farm:
        if not jobs:
            show_farm(farm, as_json)
        for job_id in jobs or ():
            record = farm.job(job_id).record()
            print(record.model_dump_json()) if as_json else show_record(record)


def cancel(
    jobs: Annotated[list[str], typer.Argument(help="Job ids.")],
    redis: RedisOption = None,
) -> None:
    """End jobs that have not ended."""
    with open_farm(redis) as farm:
        for job_id in jobs:
            job = farm.job(job_id)
            print(f"{job_id}: {'canceled' if job.cancel() else f'not canceled, it is {job.status()}'}")


def open_farm(redis: str | None) -> Farm:
    """A farm as environment and flag say, known to be reachable. Raises FarmUnavailable."""
    farm = Farm(settings=Settings.from_env(redis_url=redis))
    farm.ping()
    return farm


def submit_files(
    farm: Farm, files: Iterable[Path], vae: str, height: int | None, width: int | None, options: SubmitOptions
) -> dict[Job, str]:
    """Queue each file; every one is read and checked before the first is queued. Returns each job's file stem."""
    held = []
    for path in files:
        tensor, metadata = latents.read_file(path, MAX_LATENT_BYTES)
        held.append(
            (
                path,
                tensor,
                height or size_in(metadata, "height", path),
                width or size_in(metadata, "width", path),
            )
        )
    prepared = []
    for path, tensor, its_height, its_width in held:
        try:
            its_options: SubmitOptions = {**options, "height": its_height, "width": its_width}
            prepared.append(farm.prepare(tensor, vae=vae, **its_options))
        except InvalidInput as error:
            raise type(error)(f"{path}: {error}") from error
    jobs = farm.submit_prepared(prepared)
    return dict(zip(jobs, unique_stems(path.stem for path, *_ in held), strict=True))


def size_in(metadata: dict[str, str], name: str, path: Path) -> int | None:
    """Pixels that a file's metadata gives, if it does. Raises InvalidOption for what is no number."""
    if name not in metadata:
        return None
    try:
        return int(metadata[name])
    except ValueError as error:
        raise InvalidOption(f"{path}: its metadata says {name}={metadata[name]!r}; expected pixels") from error


def unique_stems(stems: Iterable[str]) -> list[str]:
    """File stems, numbered where several files of different folders share one."""
    seen: dict[str, int] = {}
    named = []
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
        named.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return named


def collect(farm: Farm, names: dict[Job, str], out: Path, timeout: float | None, as_json: bool) -> None:
    """Save each job's pictures as it ends; name those that failed, and exit 1 if there are any."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"--out {out}: {error.strerror}; expected a folder that can be written") from error
    failures: list[str] = []
    waiting = dict(names)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
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
    """Write a job's pictures: STEM.png, or STEM-0.png, STEM-1.png, ... when there are several."""
    paths = []
    for index, (data, image) in enumerate(zip(result.data, result.report.images, strict=True)):
        suffix = SUFFIXES[image.image_format]
        path = out / (f"{stem}{suffix}" if len(result.data) == 1 else f"{stem}-{index}{suffix}")
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.replace(path)
        paths.append(path)
    return paths


def say_saved(job: Job, paths: list[Path], as_json: bool) -> None:
    """Print what a job became."""
    if as_json:
        print(json.dumps({"id": job.id, "files": [str(path) for path in paths]}), flush=True)
    else:
        for path in paths:
            print(path, flush=True)


def show_record(record: JobRecord) -> None:
    """Print a job's record as a table."""
    table = Table("field", "value", show_header=False)
    fields: dict[str, Any] = record.model_dump(exclude={"report"}, exclude_none=True)
    if record.report is not None:
        fields |= record.report.model_dump(exclude={"images"}, exclude_none=True)
        fields["images"] = ", ".join(
            f"{image.width}x{image.height} {image.image_format}, {image.size_bytes} bytes"
            for image in record.report.images
        )
    for name, value in fields.items():
        if name.endswith("_at"):
            value = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        table.add_row(name, str(value))
    Console().print(table)


def show_farm(farm: Farm, as_json: bool) -> None:
    """Print queues and workers."""
    queues, workers = farm.queues(), farm.workers()
    if as_json:
        print(json.dumps({"queues": {queue.name: queue.queued for queue in queues}, "workers": workers}))
        return
    console = Console()
    depths = Table("queue", "queued", title="queues")
    for queue in queues:
        depths.add_row(queue.name, str(queue.queued))
    living = Table("worker", "device", "VAEs", "finished", "failed", title="workers")
    for worker in workers:
        vaes = worker.get("vaes")
        served = ", ".join(vaes) if isinstance(vaes, dict) else ""
        living.add_row(*(str(worker.get(name)) for name in ("name", "device")), served, *counts(worker))
    console.print(depths if queues else "no queue yet")
    console.print(living if workers else "no worker")


def counts(worker: dict[str, object]) -> tuple[str, str]:
    """How many jobs a worker finished and failed."""
    return str(worker.get("finished", "")), str(worker.get("failed", ""))

"""The operator's commands: status, pause, resume, failed, devices."""

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from vaefarm_shared.errors import Forbidden, InvalidOption, JobExpired, JobNotFound
from vaefarm_shared.failures import FailedJob
from vaefarm_shared.quarantine import Device
from vaefarm_shared.records import JobRecord

from .commands import FarmOption, JsonOption, farm_settings, open_farm
from .farm import Farm
from .plain_text import plain
from .top.command import place_of, print_picture


def status(
    jobs: Annotated[list[str] | None, typer.Argument(help="Job ids; none for the whole farm.")] = None,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show jobs by their ids, or the farm: its queues and workers, and what is held back."""
    with open_farm(url) as farm:
        if not jobs:
            show_farm(farm, place_of(farm_settings(url, None)), as_json)
        for job_id in jobs or ():
            record = farm.job(job_id).record()
            print(record.model_dump_json()) if as_json else show_record(record)


def pause(
    vaes: Annotated[list[str], typer.Argument(help="VAE ids.")],
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let no worker take jobs of these VAEs; submits go on, and so do jobs in hand."""
    with open_farm(url) as farm:
        for vae in vaes:
            changed = farm.pause(vae)
            say_paused(vae, "paused" if changed else "was paused already", changed, as_json)


def resume(
    vaes: Annotated[list[str] | None, typer.Argument(help="VAE ids.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every paused VAE.")] = False,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let workers take jobs of paused VAEs again."""
    if bool(vaes) == everything:
        raise InvalidOption("expected either VAE ids or --all")
    with open_farm(url) as farm:
        for vae in vaes or farm.paused():
            changed = farm.resume(vae)
            say_paused(vae, "resumed" if changed else "was not paused", changed, as_json)


def say_paused(vae: str, what: str, changed: bool, as_json: bool) -> None:
    """Print what became of a VAE."""
    print(json.dumps({"vae": vae, "changed": changed}) if as_json else f"{vae}: {what}")


def failed(
    retry: Annotated[list[str] | None, typer.Option(help="Job id to put back on its queue; may be repeated.")] = None,
    retry_all: Annotated[bool, typer.Option("--retry-all", help="Put every one back, of --vae if given.")] = False,
    vae: Annotated[str | None, typer.Option(help="Only jobs of this VAE.")] = None,
    limit: Annotated[int, typer.Option(help="Jobs shown at most, the newest first; 0 for all.", min=0)] = 100,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show failed jobs and why they failed, or put them back on their queues.

    A failed job is kept with its latent for a week, unless it says otherwise.
    """
    if retry and (retry_all or vae is not None):
        raise InvalidOption("--retry names jobs; expected it without --retry-all and --vae")
    with open_farm(url) as farm:
        if retry or retry_all:
            retry_jobs(farm, retry or [job.id for job in farm.failed(vae)], as_json)
            return
        jobs = sorted(farm.failed(vae), key=lambda job: -(job.ended_at or 0.0))
    shown = jobs[:limit] if limit else jobs
    if as_json:
        for job in shown:
            print(json.dumps(asdict(job)))
    else:
        show_failed(shown, len(jobs))


def retry_jobs(farm: Farm, job_ids: list[str], as_json: bool) -> None:
    """Put failed jobs back on their queues; say why one is not, and exit 1 then."""
    jobs, refused = [farm.job(job_id) for job_id in job_ids], False
    for job in track(jobs, "retrying", console=Console(stderr=True), transient=True, disable=len(jobs) < 100):
        try:
            retried = job.retry()
            why = "" if retried else f"not retried, it is {job.status().value}"
        except (JobNotFound, JobExpired) as error:
            retried, why = False, str(error)
        refused |= not retried
        if as_json:
            print(json.dumps({"id": job.id, "retried": retried, "reason": why}))
        else:
            print(f"{job.id}: {why or 'queued again'}")
    if refused:
        raise typer.Exit(1)


def show_failed(jobs: list[FailedJob], total: int) -> None:
    """Print failed jobs as a table."""
    console = Console()
    if not jobs:
        console.print("no failed job")
        return
    table = Table("job", "VAE", "ended", "attempts", "reason")
    for job in jobs:
        table.add_row(plain(job.id), plain(job.vae), clock(job.ended_at), str(job.attempts), plain(job.reason))
    console.print(table)
    if len(jobs) < total:
        console.print(f"the newest {len(jobs)} of {total}; --limit 0 shows all")


def devices(
    release: Annotated[list[str] | None, typer.Option(help="Device to use again; may be repeated.")] = None,
    release_all: Annotated[bool, typer.Option("--release-all", help="Use every quarantined device again.")] = False,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which worker has which GPU, and the devices that failed within ten minutes or are quarantined.

    Three failures within ten minutes quarantine a device. No worker uses a quarantined device until it is released.
    """
    if release and release_all:
        raise InvalidOption("expected either --release DEVICE or --release-all")
    with open_farm(url) as farm:
        if release or release_all:
            release_devices(farm, release or [device.id for device in farm.quarantined()], as_json)
            return
        found = farm.devices()
    if as_json:
        for device in found:
            print(json.dumps(asdict(device)))
        return
    table = Table("device", "worker", "exits in 10 min", "quarantined since", "reason")
    for device in found:
        workers = Text("\n").join(map(plain, device.workers))
        table.add_row(plain(device.id), workers, str(device.exits), clock(device.since), plain(device.reason or ""))
    Console().print(table if found else "no worker has a GPU, and no device failed of late")


def release_devices(farm: Farm, device_ids: list[str], as_json: bool) -> None:
    """Let devices be used again; exit 1 when one was not quarantined."""
    refused = False
    for device_id in device_ids:
        released = farm.release(device_id)
        refused |= not released
        if as_json:
            print(json.dumps({"device": device_id, "released": released}))
        else:
            print(f"{device_id}: {'released' if released else 'was not quarantined'}")
    if refused:
        raise typer.Exit(1)


def clock(seconds: float | None) -> str:
    """Unix seconds as local date and time; nothing for None."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def show_record(record: JobRecord) -> None:
    """Print a job's record as a table."""
    table = Table("field", "value", show_header=False)
    fields: dict[str, Any] = record.model_dump(exclude={"report"}, exclude_none=True)
    if record.report is not None:
        fields |= record.report.model_dump(exclude={"images", "videos", "latents", "tensor"}, exclude_none=True)
        fields["images"] = ", ".join(
            f"{image.width}x{image.height} {image.image_format}, {image.size_bytes} bytes"
            for image in record.report.images
        )
        if videos := record.report.videos:
            fields["videos"] = ", ".join(
                f"{one.width}x{one.height} {one.video_format}, {one.num_frames} frames, {one.size_bytes} bytes"
                for one in videos
            )
        for kind, made in (("latents", record.report.latents), ("tensor", record.report.tensor)):
            if made is not None:
                fields[kind] = f"{made.dtype} {made.shape}, {made.size_bytes} bytes"
    for name, value in fields.items():
        if name.endswith("_at"):
            value = clock(value)
        table.add_row(name, plain(value))
    Console().print(table)


def show_farm(farm: Farm, place: str, as_json: bool) -> None:
    """Print how the farm stands: for people as `vaefarm top` draws it, for programs as docs/operations.md says."""
    overview, spooled = farm.overview(), farm.spooled()
    if as_json:
        queues, quarantined = farm.queues(), quarantined_devices(farm)
        shown: dict[str, Any] = overview.model_dump(mode="json") | {
            "queues": {queue.name: queue.queued for queue in queues},
            "paused": [vae.id for vae in overview.vaes if vae.paused],
            "quarantined": None if quarantined is None else [asdict(device) for device in quarantined],
            "spooled": spooled,
        }
        print(to_json(shown).decode())
        return
    print_picture(overview, place)
    if spooled:
        print(f"spooled: {spooled} jobs (vaefarm submit --spool DIR)")


def quarantined_devices(farm: Farm) -> list[Device] | None:
    """Devices that no worker uses; None for a key that may not see devices."""
    try:
        return farm.quarantined()
    except Forbidden:
        return None

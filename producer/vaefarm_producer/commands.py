"""The producer's commands: submit, fetch, cancel."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from vaefarm_shared.errors import InvalidOption, JobNotFound
from vaefarm_shared.logs import LogFormat
from vaefarm_shared.settings import Settings

from .collecting import SUFFIXES, collect, make_folder
from .farm import Farm
from .flow import WINDOW
from .handle import Job
from .latent_files import prepare_file
from .naming import DEFAULT_TEMPLATE, NameTemplate
from .submission import SubmitOptions

RedisOption = Annotated[str | None, typer.Option(help="Redis URL. Otherwise VAEFARM_REDIS_URL.")]
# No option takes the key: whoever lists the machine's processes would read it.
FarmOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        "--redis",
        help="Redis, redis://HOST, or a gateway, https://HOST, whose key VAEFARM_KEY holds. Otherwise VAEFARM_URL, or"
        " VAEFARM_REDIS_URL.",
    ),
]
LogFormatOption = Annotated[
    LogFormat | None, typer.Option(help="text, or json: one object a line. Otherwise VAEFARM_LOG_FORMAT.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
TimeoutOption = Annotated[float | None, typer.Option(help="Seconds to wait for all; otherwise no limit.")]


def submit(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Latents as safetensors files, one tensor each, or folders of them; none to empty --spool."
        ),
    ] = None,
    vae: Annotated[str | None, typer.Option(help="VAE id, such as sdxl; needed with files.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if missing.")] = Path(),
    height: Annotated[
        int | None, typer.Option(help="Pixels; for packed latents. Otherwise the file's metadata.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Pixels; for packed latents. Otherwise the file's metadata.")
    ] = None,
    output_type: Annotated[str, typer.Option(help="pil for pictures, pt for the decoder's raw tensor.")] = "pil",
    image_format: Annotated[
        str | None, typer.Option("--format", help="png, jpeg or webp, of pictures. Otherwise png.")
    ] = None,
    video_format: Annotated[
        str | None, typer.Option(help="mp4, webp or zip (of frames in --format), of videos. Otherwise mp4.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a video, checked against the latents.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of a video. Otherwise its VAE's.")] = None,
    decode_timestep: Annotated[
        float | None, typer.Option(help="0 to 1, of LTX-Video 0.9.1 and later, as its pipeline got it. Otherwise 0.")
    ] = None,
    decode_noise_scale: Annotated[
        float | None, typer.Option(help="0 to 1, the same. Otherwise --decode-timestep. Above 0 it needs --seed.")
    ] = None,
    decode_chunk_size: Annotated[
        int | None, typer.Option(help="Frames decoded at a time, of Stable Video Diffusion. Otherwise all.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise that --decode-noise-scale mixes in.")] = None,
    quality: Annotated[int | None, typer.Option(help="1 to 100, for jpeg, webp and mp4. Otherwise 90.")] = None,
    reproducible: Annotated[bool, typer.Option("--reproducible", help="The pipeline's picture, bit for bit.")] = False,
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "normal",
    producer: Annotated[
        str | None, typer.Option(help="The lane that takes turns with others' within a priority. Otherwise default.")
    ] = None,
    embed_metadata: Annotated[
        bool, typer.Option(help="Write the files' metadata, such as prompt and seed, into the pictures.")
    ] = True,
    wait: Annotated[bool, typer.Option(help="Wait for the pictures, or print the job ids and end.")] = True,
    block: Annotated[bool, typer.Option("--block", help="Wait while the farm is full.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Make only what is not in --out, and wait for jobs of earlier runs.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(help=f"The pictures' names, such as '{{stem}}_{{seed}}.{{ext}}'. Otherwise '{DEFAULT_TEMPLATE}'."),
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help=f"Jobs under way at most. Otherwise {WINDOW}.")] = None,
    spool: Annotated[
        Path | None,
        typer.Option(help="Folder in which jobs wait while Redis is away. Otherwise VAEFARM_SPOOL."),
    ] = None,
    timeout: TimeoutOption = None,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue latents for decoding, wait, and save the pictures as FILE.png, raw tensors as FILE.safetensors.

    Exits 1 when a job fails, and names it. On Ctrl-C the jobs go on: `vaefarm fetch` collects them.

    With a folder, --resume, --name or --window: a batch of any size, so many jobs under way at a time. What became of
    each picture is in manifest.jsonl in --out. On Ctrl-C, or after a crash, the same command with --resume makes what
    is missing. Names have {folder}, {stem}, {number}, {index}, {ext}, {vae}, {height}, {width}, and what the file's
    metadata have, such as {seed}.

    With --spool and no files: send what an earlier submit left there, and say how many jobs that were.
    """
    is_batch = resume or name is not None or window is not None or any(path.is_dir() for path in files or ())
    if not files:
        if is_batch:
            raise InvalidOption("no files were given; expected safetensors files, or a folder of them")
        send_spooled(url, spool, timeout, as_json)
        return
    if vae is None:
        raise InvalidOption("--vae is missing; expected a VAE id such as sdxl")
    options = submit_options(
        image_format,
        output_type,
        reproducible=reproducible,
        priority=priority,
        quality=quality,
        producer=producer,
        video_format=video_format,
        num_frames=num_frames,
        fps=fps,
        decode_timestep=decode_timestep,
        decode_noise_scale=decode_noise_scale,
        decode_chunk_size=decode_chunk_size,
        seed=seed,
        embed_metadata=None if embed_metadata else False,
    )
    if is_batch:
        if not wait:
            raise InvalidOption("--no-wait is for files; a batch is waited for, so that not all is queued at once")
        # Here and not above: it needs file locks, which Windows has not.
        from .batch_plan import Batch
        from .batch_run import run_batch

        batch = Batch(files, out, vae, options, NameTemplate(name or DEFAULT_TEMPLATE), height, width)
        with open_farm(url, spool) as farm:
            way = "redis" if farm_settings(url, spool).url is None else "http"
            run_batch(
                farm,
                batch,
                way,
                resume=resume,
                window=WINDOW if window is None else window,
                timeout=timeout,
                as_json=as_json,
            )
        return
    if wait:
        make_folder(out)
    with open_farm(url, spool) as farm:
        names = submit_files(farm, files, vae, height, width, options, block)
        if left := farm.spooled():
            print(f"vaefarm: Redis is away, {left} jobs are spooled: a later submit sends them", file=sys.stderr)
        if not wait:
            for job, stem in names.items():
                print(json.dumps({"id": job.id, "file": stem}) if as_json else job.id)
            return
        collect(farm, names, out, timeout, as_json)


def submit_options(image_format: str | None, output_type: str, **others: Any) -> SubmitOptions:
    """The flags as options of a submit: those that say something. Raises InvalidOption."""
    if image_format is not None and image_format not in SUFFIXES:
        raise InvalidOption(f"--format {image_format!r}: expected one of {', '.join(SUFFIXES)}")
    if output_type not in ("pil", "pt"):
        raise InvalidOption(f"--output-type {output_type!r}: expected pil or pt")
    said = {"image_format": image_format, "output_type": output_type, **others}
    return cast("SubmitOptions", {name: value for name, value in said.items() if value is not None})


def fetch(
    jobs: Annotated[list[str], typer.Argument(help="Job ids.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if missing.")] = Path(),
    timeout: TimeoutOption = None,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for jobs by their ids and save their pictures as ID.png, latents and raw tensors as ID.safetensors."""
    make_folder(out)
    with open_farm(url) as farm:
        collect(farm, {farm.job(job_id): job_id for job_id in jobs}, out, timeout, as_json)


def cancel(
    jobs: Annotated[list[str] | None, typer.Argument(help="Job ids.")] = None,
    all_queued: Annotated[bool, typer.Option("--all-queued", help="Every waiting job of --vae.")] = False,
    vae: Annotated[str | None, typer.Option(help="VAE id; for --all-queued.")] = None,
    url: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """End jobs that have not ended, by their ids or all that wait for a VAE.

    Exits 1 when one of the ids is not known.
    """
    if bool(jobs) == all_queued or all_queued != (vae is not None):
        raise InvalidOption("expected either job ids, or --all-queued with --vae VAE")
    with open_farm(url) as farm:
        found = [farm.job(job_id) for job_id in jobs or ()]
        chosen = found or list(dict.fromkeys(farm.queued(vae or "")))
        # A job that is past its life has no record to cancel, but is not unknown.
        statuses = [status or status_of(job) for job, status in zip(chosen, farm.cancel_many(chosen), strict=True)]
    for job, status in zip(chosen, statuses, strict=True):
        if as_json:
            print(json.dumps({"id": job.id, "status": status}))
        else:
            print(f"{job.id}: {'canceled' if status == 'canceled' else f'not canceled, it is {status}'}")
    if not chosen:
        print(f"vaefarm: no job waits for {vae}", file=sys.stderr)
    if "not known" in statuses:
        raise typer.Exit(1)


def status_of(job: Job) -> str:
    """A job's status, 'not known' for one that nobody knows."""
    try:
        return job.status().value
    except JobNotFound:
        return "not known"


def farm_settings(url: str | None, spool: Path | None) -> Settings:
    """Settings as environment and flags say. Raises ConfigurationError."""
    settings = Settings.from_env(spool=None if spool is None else str(spool))
    return settings if url is None else settings.at(url)


def open_farm(url: str | None, spool: Path | None = None) -> Farm:
    """A farm as environment and flags say; without a spool, known to be reachable. Raises FarmUnavailable."""
    settings = farm_settings(url, spool)
    farm = Farm(settings=settings)
    if settings.spool is None:
        farm.ping()
    return farm


def send_spooled(url: str | None, spool: Path | None, timeout: float | None, as_json: bool) -> None:
    """Send what is in the spool, and say how many jobs that were; exit 1 when some were refused."""
    settings = farm_settings(url, spool)
    if settings.spool is None:
        raise InvalidOption("no files were given; expected safetensors files, or --spool DIR to send what is in it")
    with Farm(settings=settings) as farm, Console(stderr=True).status(f"sending {farm.spooled()} jobs ..."):
        farm.ping()
        flushed = farm.flush(timeout)
    if as_json:
        print(json.dumps(flushed._asdict()))
    else:
        print(f"{flushed.sent} jobs sent from {settings.spool}, {flushed.refused} refused")
    if flushed.refused:
        raise typer.Exit(1)


def submit_files(
    farm: Farm,
    files: Iterable[Path],
    vae: str,
    height: int | None,
    width: int | None,
    options: SubmitOptions,
    block: bool,
) -> dict[Job, str]:
    """Queue each file; every one is read and checked before the first is queued. Returns each job's file stem."""
    held = [(path, prepare_file(farm, path, vae, height, width, options)[0]) for path in files]
    jobs = farm.submit_prepared([job for _, job in held], block=block)
    return dict(zip(jobs, unique_stems(path.stem for path, _ in held), strict=True))


def unique_stems(stems: Iterable[str]) -> list[str]:
    """File stems, numbered where several files of different folders share one."""
    seen: dict[str, int] = {}
    named = []
    for stem in stems:
        seen[stem] = seen.get(stem, 0) + 1
        named.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return named

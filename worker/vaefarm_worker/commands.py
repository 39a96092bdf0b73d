"""The worker's command."""

import logging
import os
import re
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from redis import Redis

from vaefarm_shared import quarantine, tracing
from vaefarm_shared.blobs import check_store
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.connection import connect
from vaefarm_shared.errors import ConfigurationError, DeviceFault
from vaefarm_shared.logs import LogFormat, configure_logging
from vaefarm_shared.redis_policy import check_policy
from vaefarm_shared.redis_wait import reach
from vaefarm_shared.settings import Settings

from .beginning import patiently, wait_for_release
from .decoder import Decoder
from .decoders import make_decoder, make_pooled
from .device_names import check_name
from .holding import Holding
from .lifeline import Lifeline
from .option_lists import split_names
from .remote_option import remote_vaes
from .weights_folder import places_in
from .worker import Worker

logger = logging.getLogger(__name__)


def worker(
    vaes: Annotated[
        str | None, typer.Option(help="VAE ids to decode here, separated by commas.", envvar="VAEFARM_VAES")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the weights: one VAE, a pipeline with one, or a folder for each VAE id. Otherwise the"
            " catalogue says where they are.",
            envvar="VAEFARM_WEIGHTS",
        ),
    ] = None,
    remote: Annotated[
        list[str] | None,
        typer.Option(
            help="VAE=URL of an endpoint that decodes for this worker, or VAE for those of the catalogue; may be"
            " repeated. A VAE that --vaes names too goes there when the device is behind.",
            envvar="VAEFARM_REMOTE",
        ),
    ] = None,
    allow_http: Annotated[
        bool, typer.Option("--allow-http", help="Ask endpoints of other machines over http:// too, unencrypted.")
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            help="auto: a GPU that no other worker has, else MPS, else the CPU; or cuda, cuda:N, cpu, mps, xpu.",
            envvar="VAEFARM_DEVICE",
        ),
    ] = "auto",
    redis: Annotated[str | None, typer.Option(help="Redis URL. Otherwise VAEFARM_REDIS_URL.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="TOML file with more VAEs. Otherwise VAEFARM_CATALOGUE.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of this worker. Otherwise made of host and process.")] = None,
    burst: Annotated[bool, typer.Option("--burst", help="End when no job waits.")] = False,
    decoder: Annotated[
        str, typer.Option(help="local, or fake: pictures without a VAE, to measure the farm.")
    ] = "local",
    vram_limit: Annotated[
        str | None,
        typer.Option(
            help="Memory of the device for weights and decodes together, such as 6GiB; all of it unless given."
            " The VAE that was not used for longest makes room.",
            envvar="VAEFARM_VRAM_LIMIT",
        ),
    ] = None,
    idle_unload: Annotated[
        float | None,
        typer.Option(help="Seconds after which an unused VAE is dropped.", min=1, envvar="VAEFARM_IDLE_UNLOAD"),
    ] = None,
    fake_seconds: Annotated[float, typer.Option(help="Seconds that the fake decoder takes for a batch.", min=0)] = 0.0,
    fake_image_bytes: Annotated[
        int | None, typer.Option(help="Bytes of each PNG of the fake decoder, which then needs no encoding.", min=1)
    ] = None,
    fake_memory_bytes: Annotated[
        int | None, typer.Option(help="Memory of the fake decoder's device, at 4096 bytes a pixel.", min=1)
    ] = None,
    fake_devices: Annotated[
        int,
        typer.Option(
            help="Devices, fake-0 and so on, that the fake decoder has, for --device auto to take one.",
            min=0,
            envvar="VAEFARM_FAKE_DEVICES",
        ),
    ] = 0,
    decode_only: Annotated[
        bool, typer.Option("--decode-only", help="Keep no encoder in memory; encodes go to other workers.")
    ] = False,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact",
            help="Decode every job as a reproducible one: alone, and by nothing that changes bits. Otherwise"
            " VAEFARM_EXACT.",
        ),
    ] = None,
    cpu_dtype: Annotated[
        str | None,
        typer.Option(
            help="What a CPU decodes in: float32, bfloat16, or auto: bfloat16 where the processor multiplies it."
            " Otherwise each VAE's own, float32.",
            envvar="VAEFARM_CPU_DTYPE",
        ),
    ] = None,
    compile_sizes: Annotated[
        str | None,
        typer.Option(
            "--compile",
            metavar="SIZES",
            help="Sizes of pictures whose decode torch compiles at the start, such as 1024x1024,512x768; the others"
            " are decoded uncompiled.",
            envvar="VAEFARM_COMPILE",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="text, or json: one object a line. Otherwise VAEFARM_LOG_FORMAT.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Decode and encode jobs on this machine's GPU or CPU, with VAEs that stay loaded.

    SIGTERM or Ctrl-C finishes what is on the device, hands the rest back and exits 0; a second one exits at once, and
    its jobs go to another worker.
    """
    settings = Settings.from_env(
        redis_url=redis,
        catalogue=None if catalogue is None else str(catalogue),
        log_format=log_format,
        exact=exact,
    )
    configure_logging(verbose, settings.log_format)
    tracing.configure("vaefarm-worker")
    places = {} if weights is None else places_in(weights, vaes)
    catalogue_of = Catalogue.load(settings.catalogue, places)
    entries = chosen_entries(catalogue_of, vaes or ",".join(places) or None, remote)
    remotes = remote_vaes(catalogue_of, remote or (), allow_http=allow_http)
    limit_bytes = None if vram_limit is None else read_bytes(vram_limit, "--vram-limit")
    if decoder == "local":
        check_name(device)
    connection = connect(settings.redis_url.get_secret_value())
    reach(connection, settings.redis_wait)
    patiently(partial(say_warnings, connection, settings.allow_eviction))
    patiently(partial(check_store, settings))
    worker_name = name or default_name()
    # Before torch is imported: the renewer of leases must not wait for it.
    lifeline = Lifeline(settings, worker_name)
    holding = Holding(connection, lifeline, worker_name, settings.lease_seconds, waits_for_release=not remotes)
    make = partial(
        make_decoder,
        decoder,
        entries,
        device,
        limit_bytes=limit_bytes,
        idle_seconds=idle_unload,
        decode_only=decode_only,
        exact=settings.exact,
        cpu_dtype=cpu_dtype,
        compile_sizes=compile_sizes,
        fake_seconds=fake_seconds,
        fake_image_bytes=fake_image_bytes,
        fake_memory_bytes=fake_memory_bytes,
        fake_devices=fake_devices,
        holding=holding,
    )
    if remotes:
        asking = partial(quarantine.is_quarantined, connection)
        chosen: Decoder = make_pooled(
            make if entries else None,
            remotes,
            lambda device_id: patiently(partial(asking, device_id)),
            plain=settings.after_decode is not None,
            trust_env=settings.trust_env,
        )
    else:
        chosen = make()
        patiently(partial(wait_for_release, connection, chosen.device_id))
    serve(patiently(partial(Worker, settings, chosen, worker_name, lifeline)), chosen, connection, burst)


def serve(worker: Worker, chosen: Decoder, connection: Redis, burst: bool) -> None:
    """Run a worker until a signal stops it, or its burst is over; a fault of its decoder's device is noted.

    Raises:
        DeviceFault: the device is at fault; says how often it was of late.
    """
    stop_on_signals(worker)
    try:
        worker.run(burst)
    except DeviceFault as fault:
        exits = quarantine.note_exit(connection, chosen.device_id, str(fault))
        raise DeviceFault(
            f"device {chosen.device_id} is at fault ({exits} times in ten minutes): {fault}; its jobs were handed back"
        ) from fault
    finally:
        logging.shutdown()
        if worker.is_stuck:
            # A device that hangs would keep the interpreter from ending.
            os._exit(0)


def chosen_entries(catalogue: Catalogue, vaes: str | None, remote: Sequence[str] | None) -> list[VaeEntry]:
    """The entries of a list of ids separated by commas; none where endpoints decode all.

    Raises UnknownVae, ConfigurationError for none.
    """
    ids = split_names(vaes)
    if not ids and not (vaes is None and remote):
        named = "no VAE was named" if vaes is None else f"--vaes {vaes!r} names no VAE"
        raise ConfigurationError(
            f"{named}; expected --vaes with ids separated by commas, such as sd-v1,sdxl, or --remote VAE=URL"
        )
    return [catalogue[vae] for vae in dict.fromkeys(ids)]


def say_warnings(connection: Redis, allow_eviction: bool) -> None:
    """Log what Redis' policy risks. Raises ConfigurationError for one that evicts."""
    for warning in check_policy(connection, allow_eviction):
        logger.warning("%s", warning)


def read_bytes(text: str, name: str) -> int:
    """A number of bytes as people write it: 500MB, 6GiB, 6442450944. Raises ConfigurationError."""
    try:
        found = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        found = 0
    if found < 1:
        raise ConfigurationError(f"{name} {text!r} is no number of bytes; expected such as 6GiB, 500MB or 6442450944")
    return found


def default_name() -> str:
    """A name of RQ's characters that no other worker has."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{uuid4().hex[:6]}"


def stop_on_signals(worker: Worker) -> None:
    """First SIGTERM or SIGINT: stop when what is on the device is done. Second: at once."""
    asked = False

    def handle(signum: int, _: Any) -> None:
        nonlocal asked
        if asked:
            logger.warning("worker %s ends at once; its jobs go to another", worker.name)
            os._exit(128 + signum)
        asked = True
        logger.info("worker %s finishes what is on the device; once more ends it at once", worker.name)
        worker.stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)

"""Which decoder a worker has: a device, a fake, endpoints, or a device and endpoints."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import ConfigurationError, DeviceFault

from .decoder import Decoder
from .device_names import AUTO, check_name
from .gpus import take_gpu
from .holding import Holding
from .pooled_decoder import PooledDecoder

if TYPE_CHECKING:
    from .remote.remote_decoder import RemoteVae

logger = logging.getLogger(__name__)


def make_decoder(
    kind: str,
    entries: list[VaeEntry],
    device: str,
    fake_seconds: float = 0.0,
    fake_image_bytes: int | None = None,
    fake_memory_bytes: int | None = None,
    fake_devices: int = 0,
    limit_bytes: int | None = None,
    idle_seconds: float | None = None,
    decode_only: bool = False,
    exact: bool = False,
    cpu_dtype: str | None = None,
    compile_sizes: str | None = None,
    holding: Holding | None = None,
) -> Decoder:
    """The decoder of that kind, its entries loaded as far as there is room.

    Args:
        fake_devices: How many devices the fake decoder may choose from; 0 for one that nobody takes.
        exact: Whether every job will be a reproducible one.
        cpu_dtype: What a CPU decodes in, or "auto"; each entry's own unless given.
        compile_sizes: Sizes of pictures whose decode is compiled: '1024x1024,512x768'.
        holding: Takes a free GPU for `auto`, and tells of another that was chosen; without it nobody is told.

    Raises ConfigurationError, and DeviceFault for a broken GPU.
    """
    if kind == "fake":
        from .fake_decoder import FakeDecoder

        chosen = fake_device(device, fake_devices, holding)
        return FakeDecoder(
            entries, fake_seconds, fake_image_bytes, fake_memory_bytes, decode_only=decode_only, device=chosen
        )
    if kind != "local":
        raise ConfigurationError(f"--decoder {kind!r} is not known; expected local or fake")
    check_name(device)
    try:
        # Here and not above: torch takes seconds to import, and a client's install has none.
        from .fast.compiled import keep_compiled, read_sizes
        from .fast.cpu import on_cpu
        from .fast.threads import use_quota
        from .local_decoder import LocalDecoder
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"a worker needs {error.name}: pip install 'vaefarm[worker]'") from error
    use_quota()
    sizes = read_sizes(compile_sizes)
    if sizes:
        keep_compiled(os.environ.get("VAEFARM_COMPILE_CACHE"))
    taken = take_gpu(holding.take) if device == AUTO and holding is not None else None
    name, device_id = taken or (device, None)
    made = LocalDecoder(
        on_cpu(entries, cpu_dtype), name, limit_bytes, idle_seconds, decode_only, exact, sizes, device_id
    )
    if taken is None and holding is not None and made.is_gpu:
        holding.share(made.device_id)
    return made


def fake_device(device: str, count: int, holding: Holding | None) -> str | None:
    """The made-up device that a fake decoder has: a free one for `auto`, or the one that is named; None for others."""
    devices = [f"fake-{number}" for number in range(count)]
    if holding is None or not devices:
        return None
    if device == AUTO:
        return holding.take(devices)
    if device not in devices:
        return None
    holding.share(device)
    return device


def make_pooled(
    make: Callable[[], Decoder] | None,
    remotes: "Sequence[RemoteVae]",
    quarantined: Callable[[str], str | None],
    *,
    plain: bool = False,
    trust_env: bool = False,
) -> PooledDecoder:
    """Endpoints and, where `make` gives one, a device; one that fails or is quarantined is left out.

    Args:
        quarantined: Why a device is quarantined, by its id; None for one that is not.
        plain, trust_env: As RemoteDecoder has them.

    Raises:
        ConfigurationError: an endpoint, or the device's settings, are not as they should be.
    """
    try:
        from .remote.remote_decoder import RemoteDecoder
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"--remote needs {error.name}: pip install 'vaefarm[remote]'") from error
    remote = RemoteDecoder(remotes, plain=plain, trust_env=trust_env)
    if make is None:
        return PooledDecoder(None, remote)
    try:
        pooled = PooledDecoder(make(), remote)
    except DeviceFault as fault:
        pooled = PooledDecoder(None, remote, str(fault))
    except BaseException:
        remote.close()
        raise
    if pooled.local is not None and (reason := quarantined(pooled.device_id)) is not None:
        pooled.lose_device(f"device {pooled.device_id} is quarantined: {reason}")
    if pooled.device_fault is not None:
        logger.error("endpoints alone decode; restart the worker once its device is well: %s", pooled.device_fault)
    return pooled

"""The GPUs that this process may use, by their UUIDs: nvidia-smi lists them, so that no CUDA context is made on any.

Numbers in CUDA_VISIBLE_DEVICES are those of nvidia-smi, as with CUDA_DEVICE_ORDER=PCI_BUS_ID.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vaefarm_shared.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

#: What picks among the GPUs of a machine, for CUDA and for us.
VISIBLE: Final[str] = "CUDA_VISIBLE_DEVICES"

#: Seconds that a driver may take to list its GPUs: without persistence it is loaded for this.
LIST_SECONDS: Final[float] = 60.0

#: A line of `nvidia-smi -L`: "GPU 0: NVIDIA H100 (UUID: GPU-...)", below it "  MIG 1g.10gb Device 0: (UUID: MIG-...)".
LINE: Final = re.compile(r"\s*(GPU|MIG)\b.*\(UUID:\s*(\S+?)\)")


@dataclass(slots=True)
class Gpu:
    """A GPU of this machine, and the parts that it is divided into: CUDA then knows those alone."""

    uuid: str
    parts: list[str] = field(default_factory=list)

    @property
    def usable(self) -> list[str]:
        """What CUDA may be told to use."""
        return self.parts or [self.uuid]


def find_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may use, as nvidia-smi names them; none without its driver.

    Raises:
        ConfigurationError: the driver does not answer.
    """
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=LIST_SECONDS, check=False)
    except OSError:
        return []
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(
            f"`nvidia-smi -L` did not end within {LIST_SECONDS:g} s: the driver hangs; restart the machine, or set"
            " --device cpu"
        ) from error
    return visible(read_listing(listed.stdout), os.environ.get(VISIBLE)) if listed.returncode == 0 else []


def read_listing(text: str) -> list[Gpu]:
    """The GPUs that `nvidia-smi -L` printed, in its order."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        if (found := LINE.match(line)) is None:
            continue
        kind, uuid = found.groups()
        if kind == "GPU":
            gpus.append(Gpu(uuid))
        elif gpus:
            gpus[-1].parts.append(uuid)
    return gpus


def visible(gpus: Sequence[Gpu], wanted: str | None) -> list[str]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order, by numbers, UUIDs or their beginnings.

    As for CUDA, what comes behind one that there is not is left out.
    """
    if wanted is None:
        return [uuid for gpu in gpus for uuid in gpu.usable]
    found: list[str] = []
    for name in (one.strip() for one in wanted.split(",")):
        if name.isdecimal():
            named = gpus[int(name)].usable if int(name) < len(gpus) else []
        else:
            wholes = [gpu.usable for gpu in gpus if name and gpu.uuid.startswith(name)]
            parts = [[part] for gpu in gpus for part in gpu.parts if name and part.startswith(name)]
            named = (wholes + parts)[0] if len(wholes + parts) == 1 else []
        if not named:
            break
        found += named
    return list(dict.fromkeys(found))


def take_gpu(take: Callable[[Sequence[str]], str]) -> tuple[str, str] | None:
    """Have `take` choose a GPU; torch's name for it, and its id. None where this torch uses none. Before CUDA is used.

    Raises what `take` raises, and ConfigurationError as `find_gpus`.
    """
    # Here and not above: torch takes seconds to import.
    import torch

    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return None
    if listed := find_gpus():
        taken = take(listed)
        # From now on CUDA knows of that one alone.
        os.environ[VISIBLE] = taken
        return "cuda:0", taken
    # AMD's, and where a container was given no nvidia-smi: torch tells them apart, once CUDA is in use.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = {gpu_id(torch.device("cuda", number)): f"cuda:{number}" for number in range(count)}
    if not known:
        return None
    taken = take(list(known))
    return known[taken], taken


def gpu_id(device: "torch.device") -> str:
    """A GPU's UUID, as nvidia-smi names it."""
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"

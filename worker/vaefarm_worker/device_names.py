"""`--device`: which devices it may name, and what is said of one that this machine, or this torch, has not."""

import re
from typing import TYPE_CHECKING, Final

from vaefarm_shared.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

#: What takes whatever there is: a free GPU, else MPS, else the CPU.
AUTO: Final[str] = "auto"

#: A device's kind, and its number where it may have one.
NAME: Final = re.compile(r"(auto|cpu|mps)|(cuda|xpu)(?::([0-9]{1,4}))?")

#: What to do about a device that is not there.
OR_CPU: Final[str] = "or set --device cpu (VAEFARM_DEVICE=cpu)"


def check_name(name: str) -> None:
    """Raise ConfigurationError for a name that no device has."""
    if NAME.fullmatch(name) is None:
        raise ConfigurationError(f"--device {name!r} is not known; expected auto, cpu, cuda, cuda:N, mps, xpu or xpu:N")


def choose_device(name: str) -> "torch.device":
    """The torch device of that name; `cuda` and `xpu` are the first of theirs, `auto` is CUDA, else MPS, else the CPU.

    Raises:
        ConfigurationError: it is not there, or this torch was built without it.
    """
    # Here and not above: names are checked before torch is imported, which takes seconds.
    import torch

    check_name(name)
    if name == AUTO:
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if (missing := missing_of(kind, int(number or 0))) is not None:
        raise ConfigurationError(f"--device {name}: torch {torch.__version__} {missing}")
    device = torch.device(kind, int(number or 0)) if kind in ("cuda", "xpu") else torch.device(kind)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigurationError(
            f"--device {name}: torch {torch.__version__} cannot use it: {reason}; check the driver, {OR_CPU}"
        ) from error
    return device


def missing_of(kind: str, number: int) -> str | None:
    """What torch lacks for a device, to follow "torch 2.9", and what to do about it; None where nothing is missing."""
    import torch

    if kind == "cuda":
        if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
            return f"was built without CUDA: install a build with it (https://pytorch.org/get-started), {OR_CPU}"
        return _missing_number(
            number,
            torch.cuda.device_count() if torch.cuda.is_available() else 0,
            f"finds no GPU: check that nvidia-smi lists one, and that a container is given it (gpus: all), {OR_CPU}",
        )
    if kind == "xpu":
        return _missing_number(
            number,
            torch.xpu.device_count() if torch.xpu.is_available() else 0,
            f"finds no Intel GPU, or was built without XPU (https://pytorch.org/get-started): install that, {OR_CPU}",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        built = "finds no Apple GPU" if torch.backends.mps.is_built() else "was built without MPS, Apple's GPUs"
        return f"{built}: use a Mac with macOS' build of torch, {OR_CPU}"
    return None


def _missing_number(number: int, count: int, none: str) -> str | None:
    if count == 0:
        return none
    if number >= count:
        return f"finds {count} of them, numbered from 0: expected a number below {count}, {OR_CPU}"
    return None

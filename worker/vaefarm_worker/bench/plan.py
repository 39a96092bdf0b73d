"""What is to be measured: read from the command line, without torch."""

from dataclasses import dataclass
from typing import Final

from vaefarm_shared.errors import InvalidOption

from ..option_lists import split_names

#: Most of a picture's side, in pixels, of a batch and of runs.
MAX_SIZE: Final[int] = 16384
MAX_BATCH: Final[int] = 256
MAX_RUNS: Final[int] = 1000

#: The dtypes that a VAE may be measured in.
DTYPES: Final[tuple[str, ...]] = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Plan:
    """Every combination of these. What is empty depends on the device, and is filled in once that is known."""

    vaes: tuple[str, ...]
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    modes: tuple[str, ...]
    runs: int = 3
    dtype: str | None = None
    #: Whether VAEs whose weights are not here get random ones.
    random: bool = False
    #: Bytes that are taken to be there; all of the device's unless given.
    limit_bytes: int | None = None


def read_names(text: str | None) -> tuple[str, ...]:
    """The names of a list separated by commas, each once."""
    return tuple(dict.fromkeys(split_names(text)))


def read_numbers(text: str | None, option: str, most: int) -> tuple[int, ...]:
    """The whole numbers of a list separated by commas, each once. Raises InvalidOption."""
    numbers = []
    for name in read_names(text):
        if not (name.isascii() and name.isdecimal() and 1 <= int(name) <= most):
            raise InvalidOption(
                f"{option} {text!r}: {name!r} is no whole number from 1 to {most}; expected such as 1,4"
            )
        numbers.append(int(name))
    return tuple(numbers)


def read_plan(
    vaes: str | None,
    sizes: str | None,
    batches: str | None,
    modes: str | None,
    runs: int,
    dtype: str | None,
    random: bool,
    limit_bytes: int | None,
) -> Plan:
    """The command line's options as a plan. Raises InvalidOption, naming the option and what was expected."""
    if dtype is not None and dtype not in DTYPES:
        raise InvalidOption(f"--dtype {dtype!r} is not offered; expected one of {', '.join(DTYPES)}")
    if not 1 <= runs <= MAX_RUNS:
        raise InvalidOption(f"--runs {runs} is out of range; expected 1 to {MAX_RUNS}")
    return Plan(
        read_names(vaes),
        read_numbers(sizes, "--sizes", MAX_SIZE),
        read_numbers(batches, "--batches", MAX_BATCH),
        read_names(modes),
        runs,
        dtype,
        random,
        limit_bytes,
    )

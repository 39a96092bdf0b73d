"""Queue names: `vaefarm.{vae}.{priority}.{size}.{lane}`, so that a worker serves just what fits its device."""

from typing import Final

#: Priorities in the order in which they are served.
PRIORITIES: Final[tuple[str, ...]] = ("high", "normal", "low")

#: Size classes by output pixels of one picture: name and the largest count it holds.
SIZE_CLASSES: Final[tuple[tuple[str, int], ...]] = (
    ("s", 512 * 512),
    ("m", 1024 * 1024),
    ("l", 2048 * 2048),
    ("xl", 1 << 62),
)


def size_class(pixels: int) -> str:
    """The size class of a picture of that many pixels."""
    return next(name for name, most in SIZE_CLASSES if pixels <= most)


def size_classes(max_pixels: int | None, largest: int) -> tuple[str, ...]:
    """The size classes that a device holds: every picture of each has at most `max_pixels`, None for no limit.

    `largest`: pixels of the largest picture that the VAE's contract takes.
    """
    return tuple(name for name, most in SIZE_CLASSES if max_pixels is None or min(most, largest) <= max_pixels)


def parts_of(queue: str) -> tuple[str, str, str, str]:
    """VAE, priority, size class and lane in a queue's name; '' for what a plain one's does not say."""
    parts = queue.split(".")
    return (parts[1], parts[2], parts[3], parts[4]) if len(parts) == 5 else ("".join(parts[1:2]), "", "", "")


def size_of(queue: str) -> str:
    """The size class in a queue's name; '' in a plain one's."""
    return parts_of(queue)[2]


def queue_name(vae: str, priority: str, pixels: int, lane: str) -> str:
    """The queue of a job whose pictures have `pixels` pixels each; `lane` is the job's producer."""
    return f"vaefarm.{vae}.{priority}.{size_class(pixels)}.{lane}"


def plain_queue_name(vae: str) -> str:
    """The queue on which plain RQ jobs for a VAE arrive."""
    return f"vaefarm.{vae}"

"""Commands as the bytes that go to Redis, without a copy of the latents and pictures among them."""

from typing import Any, Final

from redis._parsers import Encoder
from redis.connection import HiredisRespSerializer, PythonRespSerializer
from redis.utils import HIREDIS_AVAILABLE

#: Bytes above which a copy of an argument costs more than what hiredis saves elsewhere.
LARGE_BYTES: Final[int] = 16 * 1024


class Packer:
    """What packs the commands of a connection: hiredis, but for those that carry something large.

    hiredis writes a command into one piece of memory: 128 KiB take it 85 us, redis-py's own packer 3, which hands over
    large arguments as they are.
    """

    def __init__(self) -> None:
        self._lean = PythonRespSerializer(LARGE_BYTES, Encoder("utf-8", "strict", decode_responses=False).encode)
        self._quick = HiredisRespSerializer() if HIREDIS_AVAILABLE else self._lean

    def pack(self, *arguments: Any) -> list[Any]:
        """The pieces of one command, to be sent one after another."""
        is_large = any(isinstance(argument, bytes) and len(argument) > LARGE_BYTES for argument in arguments)
        pieces: list[Any] = (self._lean if is_large else self._quick).pack(*arguments)
        return pieces

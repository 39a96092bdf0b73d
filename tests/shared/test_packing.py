"""Packing: what is large goes to Redis without a copy, and every command says what hiredis' says."""

import os
import tracemalloc
from typing import Any

import pytest
import redis
from redis.connection import HiredisRespSerializer

from vaefarm_shared.packing import LARGE_BYTES, Packer

LATENT = os.urandom(4 * LARGE_BYTES)


def test_a_latent_is_handed_over_as_it_is_and_not_copied() -> None:
    tracemalloc.start()
    pieces = Packer().pack("SET", "vaefarm:latent:a", LATENT, "EX", 600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert any(piece is LATENT for piece in pieces)
    assert peak < len(LATENT)


@pytest.mark.parametrize("large", [b"", b"x", b"x" * LARGE_BYTES, b"x" * (LARGE_BYTES + 1), LATENT])
def test_a_command_is_the_same_bytes_however_large_it_is(large: bytes) -> None:
    command: list[Any] = ["SCRIPT LOAD", "größe", large, 5, 0.25, b"\x00\xff\r\n"]

    assert b"".join(Packer().pack(*command)) == b"".join(HiredisRespSerializer().pack(*command))


def test_large_values_and_small_ones_share_a_transaction(connection: redis.Redis) -> None:
    with connection.pipeline() as pipe:
        for place in range(3):
            pipe.set(f"large:{place}", LATENT + bytes([place]), ex=60)
            pipe.set(f"small:{place}", place)
        assert pipe.execute() == [True] * 6

    assert [connection.get(f"large:{place}") for place in range(3)] == [LATENT + bytes([place]) for place in range(3)]
    assert connection.mget(*(f"small:{place}" for place in range(3))) == [b"0", b"1", b"2"]

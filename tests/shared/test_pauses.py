"""Pausing a VAE, seen by every process, and the word that wakes its workers again."""

import pytest
import redis
from tests.conftest import eventually

from vaefarm_shared import keys
from vaefarm_shared.pauses import pause, read_paused, resume


def test_a_pause_stays_until_it_is_resumed_and_each_says_whether_it_changed_anything(connection: redis.Redis) -> None:
    assert [pause(connection, "sdxl"), pause(connection, "flux"), pause(connection, "sdxl")] == [True, True, False]
    assert read_paused(connection) == ["flux", "sdxl"]

    assert [resume(connection, "sdxl"), resume(connection, "sdxl")] == [True, False]
    assert read_paused(connection) == ["flux"]


@pytest.mark.parametrize(("was_paused", "rings"), [(True, 1), (False, 0)])
def test_resuming_a_paused_vae_wakes_its_workers(connection: redis.Redis, was_paused: bool, rings: int) -> None:
    heard: list[object] = []
    with connection.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.doorbell("sdxl"), "end")
        both = {keys.doorbell("sdxl").encode(), b"end"}
        eventually("both are subscribed", lambda: both <= set(connection.pubsub_channels("*")))
        if was_paused:
            pause(connection, "sdxl")

        resume(connection, "sdxl")
        connection.publish("end", "")

        def ended() -> bool:
            message = pubsub.get_message(timeout=1.0)
            heard.extend([message["channel"]] if message else [])
            return b"end" in heard

        eventually("what was said is heard", ended)
    assert heard == [b"vaefarm:doorbell:sdxl"] * rings + [b"end"]

"""Devices that keep failing: counted by Redis' clock, quarantined at the third exit, used again when released."""

import redis

from vaefarm_shared import quarantine
from vaefarm_shared.quarantine import is_quarantined, note_exit, read_devices, read_quarantined, release


def test_the_third_exit_within_ten_minutes_quarantines_a_device_with_its_reason(connection: redis.Redis) -> None:
    assert [note_exit(connection, "host:GPU-1", "ECC error") for _ in range(2)] == [1, 2]
    assert is_quarantined(connection, "host:GPU-1") is None

    assert note_exit(connection, "host:GPU-1", "ECC error once more") == 3

    assert is_quarantined(connection, "host:GPU-1") == "ECC error once more"
    assert is_quarantined(connection, "host:GPU-2") is None


def test_exits_of_more_than_ten_minutes_ago_do_not_count(connection: redis.Redis) -> None:
    now, _ = connection.time()
    old = {f"old-{n}": now - quarantine.WINDOW_SECONDS - 1 - n for n in range(5)}
    connection.zadd(quarantine.exits_key("gpu"), old)

    assert note_exit(connection, "gpu", "x") == 1


def test_a_quarantine_stays_until_it_is_released_and_then_counts_anew(connection: redis.Redis) -> None:
    for _ in range(4):
        note_exit(connection, "gpu", "x")
    connection.delete(quarantine.exits_key("gpu"))
    assert is_quarantined(connection, "gpu") == "x"

    assert release(connection, "gpu")

    assert is_quarantined(connection, "gpu") is None
    assert not release(connection, "gpu")
    assert note_exit(connection, "gpu", "x") == 1


def test_what_is_kept_of_a_device_is_bounded_and_has_a_life(connection: redis.Redis) -> None:
    for _ in range(40):
        note_exit(connection, "gpu", "x")

    assert connection.zcard(quarantine.exits_key("gpu")) == quarantine.MAX_NOTED
    assert 0 < connection.ttl(quarantine.exits_key("gpu")) <= quarantine.WINDOW_SECONDS
    assert {key for key in connection.scan_iter() if connection.ttl(key) == -1} == {quarantine.QUARANTINE.encode()}


def test_devices_are_listed_with_their_exits_reason_and_time(connection: redis.Redis) -> None:
    for _ in range(3):
        note_exit(connection, "bad", "no kernel image")
    note_exit(connection, "shaky", "x")
    connection.hset(quarantine.QUARANTINE, "garbled", "{")

    found = {device.id: device for device in read_devices(connection)}

    assert {name: (device.exits, device.reason) for name, device in found.items()} == {
        "bad": (3, "no kernel image"),
        "garbled": (0, "its reason cannot be read"),
        "shaky": (1, None),
    }
    assert abs((found["bad"].since or 0) - connection.time()[0]) < 60
    assert [device.id for device in read_quarantined(connection)] == ["bad", "garbled"]

"""Locks on devices: one worker each, by Redis' clock and a token, free again when the lease ends."""

import threading

import pytest
import redis
from tests.conftest import eventually

from vaefarm_shared import device_locks, keys
from vaefarm_shared.connection import connect
from vaefarm_shared.device_locks import DeviceHold, lost_to, read_holders, renew, take
from vaefarm_shared.quarantine import note_exit, read_devices, release

TWO = ["GPU-1", "GPU-2"]


@pytest.mark.redis
def test_each_device_is_taken_by_one_worker_however_many_ask_at_the_same_moment(connection: redis.Redis) -> None:
    devices, found, ready = [f"GPU-{n}" for n in range(5)], [], threading.Barrier(12)

    def ask(name: str) -> None:
        with connect(f"redis://127.0.0.1:{connection.connection_pool.connection_kwargs['port']}/0") as own:
            own.ping()
            ready.wait()
            found.append(take(own, devices, name, f"token-{name}", 60.0))

    threads = [threading.Thread(target=ask, args=(f"w{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(hold.device for hold in found if hold is not None) == devices
    assert len(found) == 12


@pytest.mark.redis
def test_a_take_whose_reply_was_lost_is_repeated_and_takes_no_second_device(connection: redis.Redis) -> None:
    first = take(connection, TWO, "a", "token", 60.0)

    assert first == DeviceHold("GPU-1", "token", "a")
    assert take(connection, ["GPU-2", "GPU-1"], "a", "token", 60.0) == first
    assert [one.device for one in read_holders(connection)] == ["GPU-1"]


@pytest.mark.redis
def test_a_device_is_free_when_its_lease_has_ended_and_when_it_is_given_back(connection: redis.Redis) -> None:
    hold = take(connection, TWO[:1], "a", "token-a", 0.2)
    assert hold is not None
    assert take(connection, TWO[:1], "b", "token-b", 60.0) is None

    eventually("the lease ends", lambda: take(connection, TWO[:1], "b", "token-b", 60.0))

    assert lost_to(connection, hold) == renew(connection, hold, 60.0) == "b"
    device_locks.free(connection, hold)
    assert [one.worker for one in read_holders(connection)] == ["b"], "whose token is another frees nothing"
    device_locks.free(connection, DeviceHold("GPU-1", "token-b", "b"))
    assert read_holders(connection) == []
    assert take(connection, TWO[:1], "c", "token-c", 60.0) is not None


@pytest.mark.redis
def test_a_lease_that_ended_begins_anew_where_nobody_took_the_device(connection: redis.Redis) -> None:
    hold = take(connection, TWO, "a", "token", 0.05)
    assert hold is not None
    eventually("the lease ends", lambda: not read_holders(connection))
    assert lost_to(connection, hold) is None
    assert read_holders(connection) == [], "to ask renews nothing"

    assert renew(connection, hold, 60.0) is None

    assert [(one.device, one.worker) for one in read_holders(connection)] == [("GPU-1", "a")]


@pytest.mark.redis
def test_a_device_that_was_chosen_on_purpose_is_shared_by_those_who_did_and_left_alone_by_others(
    connection: redis.Redis,
) -> None:
    for name in ("a", "b"):
        assert renew(connection, DeviceHold("GPU-1", name, name, shared=True), 60.0) is None

    assert [(one.worker, one.shared) for one in read_holders(connection)] == [("a", True), ("b", True)]
    taken = take(connection, TWO, "c", "c", 60.0)
    assert taken is not None
    assert taken.device == "GPU-2"
    assert renew(connection, DeviceHold("GPU-2", "d", "d", shared=True), 60.0) is None
    assert renew(connection, taken, 60.0) is None, "who has it keeps it"


@pytest.mark.redis
def test_a_quarantined_device_is_taken_once_it_is_released(connection: redis.Redis) -> None:
    for _ in range(3):
        note_exit(connection, "GPU-1", "ECC error")

    assert take(connection, TWO[:1], "a", "a", 60.0) is None
    second = take(connection, TWO, "a", "a", 60.0)
    assert second is not None
    assert second.device == "GPU-2"

    release(connection, "GPU-1")
    assert take(connection, TWO, "b", "b", 60.0) == DeviceHold("GPU-1", "b", "b")


@pytest.mark.redis
def test_a_redis_that_is_full_still_gives_devices(connection: redis.Redis) -> None:
    connection.config_set("maxmemory", 1)
    try:
        hold = take(connection, TWO, "a", "a", 60.0)
        assert hold is not None
        assert renew(connection, hold, 60.0) is None
    finally:
        connection.config_set("maxmemory", 0)


@pytest.mark.redis
def test_what_somebody_garbled_holds_no_device_and_what_ended_is_forgotten(connection: redis.Redis) -> None:
    for token, text in {
        "x": "{",
        "y": "[]",
        "z": '{"until": "soon"}',
        "old": '{"until": 1}',
        "bare": '{"until": 9e9}',
    }.items():
        connection.hset(device_locks.DEVICES, token, text)
    assert read_holders(connection) == []

    hold = take(connection, TWO, "a", "a", 60.0)

    assert hold == DeviceHold("GPU-1", "a", "a")
    assert connection.hkeys(device_locks.DEVICES) == [b"a"]
    assert 0 < connection.ttl(device_locks.DEVICES) <= 24 * 3600
    assert not connection.keys(f"{keys.PREFIX}none")


def test_devices_are_listed_with_those_who_have_them(connection: redis.Redis) -> None:
    take(connection, TWO, "a", "a", 60.0)
    renew(connection, DeviceHold("GPU-3", "b", "b", shared=True), 60.0)
    note_exit(connection, "GPU-1", "x")
    note_exit(connection, "GPU-9", "x")

    assert {one.id: (one.exits, one.workers) for one in read_devices(connection)} == {
        "GPU-1": (1, ["a"]),
        "GPU-3": (0, ["b"]),
        "GPU-9": (1, []),
    }

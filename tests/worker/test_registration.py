"""A worker's entry on the lists of those that live."""

import time

import pytest
import redis
from rq.worker import BaseWorker

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.overview_reading import read_overview
from vaefarm_shared.reading import read_contract
from vaefarm_shared.workers import forget_dead, note_death, read_workers
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.registration import Registration


def test_a_worker_whose_entry_redis_lost_is_there_again_with_its_next_sign_of_life(connection: redis.Redis) -> None:
    registration = Registration(connection, "steady", FakeDecoder([Catalogue.load()["demo"]]))
    registration.birth()
    contract = read_contract(connection, "demo")
    assert contract is not None
    connection.flushall()
    registration.heartbeat()
    assert [one["name"] for one in read_workers(connection)] == ["steady"]
    assert [one.name for one in BaseWorker.all(connection)] == ["steady"], "RQ's tools list it, too"
    assert read_contract(connection, "demo") == contract, "latents are checked as before"
    registration.death()
    assert read_workers(connection) == []


def deaths(connection: redis.Redis) -> dict[str, float]:
    return {one.worker: one.at for one in read_overview(connection, None, 10).deaths or ()}


def vanish(connection: redis.Redis, name: str) -> None:
    """What becomes of a worker's entries that says nothing any more."""
    connection.delete(f"rq:worker:{name}", f"vaefarm:worker:{name}")


def test_a_worker_that_went_with_its_machine_is_told_of_as_dead_until_it_speaks_again(connection: redis.Redis) -> None:
    registration = Registration(connection, "steady", FakeDecoder([Catalogue.load()["demo"]]))
    registration.birth()
    connection.sadd("rq:queues", "rq:queue:vaefarm.demo")
    assert forget_dead(connection) == 0
    vanish(connection, "steady")
    assert forget_dead(connection) == 1
    assert deaths(connection)["steady"] == pytest.approx(time.time() - 30, abs=5), "its last sign of life was then"
    registration.heartbeat()
    assert deaths(connection) == {}
    registration.death()
    assert (forget_dead(connection), deaths(connection)) == (0, {}), "one that leaves is no dead one"


def test_a_death_that_was_noted_keeps_its_time(connection: redis.Redis) -> None:
    registration = Registration(connection, "steady", FakeDecoder([Catalogue.load()["demo"]]))
    registration.birth()
    connection.sadd("rq:queues", "rq:queue:vaefarm.demo")
    vanish(connection, "steady")
    note_death(connection, "steady")
    noted = deaths(connection)
    assert forget_dead(connection) == 1
    assert deaths(connection) == noted


def test_workers_of_other_programs_are_no_dead_of_ours(connection: redis.Redis) -> None:
    connection.sadd("rq:queues", "rq:queue:vaefarm.demo", "rq:queue:mail")
    for key in ("rq:workers", "rq:workers:mail"):
        connection.sadd(key, "rq:worker:postman")
    assert (forget_dead(connection), deaths(connection)) == (1, {})

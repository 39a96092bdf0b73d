"""A worker's entry on the lists of those that live."""

import redis
from rq.worker import BaseWorker

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.reading import read_contract
from vaefarm_shared.workers import read_workers
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

"""The outbox: each end of a job that names a webhook is delivered at least once, and none in the name of another."""

from typing import Any

import numpy as np
import pytest
import redis
from tests.claims import begin, take
from tests.conftest import Serve
from tests.job_model import submission

from vaefarm_producer import Farm, InvalidOption
from vaefarm_shared import keys, transitions, webhooks
from vaefarm_shared.job import JobSpec, JobStatus
from vaefarm_shared.transitions import Outcome

URL = "https://example.com/told?of=it"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LATENTS = np.zeros((1, 4, 8, 8), np.float32)

DAYS = 24 * 3600


def submit(connection: redis.Redis, name: str = "one", owner: str = "admin") -> None:
    transitions.submit(connection, [submission(name, 0.0, owner, webhook=URL, traceparent=TRACE)])


def end(connection: redis.Redis, status: JobStatus, reason: str = "") -> None:
    (claim,) = take(connection)
    begin(connection, claim)
    assert transitions.settle(connection, [Outcome(claim, status, "by-hand", reason)]) == [True]


def make_due(connection: redis.Redis) -> None:
    """As if every hold and delay were over."""
    waiting: Any = connection.zrange(keys.WEBHOOKS, 0, -1)
    connection.zadd(keys.WEBHOOKS, dict.fromkeys(waiting, 1.0))


@pytest.mark.redis
@pytest.mark.parametrize("status", ["finished", "failed", "expired", "canceled"])
def test_every_end_is_put_down_with_all_that_a_delivery_needs(status: str, connection: redis.Redis) -> None:
    submit(connection, owner="ann")
    assert webhooks.claim_due(connection, 10, 60.0) == []
    assert webhooks.next_due(connection) is None
    if status == "canceled":
        transitions.cancel(connection, "one", "why")
    else:
        end(connection, JobStatus(status), "why")

    (delivery,) = webhooks.claim_due(connection, 10, 60.0)

    assert delivery.url == URL
    assert (delivery.job_id, delivery.owner, delivery.status) == ("one", "ann", status)
    assert (delivery.reason, delivery.attempts, delivery.traceparent) == ("why", 1, TRACE)
    assert delivery.ended_at.encode() == connection.hget(keys.job("one"), "ended_at")
    assert 2 * DAYS < connection.ttl(keys.webhook("one")) <= 3 * DAYS
    assert webhooks.delivered(connection, delivery)
    assert not list(connection.scan_iter("vaefarm:webhook*"))


@pytest.mark.redis
def test_a_delivery_outlives_its_job(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", webhook=URL)
    serve()
    job.discard()
    (delivery,) = webhooks.claim_due(connection, 10, 60.0)
    assert (delivery.job_id, delivery.status, delivery.traceparent) == (job.id, "finished", None)


@pytest.mark.redis
def test_what_a_killed_deliverer_held_comes_back_when_its_hold_is_over(connection: redis.Redis) -> None:
    submit(connection)
    end(connection, JobStatus.FINISHED)
    (first,) = webhooks.claim_due(connection, 10, 60.0)
    assert webhooks.claim_due(connection, 10, 60.0) == []
    assert 50 < (webhooks.next_due(connection) or 0) <= 60

    make_due(connection)

    assert webhooks.next_due(connection) == 0.0
    (second,) = webhooks.claim_due(connection, 10, 60.0)
    assert (second.ended_at, second.attempts) == (first.ended_at, 2)
    assert webhooks.delivered(connection, first)
    assert not webhooks.delivered(connection, second), "somebody was faster"


@pytest.mark.redis
def test_one_that_failed_is_due_when_it_says(connection: redis.Redis) -> None:
    submit(connection)
    end(connection, JobStatus.FINISHED)
    (delivery,) = webhooks.claim_due(connection, 10, 60.0)
    assert webhooks.failed(connection, delivery, 500.0)
    assert 490 < (webhooks.next_due(connection) or 0) <= 500
    assert webhooks.failed(connection, delivery, None)
    assert webhooks.next_due(connection) is None


@pytest.mark.redis
@pytest.mark.parametrize("answer", ["delivered", "failed", "given up"])
def test_an_answer_for_an_earlier_end_leaves_a_later_one_alone(answer: str, connection: redis.Redis) -> None:
    submit(connection)
    end(connection, JobStatus.FAILED, "bad luck")
    (earlier,) = webhooks.claim_due(connection, 10, 60.0)
    assert transitions.retry(connection, "one") == "queued"
    end(connection, JobStatus.FINISHED)

    if answer == "delivered":
        assert not webhooks.delivered(connection, earlier)
    else:
        assert not webhooks.failed(connection, earlier, 500.0 if answer == "failed" else None)

    (later,) = webhooks.claim_due(connection, 10, 60.0)
    assert (later.status, later.reason, later.attempts) == ("finished", "", 1)


def test_the_first_due_comes_first_and_no_more_than_asked_for(connection: redis.Redis) -> None:
    for name in ("one", "two", "three"):
        submit(connection, name)
        transitions.cancel(connection, name)
    assert [one.job_id for one in webhooks.claim_due(connection, 2, 60.0)] == ["one", "two"]
    assert [one.job_id for one in webhooks.claim_due(connection, 2, 60.0)] == ["three"]


def test_where_nobody_delivers_nothing_piles_up(connection: redis.Redis) -> None:
    connection.zadd(keys.WEBHOOKS, {f"old-{n}": 1000 + n for n in range(100)})
    submit(connection)
    transitions.cancel(connection, "one")
    assert connection.zrange(keys.WEBHOOKS, 0, -1) == [b"one"]
    connection.delete(keys.webhook("one"))
    assert webhooks.claim_due(connection, 10, 60.0) == []
    assert not connection.exists(keys.WEBHOOKS), "an entry whose life is over goes when it is met"


def test_a_job_without_a_webhook_puts_nothing_down(farm: Farm, connection: redis.Redis) -> None:
    farm.submit(LATENTS, vae="demo").cancel()
    assert not connection.exists(keys.WEBHOOKS)


@pytest.mark.parametrize("url", ["ftp://example.com/", "https://", "https://a b/", "https://a/\nX: y", "x" * 3000, ""])
def test_what_is_no_url_is_refused(url: str, farm: Farm) -> None:
    with pytest.raises(InvalidOption, match="webhook"):
        farm.submit(LATENTS, vae="demo", webhook=url)


def test_a_webhook_is_a_circumstance_and_no_part_of_the_request(connection: redis.Redis) -> None:
    told, untold = submission("one", 0.0, webhook=URL).spec, submission("one", 0.0).spec
    assert told.request_hash == untold.request_hash
    assert JobSpec.from_json(told.to_json()).webhook == URL
    assert JobSpec.from_json(told.to_json()).version == untold.version

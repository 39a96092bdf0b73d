"""What waits in a worker with a device and an endpoint, by itself."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.conftest import eventually
from tests.forwarding.conftest import entry, remote, stripes
from tests.worker.items import item, randn
from tests.worker.remote.bad_endpoint import BadEndpoint, Hangs

from vaefarm_shared.leases import Claim
from vaefarm_shared.settings import Settings
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.loading import Loaded
from vaefarm_worker.pool import Pool
from vaefarm_worker.pooled_decoder import PooledDecoder
from vaefarm_worker.sharing import Side
from vaefarm_worker.station import Station


@pytest.fixture
def decoder(endpoint: BadEndpoint) -> Iterator[PooledDecoder]:
    """A device, and an endpoint with one slot that answers nothing."""
    endpoint.behave(then=Hangs())
    made = PooledDecoder(stripes(), remote(entry(endpoint.url, concurrency=1, timeout_seconds=60.0)))
    yield made
    made.close()


@pytest.fixture
def pool(decoder: PooledDecoder, settings: Settings, shared_lifelines: Callable[[Settings], Lifeline]) -> Pool:
    return Pool(Station("here", settings, decoder, shared_lifelines(settings)))


def loaded(decoder: PooledDecoder, count: int) -> list[Loaded]:
    items = [item(decoder.remote, "demo", randn(1, 4, 8, 8, seed=seed)) for seed in range(count)]
    return [Loaded(Claim(str(number), "", "", 0.0), one, "", 0.0, False) for number, one in enumerate(items)]


def test_what_was_claimed_for_an_endpoint_that_has_no_slot_any_more_is_the_devices(
    endpoint: BadEndpoint, decoder: PooledDecoder, pool: Pool
) -> None:
    pool.put([(one, Side.ENDPOINT) for one in loaded(decoder, 2)])
    with pool.changed:
        (first,) = pool.take_forwarded()
    decoder.remote.start(first.item, lambda outcome, seconds: None)
    eventually("its slot is taken", lambda: endpoint.requests == 1)
    with pool.changed:
        assert pool.take_forwarded() == []
        (second,) = pool.take()
    assert {first.claim.job_id, second.claim.job_id} == {"0", "1"}


def test_a_job_that_began_with_its_claim_shares_no_batch_when_it_is_left_to_the_device(
    endpoint: BadEndpoint, decoder: PooledDecoder, pool: Pool
) -> None:
    first, second, third = loaded(decoder, 3)
    begun = replace(third, begun=1)
    decoder.remote.start(first.item, lambda outcome, seconds: None)
    eventually("its slot is taken", lambda: endpoint.requests == 1)
    pool.put([(second, Side.EITHER), (begun, Side.ENDPOINT)])
    with pool.changed:
        assert pool.take_forwarded() == []
        assert [pool.take(), pool.take()] == [[second], [begun]]

"""Which side decodes a job that the other could not."""

from tests.forwarding.conftest import entry, remote, stripes
from tests.worker.items import item, randn
from tests.worker.remote.bad_endpoint import BadEndpoint

from vaefarm_shared.errors import EndpointRefused, OutOfMemory
from vaefarm_worker.pooled_decoder import PooledDecoder
from vaefarm_worker.sharing import Side
from vaefarm_worker.sides import Sides


def test_a_job_turns_to_the_other_side_once_and_after_its_end_again() -> None:
    with BadEndpoint() as endpoint:
        by = remote(entry(endpoint.url))
        try:
            decoder = PooledDecoder(stripes(), by)
            spec, sides = item(decoder, "demo", randn(1, 4, 8, 8)).spec, Sides(decoder)
            assert sides.of(spec) is Side.EITHER
            assert sides.turn(spec, EndpointRefused("it will not"))
            assert sides.of(spec) is Side.DEVICE
            assert not sides.turn(spec, OutOfMemory("nor can the device")), "it would go to and fro for ever"
            sides.forget(spec.id)
            assert sides.of(spec) is Side.EITHER
            assert sides.turn(spec, OutOfMemory("the device cannot"))
            assert sides.of(spec) is Side.ENDPOINT
        finally:
            by.close()


def test_an_error_of_the_jobs_own_turns_nothing() -> None:
    sides = Sides(stripes())
    assert not sides.turn(item(stripes(), "demo", randn(1, 4, 8, 8)).spec, ValueError("x"))

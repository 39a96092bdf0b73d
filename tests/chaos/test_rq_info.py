"""`rq info` runs RQ's own cleanup of started jobs: it must find nothing of ours to fail."""

import pytest
from tests.chaos.arena import Arena
from tests.chaos.onlooker import Onlooker
from tests.chaos.oracle import Verdict
from tests.conftest import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_rq_info_in_a_loop_fails_no_job_and_spends_no_attempt(arena: Arena) -> None:
    jobs = arena.oracle.submit(range(8))
    # Longer than a look takes, so that each decode is looked at.
    arena.crew.tend("--seconds", "2.5", size=2)

    with Onlooker(arena.settings.redis_url.get_secret_value()) as onlooker:
        assert arena.oracle.verdict() == Verdict(jobs=8)
        seen = onlooker.looks
        eventually("it looks at what is left", lambda: onlooker.looks > seen + 1)

    assert onlooker.looks >= 4
    assert {job.record().attempts for job in jobs} == {1}
    assert not [key for key in arena.connection.scan_iter("rq:failed:*")]

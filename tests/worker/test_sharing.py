"""Which jobs go to endpoints while there is a device: the policy alone."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaefarm_worker.sharing import ahead, overflow


def test_the_device_goes_first_while_it_is_as_quick() -> None:
    assert overflow(backlog_seconds=2.0, job_seconds=0.1, remote_seconds=2.0, free_slots=8) == 0


def test_only_so_many_go_that_what_is_left_takes_the_device_as_long_as_an_endpoint() -> None:
    assert overflow(backlog_seconds=2.5, job_seconds=0.125, remote_seconds=2.0, free_slots=8) == 4


def test_no_more_go_than_there_are_slots() -> None:
    assert overflow(backlog_seconds=1000.0, job_seconds=0.1, remote_seconds=2.0, free_slots=3) == 3


def test_all_go_where_the_device_cannot_decode_now() -> None:
    assert overflow(backlog_seconds=inf, job_seconds=0.0, remote_seconds=60.0, free_slots=3) == 3


@pytest.mark.parametrize(("remote_seconds", "free_slots"), [(None, 8), (1.0, 0)])
def test_none_go_where_no_endpoint_can_be_asked(remote_seconds: float | None, free_slots: int) -> None:
    assert overflow(inf, 0.1, remote_seconds, free_slots) == 0


def test_none_go_before_it_is_known_what_a_job_takes_the_device() -> None:
    assert overflow(backlog_seconds=5.0, job_seconds=0.0, remote_seconds=0.1, free_slots=8) == 0


@given(st.floats(0, 1e4), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 64))
def test_what_goes_never_leaves_the_device_idle_before_an_endpoint_is_done(
    backlog: float, each: float, remote: float, free: int
) -> None:
    gone = overflow(backlog, each, remote, free)
    assert 0 <= gone <= free
    assert gone == 0 or backlog - (gone - 1) * each > remote


def test_a_quarter_of_the_slots_waits_ahead_and_one_at_least() -> None:
    assert [ahead(slots) for slots in (0, 1, 3, 8, 32)] == [0, 1, 1, 2, 8]

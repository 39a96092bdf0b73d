"""From where a worker claims next, and how much: the policy alone."""

import pytest

from vaefarm_worker.claiming import BATCH_SECONDS, LOWEST_FIRST, ClaimOrder, Cost

SIZES = {"sdxl": ("s", "m"), "flux": ("s",)}


def test_higher_priorities_come_first_and_low_gets_one_claim_in_ten() -> None:
    order = ClaimOrder(["sdxl"])
    firsts = [order.next(Cost(), SIZES)[0].priority for _ in range(10 * LOWEST_FIRST)]

    assert firsts.count("low") == 10
    assert set(firsts) == {"high", "low"}
    assert [one.priority for one in order.next(Cost(), SIZES)] == ["high", "normal", "low"]


def test_vaes_take_turns_within_a_priority_and_name_the_sizes_that_fit() -> None:
    order = ClaimOrder(["sdxl", "flux"])
    first, second = order.next(Cost(), SIZES), order.next(Cost(), SIZES)

    assert {first[0].vae, second[0].vae} == {"sdxl", "flux"}
    assert {(one.vae, tuple(one.size_classes)) for one in first} == set(SIZES.items())


def test_the_cost_of_a_pixel_is_learned_by_vae() -> None:
    cost = Cost()
    assert (cost.is_known("sdxl"), cost.seconds("sdxl", 1000)) == (False, 0.0)

    for _ in range(50):
        cost.note("sdxl", 1000, 2.0)
    cost.note("flux", 1000, 8.0)

    assert cost.seconds("sdxl", 500) == pytest.approx(1.0)
    assert cost.seconds_per_pixel("flux") == pytest.approx(0.008)


def test_a_batch_takes_no_more_than_its_seconds_and_no_less_than_a_job() -> None:
    cost = Cost()
    assert cost.batch_pixels("sdxl", 5000) == 5000, "nothing is known yet"
    cost.note("sdxl", 1000, 0.5)

    assert cost.batch_pixels("sdxl", 5000) == pytest.approx(1000 * BATCH_SECONDS / 0.5, abs=1)
    assert cost.batch_pixels("sdxl", 100) == 100
    cost.note("slow", 1, 100.0)
    assert cost.batch_pixels("slow", 5000) == 1

"""The memory estimate: what it allows fits by all that it saw, and what ran out of memory once is not tried again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaefarm_worker.families.known import FAMILIES
from vaefarm_worker.memory import EASING, LEARNING_PIXELS, MAX_ELEMENTS, SHARE, MemoryEstimate, PixelCost
from vaefarm_worker.memory_mode import MemoryMode

GIB = 2**30
KL = FAMILIES["AutoencoderKL"]
STABLE_DIFFUSION: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512]}
TINY: dict[str, Any] = {"decoder_block_out_channels": [64, 64, 64, 64]}

pixel_counts = st.integers(LEARNING_PIXELS, 2**26)
peaks = st.lists(st.tuples(pixel_counts, st.integers(0, 100 * GIB)), min_size=1, max_size=20)
free = st.integers(0, 200 * GIB)
#: Batches that ran out of memory: pictures, and pixels of each.
failures = st.lists(st.tuples(st.integers(1, 64), st.integers(64, 4096 * 4096)), min_size=1, max_size=10)


def estimate(cost: PixelCost | None = None) -> MemoryEstimate:
    costs = [KL.pixel_cost(STABLE_DIFFUSION, 2), FAMILIES["AutoencoderTiny"].pixel_cost(TINY, 2)]
    return MemoryEstimate({"vae": cost or costs[0], "other": costs[1]})


@pytest.mark.parametrize(
    ("config", "itemsize", "planned", "widest"),
    [(STABLE_DIFFUSION, 2, 4400, 256), (STABLE_DIFFUSION, 4, 8800, 256), (TINY, 2, 800, 64)],
)
def test_the_plan_is_that_of_the_network_and_its_dtype(
    config: dict[str, Any], itemsize: int, planned: float, widest: int
) -> None:
    cost = FAMILIES["AutoencoderTiny" if config is TINY else "AutoencoderKL"].pixel_cost(config, itemsize)

    assert (cost.planned_bytes, cost.widest_channels) == (planned, widest)
    assert cost.least_bytes < cost.planned_bytes


@given(peaks)
def test_the_estimate_is_never_below_what_was_seen(seen: list[tuple[int, int]]) -> None:
    memory = estimate()

    for pixels, peak_bytes in seen:
        memory.note_peak("vae", pixels, peak_bytes)

    assert memory.bytes_per_pixel("vae") >= max(peak_bytes / pixels for pixels, peak_bytes in seen)


@given(peaks, free)
def test_a_batch_that_is_allowed_fits_by_every_peak_seen(seen: list[tuple[int, int]], free_bytes: int) -> None:
    memory = estimate()

    for pixels, peak_bytes in seen:
        memory.note_peak("vae", pixels, peak_bytes)

    allowed = memory.batch_pixels("vae", free_bytes)
    assert all(allowed * peak_bytes / pixels <= free_bytes for pixels, peak_bytes in seen)


def test_the_estimate_goes_up_at_once_and_down_slowly() -> None:
    memory = estimate()

    memory.note_peak("vae", 2**20, 2**20 * 6000)
    assert memory.bytes_per_pixel("vae") == 6000

    memory = estimate()
    memory.note_peak("vae", 2**20, 2**20 * 2000)
    assert memory.bytes_per_pixel("vae") == pytest.approx(4400 - EASING * 2400)
    for _ in range(200):
        memory.note_peak("vae", 2**20, 2**20 * 2000)
    assert memory.bytes_per_pixel("vae") == pytest.approx(2000)


def test_a_batch_too_small_to_tell_teaches_nothing() -> None:
    memory = estimate()

    memory.note_peak("vae", LEARNING_PIXELS - 1, 100 * GIB)

    assert memory.bytes_per_pixel("vae") == 4400


@given(failures, free)
def test_what_ran_out_of_memory_is_never_allowed_again(batches: list[tuple[int, int]], free_bytes: int) -> None:
    memory = estimate()

    for count, picture in batches:
        memory.note_out_of_memory("vae", count * picture, picture)
        memory.note_peak("vae", LEARNING_PIXELS, 0)

    for count, picture in batches:
        assert memory.batch_pixels("vae", free_bytes) < count * picture
        for larger in (picture, 2 * picture):
            assert memory.batch_pixels("vae", free_bytes, larger) < count * picture
        if count == 1:
            assert memory.most_pixels("vae", free_bytes, MemoryMode.WHOLE) < picture


@given(st.integers(64, 4096 * 4096), free)
def test_a_picture_that_found_no_room_whole_is_tried_in_strips_until_it_found_none_there_either(
    picture: int, free_bytes: int
) -> None:
    memory = estimate()
    whole, half, third = memory.modes("vae")
    before = memory.most_pixels("vae", free_bytes, third)

    memory.note_out_of_memory("vae", picture, picture, whole)
    memory.note_out_of_memory("vae", picture, picture, half)
    assert memory.max_pixels("vae", free_bytes) == before
    assert memory.most_pixels("vae", None, half) == picture - 1
    memory.note_out_of_memory("vae", picture, picture, third)

    assert memory.max_pixels("vae", free_bytes) == min(before, picture - 1)
    assert memory.max_pixels("other", free_bytes) == estimate().max_pixels("other", free_bytes)


def test_strips_that_found_no_room_bind_no_batches_of_whole_pictures() -> None:
    memory = estimate()
    before = memory.batch_pixels("vae", 80 * GIB)

    memory.note_out_of_memory("vae", 512 * 512, 512 * 512, MemoryMode.THIRD)

    assert memory.batch_pixels("vae", 80 * GIB) == before


def test_an_8_gib_card_tries_4096_pixels_squared_in_a_third() -> None:
    memory = estimate()

    trying = {mode: memory.most_pixels("vae", 8 * GIB, mode) >= 4096 * 4096 for mode in memory.modes("vae")}

    assert trying == {MemoryMode.WHOLE: False, MemoryMode.HALF: False, MemoryMode.THIRD: True}


@given(st.integers(2, 64), st.integers(64, 4096 * 4096))
def test_after_a_batch_of_several_ran_out_half_of_it_is_tried_and_one_at_least(count: int, picture: int) -> None:
    # So cheap that free memory and 32-bit indices bind nothing.
    memory = estimate(PixelCost(1e-3, 1e-3, 1))

    memory.note_out_of_memory("vae", count * picture, picture)

    assert memory.batch_pixels("vae", 100 * GIB, picture) // picture == count // 2 >= 1
    assert memory.max_pixels("vae", 100 * GIB) >= picture


def test_a_ceiling_never_rises() -> None:
    memory = estimate()

    for count in (4, 16):
        memory.note_out_of_memory("vae", count * 512**2, 512**2)

    assert memory.batch_pixels("vae", 80 * GIB, 512**2) == 2 * 512**2


def test_a_ceiling_binds_its_vae_alone_and_no_smaller_pictures_when_their_size_is_told() -> None:
    memory = estimate()
    before = memory.batch_pixels("vae", 80 * GIB), memory.batch_pixels("other", 80 * GIB)

    memory.note_out_of_memory("vae", 2048 * 2048, 2048 * 2048)

    assert memory.batch_pixels("vae", 80 * GIB, 512 * 512) == before[0] > 2048 * 2048
    assert memory.batch_pixels("other", 80 * GIB) == before[1]
    assert memory.batch_pixels("vae", 80 * GIB) < 2048 * 2048


@given(free, free)
def test_more_free_memory_never_allows_less(one: int, another: int) -> None:
    memory = estimate()
    less, more = sorted((one, another))

    assert memory.batch_pixels("vae", less) <= memory.batch_pixels("vae", more)
    assert memory.batch_pixels("vae", less) * memory.bytes_per_pixel("vae") <= SHARE * less


@pytest.mark.parametrize(("side", "pictures"), [(512, 32), (1024, 8), (2048, 2)])
def test_no_batch_has_a_tensor_beyond_32_bit_indices_however_much_is_free(side: int, pictures: int) -> None:
    allowed = estimate().batch_pixels("vae", 2**50)

    assert allowed // side**2 == pictures
    assert allowed * 256 <= MAX_ELEMENTS


def test_a_single_picture_in_doubt_is_tried() -> None:
    memory = estimate()
    total = 12 * GIB

    assert memory.batch_pixels("vae", total) < 2048 * 2048 <= memory.most_pixels("vae", total, MemoryMode.WHOLE)
    assert memory.most_pixels("vae", total, MemoryMode.WHOLE) < 4096 * 4096


def test_without_memory_nothing_is_allowed() -> None:
    assert estimate().batch_pixels("vae", -1) == estimate().max_pixels("vae", 0) == 0

"""Which jobs share a batch, and which go first: the policy alone, without Redis and without torch."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vaefarm_shared.job import JobSpec
from vaefarm_worker.batching import MAX_BATCH_JOBS, Batcher, batch_key

JOBS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=60)


def filled(jobs: list[tuple[str, int]]) -> Batcher[int]:
    batcher: Batcher[int] = Batcher()
    for place, (key, pixels) in enumerate(jobs):
        batcher.add(key, pixels, place, now=float(place))
    return batcher


@given(JOBS, st.integers(1, 100))
def test_every_job_is_in_one_batch_of_one_key_within_the_budget(jobs: list[tuple[str, int]], most: int) -> None:
    batcher, seen = filled(jobs), []
    while batch := batcher.take(lambda _: most, now=1e9):
        assert len({jobs[place][0] for place in batch}) == 1
        assert len(batch) == 1 or sum(jobs[place][1] for place in batch) <= most
        seen += batch
    assert sorted(seen) == list(range(len(jobs)))
    assert (batcher.jobs, batcher.pixels) == (0, 0)


@given(JOBS, st.integers(1, 100))
def test_the_job_that_came_first_is_always_in_the_next_batch(jobs: list[tuple[str, int]], most: int) -> None:
    batcher, waiting = filled(jobs), set(range(len(jobs)))
    while batch := batcher.take(lambda _: most, now=1e9):
        assert batch[0] == min(waiting)
        assert batch == sorted(batch)
        waiting -= set(batch)


@given(JOBS)
def test_what_is_left_comes_back_in_the_order_in_which_it_came(jobs: list[tuple[str, int]]) -> None:
    batcher = filled(jobs)
    taken = batcher.take(lambda _: 50, now=1e9)

    assert batcher.clear() == [place for place in range(len(jobs)) if place not in taken]
    assert batcher.jobs == 0


def test_an_old_job_does_not_starve_behind_a_popular_shape() -> None:
    batcher: Batcher[str] = Batcher()
    batcher.add("rare", 1, "old", now=0.0)
    for place in range(500):
        batcher.add("popular", 1, f"new-{place}", now=1.0)

    assert batcher.take(lambda _: 100, now=1.0) == ["old"]


def test_a_batch_waits_for_company_until_its_window_is_over_or_it_is_full() -> None:
    batcher: Batcher[str] = Batcher()
    batcher.add("a", 10, "first", now=5.0)
    assert batcher.take(lambda _: 100, now=5.1, window_seconds=0.5) == []
    assert batcher.due(0.5) == 5.5
    batcher.add("a", 95, "second", now=5.2)

    assert batcher.take(lambda _: 100, now=5.2, window_seconds=0.5) == ["first"], "a second one would not fit"
    assert batcher.take(lambda _: 100, now=5.3, window_seconds=0.5) == []
    assert batcher.take(lambda _: 100, now=5.8, window_seconds=0.5) == ["second"]


def test_without_a_window_a_single_job_goes_at_once() -> None:
    batcher: Batcher[str] = Batcher()
    batcher.add("a", 10, "first", now=5.0)

    assert batcher.take(lambda _: 100, now=5.0) == ["first"]


def test_a_batch_has_no_more_than_so_many_jobs_however_small() -> None:
    batcher = filled([("a", 1)] * (MAX_BATCH_JOBS + 1))

    assert len(batcher.take(lambda _: 1 << 40, now=0.0, window_seconds=1e9)) == MAX_BATCH_JOBS


def spec(job_id: str = "a", **fields: object) -> JobSpec:
    shown = {"vae": "sdxl", "dtype": "float16", "shape": (1, 4, 8, 8), "layout": "spatial", "count": 1}
    return JobSpec.model_validate(
        shown | {"id": job_id, "height": 64, "width": 64, "request_hash": "h"} | fields,
    )


def test_jobs_share_a_key_when_vae_shape_and_dtype_agree_whatever_their_format_and_count() -> None:
    several = spec("b", shape=(3, 4, 8, 8), count=3, image_format="webp", priority="low")

    assert batch_key(spec()) == batch_key(several)
    for other in (spec(vae="flux"), spec(dtype="float32"), spec(shape=(1, 4, 8, 16), width=128)):
        assert batch_key(other) != batch_key(spec())


def test_packed_latents_of_one_shape_and_other_pictures_do_not_share_a_batch() -> None:
    wide = spec(shape=(1, 8, 64), layout="packed", height=32, width=64)
    tall = spec(shape=(1, 8, 64), layout="packed", height=64, width=32)

    assert batch_key(wide) != batch_key(tall)


def test_jobs_of_other_factors_or_output_do_not_share_a_batch() -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"normalised": False},
        {"scaling_factor": 0.5},
        {"scaling_factor": 0.5, "shift_factor": 0.0},
        {"scaling_factor": 0.25},
        {"output_type": "pt"},
    ]

    assert len({batch_key(spec(**kind)) for kind in kinds}) == len(kinds)
    assert batch_key(spec("a", **kinds[3])) == batch_key(spec("b", **kinds[3]))


def test_a_reproducible_job_and_one_that_must_be_alone_share_with_nobody() -> None:
    assert batch_key(spec("a", reproducible=True)) != batch_key(spec("b", reproducible=True))
    assert batch_key(spec("a"), alone=True) != batch_key(spec("b"))
    assert batch_key(spec("a"), alone=True) != batch_key(spec("b"), alone=True)

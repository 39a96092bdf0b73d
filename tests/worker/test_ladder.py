"""A failing batch costs its culprit alone; want of room costs nobody; a failing device is nobody's fault."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import BatchMismatch, DeviceFault, NonFiniteImage, OutOfMemory
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import Latents
from vaefarm_worker import ladder
from vaefarm_worker.decoder import Batch, BatchItem, Decoded, ServedVae
from vaefarm_worker.fake_decoder import FakeDecoder, stripes
from vaefarm_worker.memory_mode import MemoryMode


def item(value: float, **fields: Any) -> BatchItem:
    spec = JobSpec.model_validate(
        {"id": f"job-{value:.0f}", "vae": "demo", "dtype": "float32", "shape": (1, 4, 8, 8), "layout": "spatial"}
        | {"count": 1, "height": 64, "width": 64, "request_hash": "h"}
        | fields
    )
    return BatchItem(spec, Latents(np.full((1, 4, 8, 8), value, np.float32), "float32"))


class Scripted(FakeDecoder):
    """Does to each call what `react` says."""

    def __init__(self, react: Callable[[Sequence[float]], None], **options: Any) -> None:
        super().__init__([Catalogue.load()["demo"]], **options)
        self.react = react
        self.calls: list[list[float]] = []
        self.tested = 0
        self.is_broken = False

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        return super().vaes

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        values = [float(one.latents.array.flat[0]) for one in batch.items]
        self.calls.append(values)
        self.react(values)
        return super().decode(batch, mode=mode)

    def self_test(self) -> None:
        self.tested += 1
        if self.is_broken:
            raise DeviceFault("it decodes its known latent to another picture")


def run(decoder: Scripted, *items: BatchItem, tiling: bool = False) -> tuple[list[ladder.Outcome], list[list[str]]]:
    told: list[list[str]] = []
    outcomes = ladder.decode(
        decoder, Batch(items), lambda on_device: told.append([one.spec.id for one in on_device]), tiling=tiling
    )
    return outcomes, told


def raising(poison: float, error: Exception) -> Callable[[Sequence[float]], None]:
    def react(values: Sequence[float]) -> None:
        if poison in values:
            raise error

    return react


def test_a_batch_that_goes_well_is_one_call() -> None:
    decoder = Scripted(lambda _: None)
    items = [item(n) for n in range(4)]

    outcomes, told = run(decoder, *items)

    assert decoder.calls == [[0, 1, 2, 3]]
    assert told == [["job-0", "job-1", "job-2", "job-3"]]
    for one, outcome in zip(items, outcomes, strict=True):
        assert isinstance(outcome, Decoded)
        assert np.array_equal(outcome.pixels, stripes(one))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RuntimeError("a kernel"), NonFiniteImage("NaN"), BatchMismatch("2 of 4")])
@pytest.mark.parametrize("poison", range(8))
def test_the_culprit_is_found_and_its_neighbours_are_decoded(error: Exception, poison: int) -> None:
    decoder = Scripted(raising(poison, error))
    items = [item(n) for n in range(8)]

    outcomes, told = run(decoder, *items)

    assert outcomes[poison] is error
    good = [outcome for place, outcome in enumerate(outcomes) if place != poison]
    assert all(isinstance(outcome, Decoded) for outcome in good)
    assert [f"job-{poison}"] in told, "it was alone on the device when it failed"
    assert decoder.tested == (1 if isinstance(error, RuntimeError) else 0)


def test_a_decoder_that_gives_too_few_results_is_found_out() -> None:
    class Short(Scripted):
        def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
            return super().decode(batch)[: max(1, len(batch.items) - 1)]

    outcomes, _ = run(Short(lambda _: None), item(0), item(1))

    assert all(isinstance(outcome, Decoded) for outcome in outcomes), "alone, each is decoded"


def test_a_device_that_is_at_fault_is_raised_and_nothing_is_split() -> None:
    decoder = Scripted(raising(1, DeviceFault("CUDA error: an illegal memory access was encountered")))

    with pytest.raises(DeviceFault, match="illegal memory access"):
        run(decoder, item(0), item(1))

    assert len(decoder.calls) == 1


def test_a_failure_of_a_device_that_no_longer_knows_its_picture_is_the_devices() -> None:
    decoder = Scripted(raising(1, RuntimeError("out of luck")))
    decoder.is_broken = True

    with pytest.raises(DeviceFault, match="another picture"):
        run(decoder, item(0), item(1))


def test_a_batch_without_room_is_halved_until_it_fits() -> None:
    decoder = Scripted(lambda _: None, memory_bytes=2 * 64 * 64 * 4096)

    outcomes, _ = run(decoder, *(item(n) for n in range(8)))

    assert all(isinstance(outcome, Decoded) for outcome in outcomes)
    assert [len(call) for call in decoder.calls] == [8, 4, 2, 2, 4, 2, 2]
    assert decoder.tested == 0


@pytest.mark.parametrize(
    ("operator", "job", "tiled"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_tiles_are_the_last_rung_and_only_where_somebody_allows_them(operator: bool, job: bool, tiled: bool) -> None:
    decoder = Scripted(lambda _: None, memory_bytes=64 * 64 * 4096 // 2)

    (outcome,), _ = run(decoder, item(0, tiling=job), tiling=operator)

    if tiled:
        assert isinstance(outcome, Decoded)
        assert outcome.switches == ("tiling",)
    else:
        assert isinstance(outcome, OutOfMemory)


#: Those of a picture, and of a video.
EVERY_MODE = (MemoryMode.WHOLE, MemoryMode.HALF, MemoryMode.THIRD, MemoryMode.TILED)
VIDEO_MODES = (MemoryMode.WHOLE, MemoryMode.FRAME_BY_FRAME, MemoryMode.FRAME_TILES, MemoryMode.TILED)


@pytest.mark.parametrize(
    ("share", "switches", "tries"),
    [(0.6, ("strips-half",), 2), (0.4, ("strips-third",), 3), (0.26, ("tiling",), 4)],
)
def test_a_job_without_room_goes_down_the_modes_until_it_fits(
    share: float, switches: tuple[str, ...], tries: int
) -> None:
    decoder = Scripted(lambda _: None, memory_bytes=int(64 * 64 * 4096 * share), modes=EVERY_MODE)

    (outcome,), told = run(decoder, item(0), tiling=True)

    assert isinstance(outcome, Decoded)
    assert outcome.switches == switches
    assert told == [["job-0"]] * tries


def test_strips_are_taken_without_anybodys_leave_and_tiles_are_not() -> None:
    fits, does_not = (Scripted(lambda _: None, memory_bytes=n * 64 * 64 * 1024, modes=EVERY_MODE) for n in (2, 1))

    (outcome,), _ = run(fits, item(0))
    (error,), _ = run(does_not, item(0))

    assert isinstance(outcome, Decoded)
    assert outcome.switches == ("strips-half",)
    assert isinstance(error, OutOfMemory)
    assert len(does_not.calls) == 3


def test_a_reproducible_job_is_never_decoded_in_another_mode_than_whole() -> None:
    decoder = Scripted(lambda _: None, memory_bytes=64 * 64 * 4096 - 1, modes=EVERY_MODE)

    (outcome,), _ = run(decoder, item(0, reproducible=True), tiling=True)

    assert isinstance(outcome, OutOfMemory)
    assert len(decoder.calls) == 1


def test_a_job_for_which_no_mode_is_worth_a_try_is_out_of_memory_and_never_on_the_device() -> None:
    decoder = Scripted(lambda _: None, modes=())

    (outcome,), told = run(decoder, item(0))

    assert isinstance(outcome, OutOfMemory)
    assert str(outcome) == "fake has no room to decode 1 x demo 64x64"
    assert (decoder.calls, told) == ([], [])


def test_an_error_in_strips_is_the_jobs_own_and_the_device_is_asked() -> None:
    decoder = Scripted(raising(0, RuntimeError("a kernel")), modes=(MemoryMode.HALF,))

    (outcome,), _ = run(decoder, item(0))

    assert isinstance(outcome, RuntimeError)
    assert decoder.tested == 1


def test_what_does_not_fit_in_tiles_either_is_out_of_memory() -> None:
    decoder = Scripted(lambda _: None, memory_bytes=1000)

    (outcome,), _ = run(decoder, item(0), tiling=True)

    assert isinstance(outcome, OutOfMemory)


@pytest.mark.parametrize(
    ("share", "switches", "tries"),
    [(0.9, "frame-by-frame", 2), (0.28, "frame-tiles", 3), (0.26, "tiling", 4)],
)
def test_time_comes_before_space_when_a_job_has_no_room(share: float, switches: str, tries: int) -> None:
    decoder = Scripted(lambda _: None, memory_bytes=int(64 * 64 * 4096 * share), modes=VIDEO_MODES)

    (outcome,), told = run(decoder, item(0), tiling=True)

    assert isinstance(outcome, Decoded)
    assert (outcome.switches, len(told)) == ((switches,), tries)


def test_tiles_of_frames_need_leave_as_well() -> None:
    decoder = Scripted(lambda _: None, memory_bytes=int(64 * 64 * 4096 * 0.28), modes=VIDEO_MODES)

    (refused,), _ = run(decoder, item(0))
    (allowed,), _ = run(decoder, item(0, tiling=True))

    assert isinstance(refused, OutOfMemory)
    assert isinstance(allowed, Decoded)

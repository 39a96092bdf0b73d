"""What an operator installed sees each picture, may change it or refuse it, and the record says so."""

from collections.abc import Callable
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from vaefarm_producer import Farm
from vaefarm_shared.errors import ConfigurationError, JobFailed, RefusedPicture
from vaefarm_shared.job import JobSpec
from vaefarm_shared.settings import Settings
from vaefarm_shared.unit import to_pixels
from vaefarm_worker.after_decode import GROUP, AfterDecodes
from vaefarm_worker.decoder import Pixels

LATENTS = np.zeros((2, 4, 8, 8), np.float32)

#: Seconds that a job may take.
PATIENCE = 10


def inverted(pixels: Pixels, _: JobSpec) -> Pixels:
    return 255 - pixels


def refuses(_: Pixels, spec: JobSpec) -> Pixels:
    raise RefusedPicture(f"job {spec.id} shows what it must not")


refuses.safety_check = True  # type: ignore[attr-defined]


def cropped(pixels: Pixels, _: JobSpec) -> Pixels:
    return pixels[:, 1:]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions above, as if a package had brought them."""
    names = ("inverted", "refuses", "cropped", "blackened", "looks", "LATENTS", "missing")
    points = [EntryPoint(name, f"{__name__}:{name}", GROUP) for name in names]
    monkeypatch.setattr("vaefarm_worker.after_decode.entry_points", lambda group: points if group == GROUP else [])


def blackened(pixels: Pixels, _: JobSpec) -> Pixels:
    pixels[:] = 0
    return pixels


blackened.safety_check = True  # type: ignore[attr-defined]


def looks(pixels: Pixels, _: JobSpec) -> Pixels:
    SEEN.append(pixels.copy())
    return pixels


looks.safety_check = True  # type: ignore[attr-defined]

#: What `looks` was shown.
SEEN: list[Pixels] = []


def test_without_any_the_record_says_that_nobody_checked(
    farm: Farm, serve: Callable[..., None], settings: Settings
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    serve()

    report = job.result(PATIENCE).report
    assert report.model_dump()["safety_checked"] is False
    assert report.after_decode == ()


def test_a_step_changes_every_picture_and_is_named(farm: Farm, serve: Callable[..., None], settings: Settings) -> None:
    plain = farm.submit(LATENTS, vae="demo")
    serve()
    changed = farm.submit(LATENTS, vae="demo")
    serve(settings=settings.model_copy(update={"after_decode": "inverted"}))

    for before, after in zip(plain.images(PATIENCE), changed.images(PATIENCE), strict=True):
        assert np.array_equal(255 - np.asarray(before), np.asarray(after))
    report = changed.result(PATIENCE).report
    assert (report.after_decode, report.safety_checked) == (("inverted",), False)


def test_a_refused_picture_fails_its_job_at_once_and_leaves_nothing(
    farm: Farm, serve: Callable[..., None], settings: Settings
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    serve(settings=settings.model_copy(update={"after_decode": "inverted,refuses"}))

    with pytest.raises(JobFailed, match="shows what it must not"):
        job.images(PATIENCE)
    assert job.record().attempts == 1


def test_a_raw_tensor_is_looked_at_as_pixels_and_comes_unchanged(
    farm: Farm, serve: Callable[..., None], settings: Settings
) -> None:
    plain = farm.submit(LATENTS, vae="demo", output_type="pt")
    serve()
    checked = farm.submit(LATENTS, vae="demo", output_type="pt")
    SEEN.clear()
    serve(settings=settings.model_copy(update={"after_decode": "inverted,looks"}))

    assert np.array_equal(plain.tensor(PATIENCE).array, checked.tensor(PATIENCE).array)
    assert np.array_equal(SEEN, [255 - to_pixels(plain.tensor(PATIENCE).array)])
    report = checked.result(PATIENCE).report
    assert (report.after_decode, report.safety_checked) == (("inverted", "looks"), True)


@pytest.mark.parametrize(
    ("step", "said"), [("refuses", "shows what it must not"), ("blackened", "blackened changed what the picture shows")]
)
def test_a_raw_tensor_that_a_check_refuses_or_would_cover_fails_its_job_at_once(
    farm: Farm, serve: Callable[..., None], settings: Settings, step: str, said: str
) -> None:
    job = farm.submit(LATENTS, vae="demo", output_type="pt")
    serve(settings=settings.model_copy(update={"after_decode": step}))

    with pytest.raises(JobFailed, match=said):
        job.tensor(PATIENCE)
    assert job.record().attempts == 1


def test_a_safety_check_that_lets_a_picture_through_is_said(
    farm: Farm, serve: Callable[..., None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverted, "safety_check", True, raising=False)
    job = farm.submit(LATENTS, vae="demo")
    serve(settings=settings.model_copy(update={"after_decode": "inverted"}))

    assert job.result(PATIENCE).report.safety_checked is True


def test_a_step_that_gives_other_shapes_fails_the_job_by_its_name(
    farm: Farm, serve: Callable[..., None], settings: Settings
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    serve(settings=settings.model_copy(update={"after_decode": "cropped", "max_attempts": 1}))

    with pytest.raises(JobFailed, match=r"cropped gave no uint8 pixels of shape \(2, 64, 64, 3\)"):
        job.images(PATIENCE)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("unknown", "names 'unknown'; installed.*inverted"),
        ("missing", "'missing' cannot be imported"),
        ("LATENTS", "no function"),
    ],
)
def test_what_is_not_installed_is_named_before_the_worker_starts(names: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        AfterDecodes.load(names)

"""The fake decoder's pictures, files and memory; that it needs no torch."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.worker.items import item, randn

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import ConfigurationError, OutOfMemory
from vaefarm_worker.decoder import Batch, BatchItem
from vaefarm_worker.fake_decoder import FakeDecoder, stripes
from vaefarm_worker.memory_mode import MemoryMode

ENTRY = Catalogue.load()["demo"]

#: Pixels of the pictures of `jobs`, and the memory of four of them.
PIXELS = 64 * 32
FOUR = 4 * PIXELS * 4096


def fake(**options: Any) -> FakeDecoder:
    return FakeDecoder([ENTRY], **options)


def jobs(decoder: FakeDecoder, count: int, **options: Any) -> tuple[BatchItem, ...]:
    return tuple(item(decoder, "demo", randn(1, 4, 8, 4, seed=seed), **options) for seed in range(count))


@pytest.mark.parametrize(("latents", "size"), [((2, 4, 8, 4), 4000), ((1, 4, 64, 128), 9000), ((1, 4, 8, 8), 2**20)])
def test_files_are_pngs_of_exactly_that_many_bytes_and_of_the_pictures_size(
    latents: tuple[int, ...], size: int
) -> None:
    decoder = fake(image_bytes=size)

    decoded = decoder.decode(Batch((item(decoder, "demo", randn(*latents)),)))[0]

    assert decoded.pixels is None
    assert [len(file) for file in decoded.files] == [size] * latents[0]
    for file in decoded.files:
        image = Image.open(io.BytesIO(file))
        # Reads and checks every chunk that stands before the pixels, and the pixels.
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8 * latents[3], 8 * latents[2]))
        Image.open(io.BytesIO(file)).verify()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_latents_give_the_same_file_and_others_another(dtype: torch.dtype) -> None:
    decoder = fake(image_bytes=4000)
    one, other = randn(1, 4, 8, 4).to(dtype), randn(1, 4, 8, 4, seed=1).to(dtype)

    files = [decoder.decode(Batch((item(decoder, "demo", latents),)))[0].files for latents in (one, one, other, other)]

    assert files[0] == files[1] != files[2] == files[3]


def test_a_size_that_no_picture_fits_is_refused_before_the_first_job() -> None:
    with pytest.raises(
        ConfigurationError, match=r"fake pictures of 10 bytes: one of 8 x 8 takes at least \d+"
    ) as caught:
        fake(image_bytes=10)
    least = int(str(caught.value).partition("at least ")[2].partition(";")[0])

    fake(image_bytes=least)
    with pytest.raises(ConfigurationError):
        fake(image_bytes=least - 1)


def test_a_picture_that_takes_more_than_its_file_may_is_refused_by_name() -> None:
    decoder = fake(image_bytes=200)

    with pytest.raises(ConfigurationError, match="one of 1024 x 1024 takes at least"):
        decoder.decode(Batch((item(decoder, "demo", randn(1, 4, 128, 128)),)))


def test_jobs_that_want_another_format_get_pixels_to_encode() -> None:
    decoder = fake(image_bytes=4000)
    (job,) = jobs(decoder, 1, image_format="webp")

    decoded = decoder.decode(Batch((job,)))[0]

    assert decoded.files == ()
    assert np.array_equal(decoded.pixels if decoded.pixels is not None else (), stripes(job))


def test_a_batch_beyond_the_memory_runs_out_of_it_and_a_smaller_one_does_not() -> None:
    decoder = fake(memory_bytes=FOUR)

    with pytest.raises(OutOfMemory, match="no room"):
        decoder.decode(Batch(jobs(decoder, 5)))
    assert len(decoder.decode(Batch(jobs(decoder, 4)))) == 4


def test_tiles_take_a_quarter_and_are_said() -> None:
    decoder = fake(memory_bytes=FOUR // 16)
    batch = Batch(jobs(decoder, 1))

    with pytest.raises(OutOfMemory):
        decoder.decode(batch)
    assert decoder.decode(batch, mode=MemoryMode.TILED)[0].switches == ("tiling",)

    smaller = fake(memory_bytes=FOUR // 16 - 1)
    with pytest.raises(OutOfMemory):
        smaller.decode(batch, mode=MemoryMode.TILED)


def test_it_tells_its_memory_only_when_asked_to() -> None:
    asked, silent, endless = fake(memory_bytes=FOUR, admit=True), fake(memory_bytes=FOUR), fake(admit=True)

    assert asked.max_pixels("demo") == asked.batch_pixels("demo") == 4 * PIXELS
    assert silent.max_pixels("demo") is silent.batch_pixels("demo") is endless.batch_pixels("demo") is None


def test_it_imports_no_torch() -> None:
    code = (
        "import sys; from vaefarm_worker.decoders import make_decoder; from vaefarm_shared.catalogue import Catalogue;"
        "make_decoder('fake', [Catalogue.load()['demo']], 'auto', 0.0, 4000, 4000).self_test();"
        "assert 'torch' not in sys.modules"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

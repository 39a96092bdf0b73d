"""Files hold the pixels that were decoded."""

import io

import numpy as np
import pytest
from PIL import Image
from tests.worker.items import spec_of

from vaefarm_worker.encode import encode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [{"image_format": "png"}, {"image_format": "webp", "lossless": True}])
def test_lossless_formats_keep_every_value(options: dict[str, object]) -> None:
    image = Image.open(io.BytesIO(encode_image(PIXELS, spec_of(**options))))

    assert image.format == str(options["image_format"]).upper()
    assert np.array_equal(np.asarray(image.convert("RGB")), PIXELS)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_a_lower_quality_makes_a_smaller_file(image_format: str) -> None:
    low, default = (spec_of(image_format=image_format, quality=quality) for quality in (20, None))

    assert len(encode_image(PIXELS, low)) < len(encode_image(PIXELS, default))
    assert Image.open(io.BytesIO(encode_image(PIXELS, default))).size == (40, 24)

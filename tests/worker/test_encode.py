"""Files hold the pixels that were decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from vaefarm_shared.job import JobSpec
from vaefarm_worker.encode import encode_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def spec(**options: object) -> JobSpec:
    fields = {"id": "a", "vae": "x", "dtype": "float32", "shape": (1, 4, 3, 5), "layout": "spatial", "count": 1}
    return JobSpec.model_validate(fields | {"height": 24, "width": 40, "request_hash": "0"} | options)


@pytest.mark.parametrize("options", [{"image_format": "png"}, {"image_format": "webp", "lossless": True}])
def test_lossless_formats_keep_every_value(options: dict[str, object]) -> None:
    image = Image.open(io.BytesIO(encode_image(PIXELS, spec(**options))))

    assert image.format == str(options["image_format"]).upper()
    assert np.array_equal(np.asarray(image.convert("RGB")), PIXELS)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_a_lower_quality_makes_a_smaller_file(image_format: str) -> None:
    low, default = (spec(image_format=image_format, quality=quality) for quality in (20, None))

    assert len(encode_image(PIXELS, low)) < len(encode_image(PIXELS, default))
    assert Image.open(io.BytesIO(encode_image(PIXELS, default))).size == (40, 24)

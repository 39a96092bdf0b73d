"""Replies of endpoints that are not what was asked for: none becomes a picture, and none is quoted with a secret."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from multidict import CIMultiDict
from PIL import Image

from vaefarm_shared.catalogue import Contract, VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import Latents
from vaefarm_worker.decoder import Decoded
from vaefarm_worker.remote.exchange import BadReply, NotReproducible, excerpt, questions, read_reply

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (1, 16, 24, 3), np.uint8)
FLOATS = RANDOM.standard_normal((1, 3, 16, 24)).astype(np.float32)
ENTRY = EndpointEntry(url="http://127.0.0.1:1/")
TENSOR = {"Content-Type": "tensor/binary", "dtype": "uint8", "shape": "[1, 16, 24, 3]"}


def spec(**changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "id": "a",
        "vae": "x",
        "dtype": "float16",
        "shape": (1, 4, 2, 3),
        "layout": "spatial",
        "count": 1,
    }
    return JobSpec(**fields | {"height": 16, "width": 24, "request_hash": ""} | changes)


def read(
    headers: Any, body: bytes, status: int = 200, entry: EndpointEntry = ENTRY, plain: bool = False, **changes: Any
) -> Decoded:
    """What comes of a reply to a job's one question."""
    job = spec(**changes)
    latents = Latents(np.zeros(job.shape, np.float16), "float16")
    (question,) = questions(job, latents, VaeEntry(id="x"), entry, plain=plain)
    contract = Contract(latent_channels=4, spatial_scale=8, picture_channels=job.picture_channels)
    return read_reply(question, job, contract, status, headers, body)


def picture(pixels: np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=image_format, **options)
    return file.getvalue()


PNG = picture(PIXELS[0])
JPEG = picture(PIXELS[0], "JPEG")
IN_PNG, IN_JPEG = {"Content-Type": "image/png"}, {"Content-Type": "image/jpeg"}


@pytest.mark.parametrize(
    "headers",
    [
        TENSOR,
        TENSOR | {"Content-Type": "Tensor/Binary; charset=utf-8"},
        TENSOR | {"Content-Type": "application/octet-stream"},
        TENSOR | {"shape": "1,16,24,3"},
        {name: value for name, value in TENSOR.items() if name != "dtype"},
        CIMultiDict({"content-type": "tensor/binary", "DTYPE": "uint8", "Shape": "[1,16,24,3]"}),
        CIMultiDict([("content-type", "tensor/binary"), *(("shape", size) for size in ("1", "16", "24", "3"))]),
    ],
)
def test_pixels_are_read_however_the_headers_are_written(headers: Any) -> None:
    found = read(headers, PIXELS.tobytes(), plain=True).pixels
    assert found is not None
    assert np.array_equal(found, PIXELS)
    # Steps after the decode may write to it.
    found[:] = 0


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"Content-Type": ""}, PIXELS.tobytes(), "without a content type"),
        ({"Content-Type": "image/png"}, PIXELS.tobytes(), "of type 'image/png' and has 1152 bytes; expected tensor/b"),
        ({"Content-Type": "text/html"}, b"<h1>Bad \x07\n gateway</h1>", "beginning '<h1>Bad gateway</h1>'; expected"),
        ({"Content-Type": "application/json"}, b'{"error": "paused"}', 'beginning \'{"error": "paused"}\''),
        ({"dtype": "float16"}, PIXELS.tobytes(), "dtype is 'float16'; expected uint8"),
        ({"shape": ""}, PIXELS.tobytes(), "shape is ''; expected"),
        ({"shape": "[1, 3, 16, 24]"}, PIXELS.tobytes(), r"expected \[1, 16, 24, 3\]"),
        ({"shape": "[1, 16, 24, 4]"}, PIXELS.tobytes(), "shape"),
        ({"shape": "[1, 16, 24, -3]"}, PIXELS.tobytes(), "shape"),
        ({"shape": "[[1, 16, 24, 3]]"}, PIXELS.tobytes(), "shape"),
        ({"shape": "[" * 5000}, PIXELS.tobytes(), "shape"),
        ({"shape": "[1, 16, 24, " + "9" * 5000 + "]"}, PIXELS.tobytes(), "shape"),
        ({}, PIXELS.tobytes()[:-1], "has 1151 bytes; expected 1152"),
        ({}, PIXELS.tobytes() + b"\0", "has 1153 bytes; expected 1152"),
        ({}, b"", "has 0 bytes; expected 1152"),
    ],
)
def test_pixels_of_another_type_shape_or_length_are_refused(headers: dict[str, str], body: bytes, said: str) -> None:
    with pytest.raises(BadReply, match=said):
        read(TENSOR | headers, body, plain=True)


def test_a_status_that_is_no_result_is_refused() -> None:
    with pytest.raises(BadReply, match="status 206; expected 200"):
        read(TENSOR, PIXELS.tobytes(), status=206, plain=True)


def raw(dtype: str, values: np.ndarray) -> Decoded:
    words = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)
    headers = {"Content-Type": "tensor/binary", "dtype": dtype, "shape": "[1, 3, 16, 24]"}
    return read(headers, words.tobytes(), output_type="pt", plain=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_raw_floats_of_each_dtype_become_float16(dtype: str) -> None:
    values = (FLOATS.view(np.uint32) & 0xFFFF0000).view(np.float32) if dtype == "bfloat16" else FLOATS
    found = raw(dtype, values).tensor
    assert found is not None
    assert (found.dtype, str(found.array.dtype)) == ("float16", "float16")
    assert np.array_equal(found.array, values.astype(np.float16))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_nan_is_refused_and_inf_that_no_cast_has_made(dtype: str) -> None:
    broken = FLOATS.copy()
    broken[0, 1, 2, 3] = np.nan
    with pytest.raises(BadReply, match="NaN or Inf in 1 of its values"):
        raw(dtype, broken)

    large = FLOATS.copy()
    large[0, 1, 2, 3] = np.inf
    if dtype == "float16":
        # A decode in another dtype has it where the cast to float16 makes it, and is kept here too.
        assert raw(dtype, large).tensor is not None
    else:
        with pytest.raises(BadReply, match="NaN or Inf"):
            raw(dtype, large)
        large[0, 1, 2, 3] = 2.0**20
        found = raw(dtype, large).tensor
        assert found is not None
        assert np.isinf(found.array[0, 1, 2, 3])


@pytest.mark.parametrize("dtype", ["", "uint8", "float64", "int8"])
def test_raw_floats_that_do_not_tell_their_dtype_are_refused(dtype: str) -> None:
    headers = {"Content-Type": "tensor/binary", "dtype": dtype, "shape": "[1, 3, 16, 24]"}
    with pytest.raises(BadReply, match="expected bfloat16 or float16 or float32"):
        read(headers, FLOATS.astype(np.float16).tobytes(), output_type="pt")


def test_a_png_is_kept_byte_for_byte() -> None:
    assert read(IN_PNG, PNG).files == (PNG,)


def test_what_no_pixel_needs_is_not_kept() -> None:
    named = picture(PIXELS[0], dpi=(300, 300), icc_profile=b"x" * 500)
    assert len(named) > len(PNG)
    assert read(IN_PNG, named).files == (PNG,)


def test_a_png_cut_off_anywhere_is_refused() -> None:
    for length in range(len(PNG)):
        with pytest.raises(BadReply):
            read(IN_PNG, PNG[:length])


def test_a_png_with_any_byte_changed_is_refused() -> None:
    for place in range(len(PNG)):
        with pytest.raises(BadReply):
            read(IN_PNG, PNG[:place] + bytes([PNG[place] ^ 0x10]) + PNG[place + 1 :])


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (PNG + b"\0", "1 bytes follow the end"),
        (JPEG, "expected a PNG of 24 x 16"),
        (picture(PIXELS[0].transpose(1, 0, 2)), "PNG of 16 x 24 pixels; expected a PNG of 24 x 16"),
        (picture(PIXELS[0, :, :, 0]), "colours of kind 0; expected 8 bits of RGB"),
        (picture(np.dstack([PIXELS[0], PIXELS[0, :, :, :1]])), "colours of kind 6; expected 8 bits of RGB"),
        (picture(PIXELS[0, :, :, 0].astype(np.uint16)), "16 bits"),
        (
            PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 24, 16, 16, 2, 0, 0, 0)) + PNG[33:],
            "16 bits and colours of",
        ),
        (PNG.replace(b"IHDR", b"IHDr"), "checksum"),
        (b"<html>", "no whole PNG"),
    ],
)
def test_a_png_of_another_size_or_kind_is_refused(file: bytes, said: str) -> None:
    with pytest.raises(BadReply, match=said):
        read(IN_PNG, file)


def test_an_rgba_job_takes_a_png_with_alpha_and_no_other() -> None:
    alpha = np.dstack([PIXELS[0], PIXELS[0, :, :, :1]])
    assert read(IN_PNG, picture(alpha), picture_channels=4).files == (picture(alpha),)
    with pytest.raises(BadReply, match="expected 8 bits of RGBA"):
        read(IN_PNG, PNG, picture_channels=4)


def test_a_png_whose_pixels_are_wanted_is_decoded_and_refused_where_that_fails() -> None:
    entry = EndpointEntry(url="http://127.0.0.1:1/", protocol="v1")
    found = read(IN_PNG, PNG, entry=entry, image_format="webp").pixels
    assert found is not None
    assert np.array_equal(found, PIXELS)

    # Every checksum is right, and the pixels are none.
    start, end = PNG.index(b"IDAT") - 4, PNG.index(b"IEND") - 4
    hollow = PNG[:start] + chunk(b"IDAT", b"nothing that zlib wrote") + PNG[end:]
    with pytest.raises(BadReply, match="PNG cannot be decoded"):
        read(IN_PNG, hollow, entry=entry, image_format="webp")


def test_a_jpeg_is_kept_and_refused_where_it_is_truncated_or_no_rgb() -> None:
    wanted: dict[str, Any] = {"image_format": "jpeg", "quality": 75}
    assert read(IN_JPEG, JPEG, **wanted).files == (JPEG,)
    for length in range(0, len(JPEG), 7):
        with pytest.raises(BadReply):
            read(IN_JPEG, JPEG[:length], **wanted)
    for file, said in (
        (picture(PIXELS[0, :, :, 0], "JPEG"), "JPEG is L; expected 3 channels"),
        (PNG, "expected a JPEG"),
        (JPEG + JPEG, "follow the end"),
    ):
        with pytest.raises(BadReply, match=said):
            read(IN_JPEG, file, **wanted)


def test_what_a_reply_tells_of_its_making_is_kept_where_it_can_be_true() -> None:
    headers = {
        "X-Decode-Dtype": "float32",
        "x-decode-revision": "sha256:0a1b2c",
        "x-decode-switches": "slicing, a b,tiling,",
        "x-decode-widened-from": "float16",
    }
    found = read(TENSOR | headers, PIXELS.tobytes(), plain=True)
    assert (found.dtype, found.revision, found.switches) == ("float32", "sha256:0a1b2c", ("slicing", "tiling"))
    assert (found.widened_from, found.endpoint) == ("float16", None)


@pytest.mark.parametrize("value", ["", "a b", "x" * 101, 'a"b', "é", "a\nb"])
def test_what_could_not_be_a_dtype_or_revision_is_left_aside(value: str) -> None:
    headers = dict.fromkeys(("x-decode-dtype", "x-decode-revision", "x-decode-switches"), value)
    found = read(TENSOR | headers, PIXELS.tobytes(), plain=True)
    assert (found.dtype, found.revision, found.switches) == ("unknown", None, ())


def test_switches_are_bounded() -> None:
    headers = {"x-decode-switches": ",".join(f"s{number}" for number in range(1000))}
    assert len(read(TENSOR | headers, PIXELS.tobytes(), plain=True).switches) == 16


@pytest.mark.parametrize("said", [{}, {"x-reproducible": "False"}, {"x-reproducible": ""}])
def test_a_promise_that_was_not_kept_is_told_from_a_reply_that_is_broken(said: dict[str, str]) -> None:
    with pytest.raises(NotReproducible, match="reproducible"):
        read(IN_PNG | said, PNG, reproducible=True)
    with pytest.raises(BadReply) as caught:
        read(IN_PNG | said, PNG[:-1], reproducible=True)
    assert not isinstance(caught.value, NotReproducible)
    assert read(IN_PNG | {"X-Reproducible": "True"}, PNG, reproducible=True).files == (PNG,)


@pytest.mark.parametrize(
    "body",
    [
        "Authorization: Bearer sesame refused",
        "Basic sesame refused",
        "see https://user:sesame@host/x",
        "token hf_sesame",
        "key " + "sesame" * 5,
        json.dumps({"request": {"authorization": "Bearer sesame"}}),
    ],
)
def test_what_could_be_a_secret_is_not_quoted(body: str) -> None:
    assert "sesame" not in excerpt(body.encode())
    with pytest.raises(BadReply) as caught:
        read({"Content-Type": "text/plain"}, body.encode())
    assert "sesame" not in str(caught.value)


def test_an_excerpt_is_short_and_of_one_line() -> None:
    assert excerpt(b"a\r\n\tb \x1b[31m \xff " + b"word " * 1000) == ("a b [31m \ufffd " + "word " * 100)[:80]

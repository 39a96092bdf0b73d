"""Pictures are opened by named formats, bounded before a pixel is decoded, and come out upright, in RGB, in 8 bits."""

import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from vaefarm_shared.errors import InvalidPicture
from vaefarm_shared.pictures import MAX_PICTURE_BYTES, flatten_image, open_picture

FORMATS: dict[str, dict] = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True, "exact": True}}
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(array: np.ndarray, colours: int, *extra: bytes, depth: int = 16, size: tuple[int, int] | None = None) -> bytes:
    """A PNG written by hand, of samples that Pillow cannot write: (h, w, c) uint16 or uint8."""
    height, width = size or array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in array)
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return SIGNATURE + b"".join(parts)


def with_chunk(data: bytes, added: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    return data[:33] + added + data[33:]


@pytest.mark.parametrize("image_format", FORMATS)
def test_each_format_opens_to_the_pixels_that_pillow_reads(image_format: str) -> None:
    data = saved(Image.fromarray(noise(20, 30, 3)), image_format, **FORMATS[image_format])

    pixels = open_picture(data)

    assert (pixels.dtype.name, pixels.shape, pixels.flags.c_contiguous) == ("uint8", (20, 30, 3), True)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"comment": b"hi"}, {"optimize": True}])
def test_jpegs_of_every_making_open_to_the_pixels_that_pillow_reads(options: dict) -> None:
    data = saved(Image.fromarray(noise(37, 21, 3)), "JPEG", **options)

    assert np.array_equal(open_picture(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", FORMATS)
def test_a_picture_is_turned_as_its_exif_says(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(noise(16, 24, 3)), image_format, exif=exif.tobytes(), **FORMATS[image_format])
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))

    assert np.array_equal(open_picture(data), upright)
    assert np.array_equal(flatten_image(Image.open(io.BytesIO(data))), upright), "and as a PIL image too"


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_exif_that_cannot_be_read_turns_nothing(exif: bytes) -> None:
    image = Image.fromarray(noise(4, 6, 3))
    data = with_chunk(saved(image, "PNG"), chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))

    assert np.array_equal(open_picture(data), np.asarray(image))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_what_is_transparent_is_laid_over_white(image_format: str) -> None:
    rgba = noise(8, 8, 4)
    data = saved(Image.fromarray(rgba), image_format, **FORMATS[image_format])

    colours, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float)
    assert np.array_equal(open_picture(data), np.rint((colours * alpha + 255 * (255 - alpha)) / 255))


def test_transparent_palettes_greys_and_single_colours_are_laid_over_white() -> None:
    grey = np.array([[0, 85, 170, 255]], np.uint8)
    palette = Image.fromarray(grey).convert("P")
    assert open_picture(saved(palette, "PNG", transparency=85))[0, :, 0].tolist() == [0, 255, 170, 255]
    assert open_picture(saved(Image.fromarray(grey), "PNG", transparency=0))[0, :, 0].tolist() == [255, 85, 170, 255]
    # Two bits a sample: 0, 1, 2, 3, of which 2 is transparent.
    two_bits = png(np.array([[0b00011011]]), 0, chunk(b"tRNS", b"\0\2"), depth=2, size=(1, 4))
    assert open_picture(two_bits)[0, :, 0].tolist() == [0, 85, 255, 255]
    single = saved(Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)), "PNG", transparency=(1, 2, 3))
    assert open_picture(single).tolist() == [[[255, 255, 255], [1, 2, 4]]]


#: The kinds of colours of a PNG: their number, and how many samples a pixel has.
KINDS = {"grey": (0, 1), "RGB": (2, 3), "grey and alpha": (4, 2), "RGBA": (6, 4)}


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bits_become_eight_by_rounding(kind: str) -> None:
    colours, samples = KINDS[kind]
    array = noise(16, 16, samples, dtype=np.uint16)
    array[0, :, :] = np.linspace(0, 65535, 16).astype(np.uint16)[:, None]
    if colours >= 4:
        array[..., -1] = 65535

    pixels = open_picture(png(array, colours))

    shown = array[..., : samples - 1] if colours >= 4 else array
    assert np.array_equal(pixels, np.broadcast_to(np.rint(shown * (255 / 65535)), (16, 16, 3)))


def test_sixteen_bit_alpha_and_single_transparent_colours_are_laid_over_white() -> None:
    half = np.array([[[0, 32768], [65535, 0], [1000, 65535]]], np.uint16)
    assert open_picture(png(half, 4))[0, :, 0].tolist() == [127, 255, 4]
    key = struct.pack(">HHH", 257, 0, 1)
    array = np.array([[[257, 0, 1], [257, 0, 2]]], np.uint16)
    assert open_picture(png(array, 2, chunk(b"tRNS", key))).tolist() == [[[255, 255, 255], [1, 0, 0]]]


def test_sixteen_bits_of_a_pil_image_become_eight_too() -> None:
    array = noise(8, 8, dtype=np.uint16)

    assert np.array_equal(flatten_image(Image.fromarray(array))[..., 1], np.rint(array * (255 / 65535)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colours_become_rgb(mode: str) -> None:
    image = Image.fromarray(noise(16, 16, 3)).convert(mode)

    assert np.array_equal(flatten_image(image), np.asarray(image.convert("RGB")))
    data = saved(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    assert np.array_equal(open_picture(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_modes_whose_values_have_no_known_range_are_refused() -> None:
    with pytest.raises(InvalidPicture, match="mode 'F', whose values have no known range; expected RGB"):
        flatten_image(Image.fromarray(np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_an_animation_is_refused_by_name(image_format: str) -> None:
    frames = [Image.fromarray(noise(8, 8, 3)), Image.new("RGB", (8, 8))]
    data = saved(frames[0], image_format, save_all=True, append_images=frames[1:])

    with pytest.raises(InvalidPicture, match="is an animation; expected a single picture"):
        open_picture(data)
    with pytest.raises(InvalidPicture, match="has 2 frames; expected a single picture"):
        flatten_image(Image.open(io.BytesIO(data)))


def bombs() -> dict[str, bytes]:
    """Small files whose headers announce a hundred million pixels or more."""
    bomb = png(np.zeros((1, 1, 3)), 2, size=(60_000, 60_000))
    jpeg = saved(Image.new("RGB", (8, 8)), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    wide = saved(Image.new("RGB", (16_383, 1)), "WEBP", lossless=True)
    bits = int.from_bytes(wide[21:25], "little") | (16_382 << 14)
    return {
        "PNG": bomb,
        "JPEG": jpeg[:frame] + b"\xff\xff\xff\xff" + jpeg[frame + 4 :],
        "WEBP": wide[:21] + bits.to_bytes(4, "little") + wide[25:],
    }


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_bomb_is_refused_by_its_header_before_memory_is_taken(image_format: str) -> None:
    data = bombs()[image_format]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidPicture, match=r"pixels; at most 67108864 are taken: make it smaller"):
            open_picture(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_bound_on_pixels_is_the_callers_and_exact() -> None:
    data = saved(Image.new("RGB", (30, 20)), "PNG")

    assert open_picture(data, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(InvalidPicture, match="30 x 20 = 600 pixels; at most 599"):
        open_picture(data, max_pixels=599)


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("evil.txt", "x")
    return file.getvalue()


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("tail", [archive(), b"\0", b"<script>"], ids=["zip", "zero", "script"])
def test_a_file_that_is_something_else_besides_is_refused(image_format: str, tail: bytes) -> None:
    data = saved(Image.new("RGB", (8, 8)), image_format)

    with pytest.raises(InvalidPicture, match=f"{len(tail)} bytes follow the end of the .* picture; expected"):
        open_picture(data + tail)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(50), b"<svg/>", b"II*\0" + bytes(50), archive(), b"%PDF-1.7"])
def test_other_files_are_refused_by_what_was_expected(data: bytes) -> None:
    with pytest.raises(InvalidPicture, match="as no PNG, JPEG or WebP does; expected the bytes of a file in one of"):
        open_picture(data)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_file_cut_off_anywhere_is_refused(image_format: str) -> None:
    data = saved(Image.fromarray(noise(16, 16, 3)), image_format, **FORMATS[image_format])

    for length in range(len(data)):
        with pytest.raises(InvalidPicture):
            open_picture(data[:length])


@pytest.mark.parametrize("image_format", FORMATS)
def test_no_damage_raises_anything_but_a_refusal(image_format: str) -> None:
    data = bytearray(saved(Image.fromarray(noise(16, 16, 3)), image_format, **FORMATS[image_format]))
    random = np.random.default_rng(1)

    for _ in range(500):
        damaged = data.copy()
        for place in random.integers(0, len(data), 3):
            damaged[place] = random.integers(0, 256)
        with suppress(InvalidPicture):
            assert open_picture(bytes(damaged)).dtype == np.uint8


def test_damage_inside_of_a_png_is_named() -> None:
    data = bytearray(saved(Image.fromarray(noise(16, 16, 3)), "PNG"))
    data[60] ^= 1

    with pytest.raises(InvalidPicture, match="the checksum of its chunk b'IDAT' is wrong"):
        open_picture(bytes(data))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_and_profiles_are_never_inflated(name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(noise(8, 8, 3))
    packed = zlib.compress(bytes(50_000_000), 9)
    head = b"key\0\x01\0\0\0" if name == b"iTXt" else b"key\0\0"
    data = with_chunk(saved(image, "PNG"), chunk(name, head + packed))
    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", None)

    tracemalloc.start()
    try:
        assert np.array_equal(open_picture(data), np.asarray(image))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_megabytes_of_plain_text_do_no_harm() -> None:
    image = Image.fromarray(noise(8, 8, 3))
    text = chunk(b"tEXt", b"workflow\0" + bytes(b"x" * 2_000_000))

    assert np.array_equal(open_picture(with_chunk(saved(image, "PNG"), text * 3)), np.asarray(image))


def test_a_file_of_too_many_bytes_parts_or_scans_is_refused() -> None:
    image = saved(Image.fromarray(noise(8, 8, 3)), "PNG")
    with pytest.raises(InvalidPicture, match=f"at most {MAX_PICTURE_BYTES} are taken"):
        open_picture(SIGNATURE + bytes(MAX_PICTURE_BYTES))
    with pytest.raises(InvalidPicture, match="its chunk 100001 is"):
        open_picture(with_chunk(image, 100_001 * chunk(b"tEXt", b"")))
    jpeg = saved(Image.fromarray(noise(8, 8, 3)), "JPEG")
    scan = jpeg[jpeg.index(b"\xff\xda") : -2]
    with pytest.raises(InvalidPicture, match="it has 151 scans"):
        open_picture(jpeg[:-2] + 150 * scan + jpeg[-2:])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: with_chunk(data, chunk(b"ABCD", b"")), "must be understood"),
        (lambda data: SIGNATURE + data[33:], "its chunk 1 is"),
        (lambda data: with_chunk(data, data[8:33]), "its chunk 2 is b'IHDR'"),
    ],
)
def test_pngs_that_break_their_format_are_refused(change: Callable[[bytes], bytes], named: str) -> None:
    with pytest.raises(InvalidPicture, match=named):
        open_picture(change(saved(Image.new("RGB", (4, 4)), "PNG")))

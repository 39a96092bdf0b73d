"""Metadata in files of each format: as UIs find them, whole, escaped, bounded, and beside the same pixels."""

import io
import json
import random
import struct
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.worker.items import spec_of
from tests.worker.ui_readers import a1111, comfy_png, comfy_webp, exif_values, parameters, xmp_properties

from vaefarm_shared import latents
from vaefarm_shared.budget import CHARACTER_BYTES, METADATA_BYTES
from vaefarm_shared.job import MAX_METADATA_CHARACTERS, JobSpec
from vaefarm_shared.latents import HostTensor, Latents
from vaefarm_shared.picture_files import read_picture_file
from vaefarm_worker.decoder import Decoded, Encoded
from vaefarm_worker.encode import encoded_files, options_of

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 24, 40, 3), dtype=np.uint8)
FORMATS: list[dict[str, Any]] = [
    {"image_format": "png"},
    {"image_format": "jpeg"},
    {"image_format": "webp"},
    {"image_format": "webp", "lossless": True},
]
METADATA = {"prompt": "a cat, «sitting» & <purring>\n猫 🐈", "seed": "7", "steps": "20", "my/key": 'a "b"\x00\r\n'}
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"text": "猫 é 🐈"}}}
COMFYUI = {"prompt": json.dumps(GRAPH, ensure_ascii=False), "workflow": '{"nodes":  [], "é": 1}'}

FORMS = pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(map(str, form.values())))


def file_of(metadata: dict[str, str], pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    spec = spec_of(metadata=metadata, **options)
    return encoded_files(Decoded(pixels, "float32"), spec)[0]


@FORMS
def test_each_format_has_the_uis_text_and_xmp_and_all_metadata(form: dict[str, Any]) -> None:
    data = file_of(METADATA, **form)
    read, packet = a1111(parameters(data)), xmp_properties(data)

    assert (read["Prompt"], read["Seed"], read["Steps"]) == (METADATA["prompt"], "7", "20")
    assert (read["Size-1"], read["Size-2"], read["my key"]) == ("40", "24", METADATA["my/key"])
    assert packet["description"] == METADATA["prompt"]
    assert packet["CreatorTool"] == f"vaefarm {version('vaefarm')}"
    assert json.loads(packet["metadata"]) == METADATA
    if form["image_format"] == "png":
        assert json.loads(Image.open(io.BytesIO(data)).info["vaefarm"]) == METADATA


@FORMS
def test_the_pixels_are_those_of_a_file_without_metadata(form: dict[str, Any]) -> None:
    plain, told = (Image.open(io.BytesIO(file_of(one, **form))) for one in ({}, METADATA))

    assert np.array_equal(np.asarray(plain), np.asarray(told))


@FORMS
def test_without_metadata_a_file_is_byte_for_byte_what_it_was(form: dict[str, Any]) -> None:
    before = io.BytesIO()
    options = options_of(form["image_format"], None, form.get("lossless", False))
    Image.fromarray(PIXELS[0]).save(before, form["image_format"].upper(), **options)

    assert file_of({}, **form) == before.getvalue()
    assert file_of(METADATA, embed_metadata=False, **form) == before.getvalue()


def test_alpha_is_kept_beside_metadata() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 24, 40, 4), dtype=np.uint8)
    for form in ({"image_format": "png"}, {"image_format": "webp", "lossless": True}):
        data = file_of(METADATA, pixels, picture_channels=4, **form)

        visible = pixels[0][..., 3] > 0
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)))[visible], pixels[0][visible])
        assert read_picture_file(data).width == 40


def test_comfyui_finds_its_graphs_in_png_and_webp() -> None:
    png, webp = (file_of(COMFYUI, image_format=name) for name in ("png", "webp"))

    assert comfy_png(png)["prompt"] == COMFYUI["prompt"]
    assert comfy_png(png)["workflow"] == COMFYUI["workflow"]
    assert {name: json.loads(text) for name, text in comfy_webp(webp).items()} == {
        "prompt": GRAPH,
        "workflow": {"nodes": [], "é": 1},
    }
    assert exif_values(Image.open(io.BytesIO(webp)).info["exif"])[0x010F][1].startswith(b"workflow:")
    assert "KSampler" not in parameters(png)


def test_a_plain_prompt_is_never_taken_for_comfyuis() -> None:
    assert not {"prompt", "workflow"} & set(comfy_png(file_of({"prompt": "a cat", "workflow": "by hand"})))
    assert "prompt" not in comfy_png(file_of({"prompt": '{"a": 1}'}))


def test_text_in_a_uis_form_goes_through_as_it_is() -> None:
    given = {"parameters": "é 猫\nSteps: 1, Seed: 2, Size: 1x1", "invokeai_metadata": '{"positive_prompt": "猫"}'}
    png = file_of({**given, "prompt": "another"})

    assert parameters(png) == given["parameters"]
    assert Image.open(io.BytesIO(png)).info["invokeai_metadata"] == given["invokeai_metadata"]
    for name in ("jpeg", "webp"):
        assert parameters(file_of(given, image_format=name)) == given["parameters"]
    # Which none of the formats can hold.
    assert parameters(file_of({"parameters": "a\x00b"})) == "ab"


def test_pictures_of_one_job_tell_their_own_seeds() -> None:
    spec = spec_of(metadata={"seed": "[7, 8]", "prompt": "a cat"}, count=2)
    files = encoded_files(Decoded(np.concatenate([PIXELS, PIXELS]), "float32"), spec)

    assert [a1111(parameters(data))["Seed"] for data in files] == ["7", "8"]


HOSTILE = {
    "xml": {"prompt": "</x:xmpmeta><?xpacket end='w'?>]]><!--&amp;\ufffe", "</rdf:li>": "<script>"},
    "controls": {"prompt": "a\x00b\x1b[0m\x7f", "\x00": "\x00", "parameters": "x\x00y"},
    "long-key": {"k" * 200: "v", "prompt": "a"},
    "own-names": {"vaefarm": "x", "XML:com.adobe.xmp": "<x>", "Comment": "x", "exif": "x"},
    "deep": {"prompt": "[" * 8000, "workflow": "{" * 8000},
    "numbers": {"seed": "[1" + "0" * 6000 + "]", "prompt": "1" * 6000},
    "graphs": {"prompt": json.dumps({"1": {"class_type": "猫" * 5000}}, ensure_ascii=False), "workflow": "{}"},
    "most": {"prompt": "\x01" * (MAX_METADATA_CHARACTERS - 6)},
    "astral": {"prompt": "🐈" * (MAX_METADATA_CHARACTERS - 6)},
    "quoted": {"key": "\x01" * (MAX_METADATA_CHARACTERS - 3)},
}


@FORMS
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_break_no_file(name: str, form: dict[str, Any]) -> None:
    data, plain = file_of(HOSTILE[name], **form), file_of({}, **form)

    picture = read_picture_file(data)
    assert (picture.width, picture.height, picture.orientation) == (40, 24, 1)
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(plain))))
    assert xmp_properties(data)["CreatorTool"].startswith("vaefarm ")
    characters = sum(len(key) + len(value) for key, value in HOSTILE[name].items())
    assert len(data) - len(plain) <= METADATA_BYTES + CHARACTER_BYTES * characters


@settings(max_examples=60, deadline=None)
@given(
    metadata=st.dictionaries(*[st.text(st.characters(exclude_categories=["Cs"]), max_size=30)] * 2, min_size=1),
    form=st.sampled_from(FORMATS),
)
def test_any_metadata_are_read_back_whole(metadata: dict[str, str], form: dict[str, Any]) -> None:
    data = file_of(metadata, **form)

    assert json.loads(xmp_properties(data)["metadata"]) == metadata
    assert parameters(data)
    assert "\0" not in parameters(data)
    assert read_picture_file(data).height == 24


def test_a_jpeg_leaves_out_whole_what_its_segments_cannot_hold() -> None:
    graph = json.dumps({"1": {"class_type": "猫" * 12_000}}, ensure_ascii=False)
    without_graph = file_of({"prompt": graph, "seed": "7"}, image_format="jpeg")
    # Six bytes a character in JSON, two in the comment.
    without_metadata = file_of({"prompt": "a cat", "key": "猫" * 15_000}, image_format="jpeg")
    without_any = file_of({"prompt": "🐈" * 16_378}, image_format="jpeg")

    assert 0x0110 not in exif_values(Image.open(io.BytesIO(without_graph)).info["exif"])
    assert a1111(parameters(without_graph))["Seed"] == "7"
    assert xmp_properties(without_metadata) == {"CreatorTool": f"vaefarm {version('vaefarm')}", "description": "a cat"}
    assert "exif" not in Image.open(io.BytesIO(without_any)).info
    assert set(xmp_properties(without_any)) == {"CreatorTool"}


def test_more_metadata_than_a_submit_takes_go_into_no_file() -> None:
    assert file_of({"prompt": "a" * MAX_METADATA_CHARACTERS}) == file_of({})


def test_a_tensors_file_carries_metadata_too_and_is_the_same_each_time() -> None:
    array = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float16)
    many = {f"key {n}": "é\x00" for n in range(20)} | METADATA
    made = Decoded(None, "float32", tensor=HostTensor(array, "float16"))
    told = spec_of(metadata=many, output_type="pt", height=8, width=8)
    (data,) = encoded_files(made, told)

    assert header(data)["__metadata__"] == many
    assert latents.unpack(data).array.tobytes() == array.tobytes()
    assert encoded_files(made, told) == [data]
    plain = spec_of(output_type="pt", height=8, width=8)
    assert encoded_files(made, plain) == [latents.pack(made.tensor or Latents(array, "float16"), "images")]
    assert encoded_files(made, told.model_copy(update={"embed_metadata": False})) == encoded_files(made, plain)
    assert "__metadata__" not in header(encoded_files(made, plain)[0])


def test_so_do_the_latents_of_an_encode() -> None:
    made = Encoded(Latents(np.zeros((1, 4, 3, 5), np.float32), "float32"), "float32")
    (data,) = encoded_files(made, spec_of(task="encode", metadata={"prompt": "a cat"}))

    assert header(data)["__metadata__"] == {"prompt": "a cat"}
    assert latents.unpack(data).shape == (1, 4, 3, 5)


def header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<Q", data)
    assert length % 8 == 0
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found


def test_a_spec_of_before_lets_metadata_in_and_keeping_them_out_needs_no_newer_worker() -> None:
    kept_out = spec_of(metadata=METADATA, embed_metadata=False)

    assert json.loads(kept_out.to_json())["version"] == 1
    assert JobSpec.from_json(kept_out.to_json()).embed_metadata is False
    assert JobSpec.from_json(spec_of(metadata=METADATA).to_json()).embed_metadata is True


def test_metadata_take_less_room_than_a_submit_reserves_for_them() -> None:
    drawn = random.Random(3)
    for _ in range(50):
        letters = "".join(chr(drawn.choice((1, 34, 38, 60, 92, 0x732B, 0x1F408, 97))) for _ in range(400))
        told = {"prompt": letters, "negative_prompt": letters, "key": letters}
        for form in FORMATS:
            more = len(file_of(told, **form)) - len(file_of({}, **form))
            assert more <= METADATA_BYTES + CHARACTER_BYTES * (1200 + 24)

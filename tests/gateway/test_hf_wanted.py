"""Which reply a request of the Hugging Face protocol gets."""

import pytest

from vaefarm_producer.gateway.hf_parameters import parameters
from vaefarm_producer.gateway.hf_wanted import Wanted, accepted, wanted
from vaefarm_shared.errors import InvalidOption

BOTH = {"partial_postprocess": "True"}


@pytest.mark.parametrize(
    ("accept", "said", "content", "image_format"),
    [
        # today's client: output_type, processor or none, image_format
        ("image/jpeg", {"output_type": "pil", "image_format": "jpg"}, "picture", "jpeg"),
        ("image/png", {"output_type": "pil", "image_format": "png"}, "picture", "png"),
        ("tensor/binary", {"output_type": "pil", "image_format": "jpg"}, "unit", None),
        ("tensor/binary", {"output_type": "pt", "image_format": "jpg"}, "raw", None),
        ("tensor/binary", {"output_type": "pt", **BOTH}, "pixels", None),
        # it says partial_postprocess with pil too, and reads a picture, or floats
        ("image/jpeg", {"output_type": "pil", **BOTH}, "picture", "jpeg"),
        ("tensor/binary", {"output_type": "pil", **BOTH}, "unit", None),
        # no header, or anything: the parameters tell
        ("", {}, "picture", "jpeg"),
        ("*/*", {"image_format": "png"}, "picture", "png"),
        ("*/*", {"output_type": "pil", "image_format": "webp"}, "picture", "webp"),
        ("", {"output_type": "pt"}, "raw", None),
        ("", {"output_type": "pt", **BOTH}, "pixels", None),
        ("", BOTH, "pixels", None),
        ("text/plain", {"output_type": "pt"}, "raw", None),
        # Accept wins over what the parameters say of pictures
        ("image/png", {"image_format": "jpg"}, "picture", "png"),
        ("image/webp", {"output_type": "pt"}, "picture", "webp"),
        ("image/jpg", {}, "picture", "jpeg"),
        ("tensor/binary", {}, "raw", None),
        # parameters, likes and wildcards
        ("IMAGE/JPEG; charset=utf-8", {}, "picture", "jpeg"),
        ("image/*", {"image_format": "png"}, "picture", "png"),
        ("image/*", {}, "picture", "jpeg"),
        ("tensor/*", {"output_type": "pt"}, "raw", None),
        ("image/png;q=0.5, image/webp;q=0.9", {}, "picture", "webp"),
        ("image/gif, image/png;q=0.1", {}, "picture", "png"),
        ("image/png;q=0, */*;q=0.1", {}, "picture", "jpeg"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", {}, "picture", "jpeg"),
        ("image/png;q=strange", {}, "picture", "png"),
    ],
)
def test_a_decode_is_answered_as_accept_and_parameters_want(accept, said, content, image_format) -> None:
    found = wanted(accept, parameters(said), "decode")
    assert (found.content, found.form) == (content, "bytes")
    if image_format is not None:
        assert found.image_format == image_format


@pytest.mark.parametrize(
    ("accept", "said", "content", "form"),
    [
        ("tensor/base64", {"output_type": "pt"}, "raw", "base64"),
        ("tensor/base64", {"output_type": "pt", **BOTH}, "pixels", "base64"),
        ("application/json", {"output_type": "pt"}, "raw", "json"),
        ("application/json", {}, "picture", "json"),
    ],
)
def test_json_and_base64_wrap_the_same_replies(accept, said, content, form) -> None:
    found = wanted(accept, parameters(said), "decode")
    assert (found.content, found.form) == (content, form)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "bytes"),
        ("", "bytes"),
        ("tensor/binary", "bytes"),
        ("tensor/base64", "base64"),
        ("application/json", "json"),
    ],
)
def test_an_encode_is_answered_with_latents(accept, form) -> None:
    assert wanted(accept, parameters({}), "encode") == Wanted("latents", form)


@pytest.mark.parametrize(
    ("accept", "task"), [("image/gif", "decode"), ("text/html", "decode"), ("image/png", "encode")]
)
def test_a_reply_that_there_is_not_is_refused_with_those_that_there_are(accept, task) -> None:
    with pytest.raises(InvalidOption, match="tensor/binary"):
        wanted(accept, parameters({}), task)


@pytest.mark.parametrize(
    ("accept", "said"),
    [("text/plain", {"output_type": "mp4"}), ("image/jpeg", {"output_type": "mp4"}), ("video/mp4", {})],
)
def test_a_video_is_refused_where_the_vae_makes_pictures(accept, said) -> None:
    with pytest.raises(InvalidOption, match="asks for a video, and this makes none"):
        wanted(accept, parameters(said), "decode")


@pytest.mark.parametrize(
    ("accept", "said", "content", "form"),
    [
        # today's client: it says image_format with everything
        ("text/plain", {"output_type": "mp4", "image_format": "jpg"}, "video", "text"),
        ("tensor/binary", {"output_type": "pil", "image_format": "jpg"}, "unit", "bytes"),
        ("tensor/binary", {"output_type": "pil", **BOTH}, "unit", "bytes"),
        ("tensor/binary", {"output_type": "pt"}, "raw", "bytes"),
        ("tensor/binary", {"output_type": "pt", **BOTH}, "pixels", "bytes"),
        # no header, or anything: the parameters tell
        ("", {}, "video", "bytes"),
        ("*/*", {"output_type": "mp4"}, "video", "bytes"),
        ("*/*", {"output_type": "pil"}, "unit", "bytes"),
        ("", {"output_type": "pt"}, "raw", "bytes"),
        ("", BOTH, "pixels", "bytes"),
        # Accept wins
        ("video/mp4", {"output_type": "pt"}, "video", "bytes"),
        ("video/*", {}, "video", "bytes"),
        ("image/jpeg, video/mp4;q=0.1", {"image_format": "jpg"}, "video", "bytes"),
        ("tensor/base64", {"output_type": "pt"}, "raw", "base64"),
        ("application/json", {"output_type": "pt", **BOTH}, "pixels", "json"),
    ],
)
def test_of_a_video_the_file_or_its_frames_are_given(accept, said, content, form) -> None:
    assert wanted(accept, parameters(said), "decode", of_video=True) == Wanted(content, form, of_video=True)


@pytest.mark.parametrize(
    ("accept", "said"),
    [
        ("image/jpeg", {"output_type": "pil", "image_format": "jpg"}),
        ("image/*", {}),
        ("image/webp", {"output_type": "mp4"}),
        ("application/json", {"output_type": "mp4"}),
    ],
)
def test_a_video_is_no_picture_and_not_in_json(accept, said) -> None:
    with pytest.raises(InvalidOption, match="names no reply that there is of a video; expected output_type=mp4"):
        wanted(accept, parameters(said), "decode", of_video=True)


def test_uint8_frames_are_those_of_the_zip_and_a_file_is_as_the_vae_says() -> None:
    assert Wanted("pixels", of_video=True).options == {"video_format": "zip", "image_format": "png"}
    assert Wanted("video", of_video=True).options == {}
    assert Wanted("unit", of_video=True).options == {"output_type": "pt"}


def test_types_come_as_they_are_liked_and_in_their_order_where_alike() -> None:
    assert accepted("a/a;q=0.2, b/b, c/c;q=0, d/d;q=1.0;x=y,, e/e") == ["b/b", "d/d", "e/e", "a/a"]


def test_pictures_have_the_quality_that_pillow_gives_unasked() -> None:
    assert Wanted("picture", image_format="jpeg").options == {"image_format": "jpeg", "quality": 75}
    assert Wanted("picture", image_format="webp").options == {"image_format": "webp", "quality": 80}
    assert Wanted("picture", image_format="png").options == {"image_format": "png"}

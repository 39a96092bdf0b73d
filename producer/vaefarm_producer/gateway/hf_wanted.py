"""Which reply a request of the Hugging Face remote-VAE protocol wants: by its Accept header and its parameters."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.job import ImageFormat, Task

from .hf_parameters import HfParameters

#: A picture's file; a video's; the decoder's raw tensor; the same in [0, 1]; uint8 pixels; the latents of an encode.
Content = Literal["picture", "video", "raw", "unit", "pixels", "latents"]

#: The bytes themselves; the same called text, as videos are; base64 of them in JSON that tells shape and dtype.
Form = Literal["bytes", "text", "base64", "json"]

BINARY: Final[str] = "tensor/binary"
BASE64: Final[str] = "tensor/base64"
JSON: Final[str] = "application/json"

#: What Accept calls pictures.
PICTURE_TYPES: Final[dict[str, ImageFormat]] = {
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
}

#: What `image_format` calls them.
FORMATS: Final[dict[str | None, ImageFormat]] = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}

#: Pillow's own, as the protocol's servers left it: a JPEG of 75 with 4:2:0.
QUALITIES: Final[dict[ImageFormat, int]] = {"jpeg": 75, "webp": 80}

#: Videos are accepted as such, or as text, which the client says for them and the protocol's servers answered.
VIDEO: Final[str] = "video/mp4"
TEXT: Final[str] = "text/plain"

#: Whatever fits the parameters.
ANYTHING: Final = frozenset({"*/*", TEXT, "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """The reply that is wanted."""

    content: Content
    form: Form = "bytes"
    image_format: ImageFormat = "jpeg"
    #: Whether the VAE makes videos: then a tensor is of one's frames.
    of_video: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Options of the job whose result makes the reply."""
        match self.content:
            case "picture" if self.image_format in QUALITIES:
                return {"image_format": self.image_format, "quality": QUALITIES[self.image_format]}
            case "picture" | "pixels":
                # Pixels are those of a picture, so that both are the same, and lie in a picture's few bytes.
                return {"image_format": "png"} | ({"video_format": "zip"} if self.of_video else {})
            case "video" | "latents":
                return {}
        return {"output_type": "pt"}


def wanted(accept: str, said: HfParameters, task: Task, of_video: bool = False) -> Wanted:
    """The reply that is wanted.

    Args:
        accept: The header; '' where there is none.
        of_video: Whether the VAE makes videos.

    Raises:
        InvalidOption: there is no such reply, as a picture of a video.
    """
    kinds = accepted(accept)
    if said.output_type == "mp4" and not of_video:
        raise no_video("output_type=mp4")
    for kind in kinds:
        found = _video_reply(kind, said) if of_video and task == "decode" else _reply(kind, said, task)
        if found is not None:
            return found
    if of_video and task == "decode":
        raise InvalidOption(
            f"Accept {accept[:100]!r} names no reply that there is of a video; expected output_type=mp4 with {VIDEO} or"
            f" {TEXT}, or pil or pt with {BINARY}: diffusers' remote_decode asks so for output_type='mp4' and"
            " return_type='mp4', or where it is given a processor"
        )
    if VIDEO in kinds:
        raise no_video(f"Accept: {VIDEO}")
    expected = [BINARY, BASE64, JSON] if task == "encode" else [*sorted(PICTURE_TYPES), BINARY, BASE64, JSON]
    raise InvalidOption(f"Accept {accept[:100]!r} names no reply that there is; expected some of {', '.join(expected)}")


def no_video(said: str) -> InvalidOption:
    """The refusal of what only a VAE of videos could do."""
    return InvalidOption(f"{said} asks for a video, and this makes none; expected output_type=pil or pt")


def accepted(accept: str) -> list[str]:
    """The types of an Accept header, best liked first, without their parameters and without refused ones."""
    found: list[tuple[float, str]] = []
    for part in accept.split(","):
        kind, *more = (text.strip().lower() for text in part.split(";"))
        likes = [_quality(text) for text in more if text.startswith("q=")]
        if kind:
            found.append((likes[0] if likes else 1.0, kind))
    if not found:
        return ["*/*"]
    return [kind for like, kind in sorted(found, key=lambda one: -one[0]) if like > 0]


def _quality(text: str) -> float:
    """What is no number counts as 1, as if it were not there."""
    try:
        like = float(text[2:])
    except ValueError:
        return 1.0
    return like if 0 <= like <= 1 else 1.0


def _reply(kind: str, said: HfParameters, task: Task) -> Wanted | None:
    """The reply of a type; None where there is no such."""
    if task == "encode":
        forms: dict[str, Form] = {BINARY: "bytes", "tensor/*": "bytes", BASE64: "base64", JSON: "json"}
        form = "bytes" if kind in ANYTHING else forms.get(kind)
        return None if form is None else Wanted("latents", form)
    if kind in PICTURE_TYPES or kind == "image/*":
        return Wanted("picture", "bytes", PICTURE_TYPES.get(kind) or FORMATS.get(said.image_format, "jpeg"))
    if kind in (BINARY, "tensor/*"):
        return Wanted(_tensor(said))
    if kind == BASE64:
        return Wanted(_tensor(said), "base64")
    is_picture = said.output_type == "pil" or (said.output_type is None and not said.partial_postprocess)
    if kind == JSON:
        # A picture in JSON is a PNG, as in the toolkit of the protocol's servers, unless a format was named.
        picture = Wanted("picture", "json", FORMATS.get(said.image_format, "png"))
        return picture if is_picture else Wanted(_tensor(said), "json")
    if kind in ANYTHING:
        picture = Wanted("picture", "bytes", FORMATS.get(said.image_format, "jpeg"))
        return picture if is_picture else Wanted(_tensor(said))
    return None


def _video_reply(kind: str, said: HfParameters) -> Wanted | None:
    """The reply of a type where the VAE makes videos; None where there is no such, as of pictures."""
    if kind in (VIDEO, "video/*"):
        return Wanted("video", of_video=True)
    forms: dict[str, Form] = {BINARY: "bytes", "tensor/*": "bytes", BASE64: "base64", JSON: "json"}
    is_file = said.output_type == "mp4" or (said.output_type is None and not said.partial_postprocess)
    if is_file and kind in ANYTHING:
        return Wanted("video", "text" if kind == TEXT else "bytes", of_video=True)
    form = "bytes" if kind in ANYTHING else forms.get(kind)
    if form is None or (is_file and form == "json"):
        return None
    return Wanted(_tensor(said), form, of_video=True)


def _tensor(said: HfParameters) -> Content:
    """The tensor that a request for one means. Of `pil` the client reads floats, also where it says both."""
    if said.output_type == "pil":
        return "unit"
    return "pixels" if said.partial_postprocess else "raw"

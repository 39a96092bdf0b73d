"""What a request of the Hugging Face remote-VAE protocol says besides its bytes, in a query or in JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from multidict import MultiMapping
from pydantic import BaseModel, ConfigDict, Field

from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.job import MAX_FPS, MIN_FPS

from .models import Dtype
from .problems import validated

#: What clients write for "nothing".
NOTHING: Final = frozenset({"", "None", "null"})

#: vaefarm's own words for a decode, which are options of its job.
OPTIONS: Final = ("num_frames", "fps", "decode_timestep", "decode_noise_scale", "decode_chunk_size", "seed")

#: What is said of decodes alone.
OF_DECODES: Final = frozenset({"output_type", "image_format", "partial_postprocess", *OPTIONS})

#: Where the scaling of a job comes from: the VAE's own constants, factors of the request, or there is none.
Scaling = Literal["model", "explicit", "none"]


class HfParameters(BaseModel):
    """Parameters of a decode or an encode. Those that are not known are left aside, as the protocol's servers do."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    shape: Annotated[tuple[int, ...] | None, Field(description="Of the tensor; repeated.", max_length=8)] = None
    dtype: Annotated[Dtype | None, Field(description="Of the tensor.")] = None
    output_type: Annotated[
        Literal["pil", "pt", "mp4"] | None,
        Field(description="A picture, a tensor, or a video's file."),
    ] = None
    image_format: Annotated[
        Literal["jpg", "jpeg", "png", "webp"] | None, Field(description="Of a picture, unless Accept names one.")
    ] = None
    partial_postprocess: Annotated[bool, Field(description="With pt: uint8 pixels, (n, height, width, 3).")] = False
    scaling_factor: Annotated[
        float | None, Field(allow_inf_nan=False, description="A decode divides by it, an encode multiplies.")
    ] = None
    shift_factor: Annotated[
        float | None,
        Field(allow_inf_nan=False, description="A decode adds it afterwards, an encode subtracts it before."),
    ] = None
    do_scaling: Annotated[bool | None, Field(description="Whether to scale by the VAE's own constants.")] = None
    height: Annotated[int | None, Field(ge=1, le=65536, description="Pixels; for packed latents alone.")] = None
    width: Annotated[int | None, Field(ge=1, le=65536, description="Pixels; for packed latents alone.")] = None
    num_frames: Annotated[
        int | None, Field(ge=1, description="Of a video; needed where its latents do not tell it.")
    ] = None
    fps: Annotated[
        float | None, Field(ge=MIN_FPS, le=MAX_FPS, description="Of a video's file; its VAE's pipelines' unless given.")
    ] = None
    decode_timestep: Annotated[float | None, Field(ge=0, le=1, description="Of LTX-Video; the pipeline's.")] = None
    decode_noise_scale: Annotated[float | None, Field(ge=0, le=1, description="The same; with a seed.")] = None
    decode_chunk_size: Annotated[
        int | None, Field(ge=1, description="Of Stable Video Diffusion: frames decoded at a time.")
    ] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**64, description="Of a decode's noise.")] = None
    reproducible: Annotated[
        bool, Field(description="The pipeline's own picture, bit for bit; the reply then says x-reproducible: True.")
    ] = False

    @property
    def names_decode(self) -> bool:
        """Whether something was said that is said of decodes alone."""
        return not self.model_fields_set.isdisjoint(OF_DECODES)


@dataclass(frozen=True, slots=True)
class Scaled:
    """How latents are scaled: the choice, and the options of a job that is made so."""

    choice: Scaling
    options: dict[str, Any]


def from_query(query: MultiMapping[str]) -> dict[str, Any]:
    """A query's parameters, unchecked. Raises InvalidOption for one that is given twice, but for `shape`."""
    raw: dict[str, Any] = {}
    for name in HfParameters.model_fields:
        values = query.getall(name, [])
        if name == "shape" and values:
            raw[name] = values
        elif len(values) > 1:
            raise InvalidOption(f"{name} was given {len(values)} times; expected once")
        elif values:
            raw[name] = values[0]
    return raw


def parameters(raw: Mapping[str, Any]) -> HfParameters:
    """Check parameters. Raises InvalidOption."""
    said = {name: value for name, value in raw.items() if value is not None and not (_is_nothing(value))}
    if "shape" in said:
        said["shape"] = list(_sizes(said["shape"]))
        if len(said["shape"]) != 3:
            # Clients send some that are wrong for all but packed latents, whose size nothing else tells.
            said = {name: value for name, value in said.items() if name not in ("height", "width")}
    return validated(HfParameters, said)


def _is_nothing(value: object) -> bool:
    return isinstance(value, str) and value in NOTHING


def _sizes(shape: object) -> Iterable[object]:
    """`1`, `[1, 4]`, `["1", "4"]`, `"1,4"` or `"[1, 4]"`: every way in which clients write a shape."""
    for one in shape if isinstance(shape, list | tuple) else [shape]:
        yield from one.strip("[]").split(",") if isinstance(one, str) else [one]


def scaling(said: HfParameters, silent: Scaling) -> Scaled:
    """How latents are scaled.

    Factors win; else `do_scaling`; else `silent`, which is what one who says nothing means.

    Raises:
        InvalidOption: a factor that nothing can be divided by, or a shift without it.
    """
    factor, shift = said.scaling_factor, said.shift_factor
    if factor is not None:
        if factor == 0:
            raise InvalidOption("scaling_factor is 0; expected the number that a decode divides latents by")
        return Scaled("explicit", {"scaling_factor": factor} | ({} if shift is None else {"shift_factor": shift}))
    if shift is not None:
        raise InvalidOption(
            "shift_factor comes without scaling_factor; send both, or neither and do_scaling=True for the VAE's own"
        )
    choice = silent if said.do_scaling is None else "model" if said.do_scaling else "none"
    return Scaled(choice, {"normalised": False} if choice == "none" else {})

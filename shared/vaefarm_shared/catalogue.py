"""The catalogue: which VAEs there are, where their weights lie, and the contract that latents for them keep.

The producer has no VAE, yet must check latents before they are queued: it reads the contract that a worker
publishes, else its own catalogue's.
"""

import tomllib
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .endpoints import EndpointEntry, wrong_factors
from .errors import ConfigurationError, UnknownVae
from .job import MAX_FPS, MIN_FPS, DecodeArgument, Factor, Layout, Name

#: Pixels of the largest picture taken unless an entry says otherwise: 4096 x 4096.
MAX_PIXELS: Final[int] = 4096 * 4096

#: Pictures in one job unless an entry says otherwise.
MAX_COUNT: Final[int] = 64

#: Frames of one video unless an entry says otherwise: ten seconds of 24, and one.
MAX_FRAMES: Final[int] = 241

#: Fields of an entry that say where its weights lie, and those that mean something for one such place alone.
PLACES: Final[frozenset[str]] = frozenset({"source", "path"})
OF_A_PLACE: Final[frozenset[str]] = frozenset(
    {"subfolder", "revision", "variant", "gated", "scaling_factor", "shift_factor"}
)


class Contract(BaseModel):
    """What latents for a VAE must look like. With c latent channels and s pixels a latent, the layouts are

    spatial: (n, c, height/s, width/s);
    packed: (n, (height/2s)*(width/2s), 4c), one token for 2 x 2 latents, row by row (Flux.1, Flux.2, Qwen-Image);
    tokens: (n, (height/s)*(width/s), c), one token for each latent (Qwen-Image 2.1);
    patchified: (n, 4c, height/2s, width/2s), the channels of 2 x 2 latents behind one another (Flux.2);
    frames: (n, c, 1, height/s, width/s), a film of one frame (Qwen-Image's VAE);
    video: (n, c, (frames-1)/t+1, height/s, width/s), with t frames a latent but for the first (Wan, HunyuanVideo);
    video_tokens: (n, ((frames-1)/t+1)*(height/s)*(width/s), c), one token for each latent of each frame (LTX-Video);
    frames_first: (n, frames/t rounded up, c, height/s, width/s) (CogVideoX, Stable Video Diffusion);
    padded: the same with one more latent frame in front where their number is odd (CogVideoX 1.5).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    latent_channels: Annotated[int, Field(ge=1, le=4096)]
    spatial_scale: Annotated[int, Field(ge=1, le=128)]
    layouts: tuple[Layout, ...] = ("spatial",)
    picture_channels: Literal[3, 4] = 3
    #: Whether pipelines resize and crop the picture to the size that was asked for (Sana, PixArt).
    binned: bool = False
    #: Pixels of one picture, or of one frame; pictures, or videos, of one job.
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS
    max_count: Annotated[int, Field(ge=1)] = MAX_COUNT
    #: Of a VAE that makes videos: frames a latent; frames a second unless a job says so; frames of one video at most.
    temporal_scale: Annotated[int, Field(ge=1, le=64)] | None = None
    fps: Annotated[float, Field(ge=MIN_FPS, le=MAX_FPS)] | None = None
    max_frames: Annotated[int, Field(ge=1)] = MAX_FRAMES
    #: What a job may tell its decode besides.
    decode_arguments: tuple[DecodeArgument, ...] = ()
    #: Whether pipelines return latents that are the decoder's own input already (LTX-2).
    denormalised: bool = False


class VaeEntry(BaseModel):
    """One VAE of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    description: str = ""
    source: str | None = None
    path: str | None = None
    subfolder: str | None = None
    revision: str | None = None
    variant: str | None = None
    gated: bool = False
    dtype: Annotated[str, Field(pattern="^(float16|bfloat16|float32)$")] = "float16"
    cpu_dtype: Annotated[str, Field(pattern="^(float16|bfloat16|float32)$")] = "float32"
    respects_force_upcast: bool = False
    latent_channels: int | None = None
    spatial_scale: int | None = None
    layouts: tuple[Layout, ...] | None = None
    picture_channels: Literal[3, 4] | None = None
    binned: bool | None = None
    max_pixels: int | None = None
    max_count: int | None = None
    temporal_scale: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    decode_arguments: tuple[DecodeArgument, ...] | None = None
    denormalised: bool | None = None
    #: The constants of its config.json, for endpoints that are told them; without them they scale by their own.
    scaling_factor: Factor | None = None
    shift_factor: Factor | None = None
    #: Where it is decoded by others (`vaefarm worker --remote ID`).
    endpoints: tuple[EndpointEntry, ...] = ()

    @model_validator(mode="after")
    def _scales(self) -> "VaeEntry":
        if (why := wrong_factors(self.scaling_factor, self.shift_factor)) is not None:
            raise PydanticCustomError("contradiction", "{why}", {"why": why})
        return self

    @cached_property
    def contract(self) -> Contract | None:
        """The contract, where the entry carries one."""
        if self.latent_channels is None or self.spatial_scale is None:
            return None
        return Contract(
            latent_channels=self.latent_channels,
            spatial_scale=self.spatial_scale,
            picture_channels=self.picture_channels or 3,
            temporal_scale=self.temporal_scale,
            decode_arguments=self.decode_arguments or (),
            **self.limits,
        )

    @property
    def limits(self) -> dict[str, Any]:
        """Those parts of a contract that config.json does not hold, as far as the entry gives them."""
        return self.model_dump(
            include={"layouts", "binned", "max_pixels", "max_count", "fps", "max_frames", "denormalised"},
            exclude_none=True,
        )

    @property
    def origin(self) -> str:
        """Where the weights come from, for messages."""
        return (self.path or self.source or "") + (f"/{self.subfolder}" if self.subfolder else "")


class Catalogue:
    """VAE entries by id."""

    def __init__(self, entries: Mapping[str, VaeEntry]) -> None:
        self._entries = dict(entries)

    @classmethod
    def load(cls, operators_file: str | Path | None = None, places: Mapping[str, str] | None = None) -> "Catalogue":
        """Read the built-in catalogue and, on top of it, an operator's TOML file.

        Args:
            places: Folders of VAEs by id, which take the place of whatever that says.

        Raises:
            ConfigurationError: the file is missing, no TOML, or an entry is not valid; names which.
        """
        raw = _read_toml(files("vaefarm_shared").joinpath("catalogue.toml").read_text(), "the built-in catalogue")
        if operators_file is not None:
            path = Path(operators_file)
            try:
                text = path.read_text()
            except OSError as error:
                raise ConfigurationError(f"catalogue {path} cannot be read: {error.strerror}") from error
            _lay_over(raw, _read_toml(text, str(path)))
        _lay_over(raw, {vae: {"path": place} for vae, place in (places or {}).items()})
        return cls({vae: _entry(vae, fields) for vae, fields in raw.items()})

    def __iter__(self) -> Any:
        return iter(self._entries.values())

    def __contains__(self, vae: str) -> bool:
        return vae in self._entries

    def __getitem__(self, vae: str) -> VaeEntry:
        """Raises UnknownVae, naming those there are."""
        try:
            return self._entries[vae]
        except (KeyError, TypeError):
            raise unknown_vae(vae, self._entries) from None


def unknown_vae(vae: object, known: Mapping[str, Any]) -> UnknownVae:
    """The error for a VAE id that nobody knows."""
    return UnknownVae(
        f"VAE {vae!r} is not known; expected one of {', '.join(sorted(known))}, or an id of your catalogue file"
    )


def _lay_over(raw: dict[str, dict[str, Any]], fields_by_id: Mapping[str, dict[str, Any]]) -> None:
    """Change and add entries. Another place takes the place of the whole of a repository, never of a part of one."""
    for vae, fields in fields_by_id.items():
        base = raw.get(vae, {})
        if not PLACES.isdisjoint(fields):
            base = {name: value for name, value in base.items() if name not in PLACES | OF_A_PLACE}
        raw[vae] = base | fields


def _read_toml(text: str, name: str) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(text).get("vaes", {})
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is no TOML file: {error}") from error
    if not isinstance(tables, dict) or not all(isinstance(fields, dict) for fields in tables.values()):
        raise ConfigurationError(f"{name}: expected tables [vaes.ID], one for each VAE")
    return tables


def _entry(vae: str, fields: dict[str, Any]) -> VaeEntry:
    try:
        entry = VaeEntry(id=vae, **fields)
        _ = entry.contract
    except ValidationError as error:
        first = error.errors()[0]
        # What two fields say together has no place of its own.
        place = ".".join(str(part) for part in first["loc"]) + ": " * bool(first["loc"])
        raise ConfigurationError(f"catalogue entry [vaes.{vae}]: {place}{first['msg']}") from error
    places = sum(place is not None for place in (entry.source, entry.path))
    if places > 1 or (not places and not entry.endpoints):
        raise ConfigurationError(
            f"catalogue entry [vaes.{vae}]: expected either `source` or `path`, or `endpoints` alone"
        )
    return entry

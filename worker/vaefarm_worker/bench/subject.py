"""The VAEs that are measured: their own weights where these are on this machine, else random ones if wanted."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch

from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import ConfigurationError, InvalidOption

from ..families import switches
from ..families.family import Family
from ..families.known import family_of
from ..fast import FastDecoder, fast_decoder, wanted_on
from ..sources import look_up
from ..vaes import describe_vae, drop_encoder, read_vae
from .architectures import ARCHITECTURES, random_vae

#: What is measured where nobody names a VAE: with random weights on a GPU and on a CPU, and what is on every machine.
RANDOM_VAES: Final[tuple[str, ...]] = ("sdxl", "flux")
RANDOM_VAES_OF_CPU: Final[tuple[str, ...]] = ("sdxl",)
SHIPPED_VAE: Final[str] = "demo"


@dataclass(frozen=True, slots=True)
class Subject:
    """A VAE on the device, without its encoder."""

    id: str
    module: Any
    family: Family
    dtype: torch.dtype
    device: torch.device
    #: "own" or "random".
    weights: str
    #: What a worker decodes with unless a job is to be reproducible; None where nothing of the VAE can be hastened.
    fast: FastDecoder | None = None

    @property
    def scale(self) -> int:
        """Pixels of a latent's side."""
        return self.family.scale(self.module.config)

    @property
    def weight_bytes(self) -> int:
        """Bytes of its parameters and buffers."""
        return _bytes_of(self.module)

    @property
    def fast_bytes(self) -> int:
        """Bytes of what its fast decoder has besides."""
        return 0 if self.fast is None else _bytes_of(self.module, self.fast.module) - self.weight_bytes

    def latents(self, size: int, batch: int, device: torch.device | str | None = None) -> torch.Tensor:
        """What its decoder takes for pictures of size x size pixels, from a seeded normal distribution."""
        frames = (1,) if self.family.has_frames else ()
        side = size // self.scale
        shape = (batch, self.family.channels(self.module.config), *frames, side, side)
        if device is not None:
            return torch.empty(shape, device=device)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device, self.dtype)

    def least_bytes(self, size: int, batch: int) -> int:
        """Bytes that a plain decode takes at least, beside the weights."""
        cost = self.family.pixel_cost(self.module.config, self.dtype.itemsize)
        return int(cost.least_bytes * batch * size * size)


def _bytes_of(*modules: Any) -> int:
    tensors = {id(one): one for module in modules for one in (*module.parameters(), *module.buffers())}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def chosen_entries(catalogue: Catalogue, vaes: Iterable[str], device: torch.device, random: bool) -> list[VaeEntry]:
    """The entries of those ids, or where there are none what makes sense here.

    That is the demo's VAE on a CPU, on another device every VAE that is on this machine, and with `random` full-size
    ones whose weights need not be.

    Raises:
        UnknownVae: an id that the catalogue has not.
        ConfigurationError: its weights are not here, and there are no random ones.
    """
    if ids := tuple(vaes):
        chosen = [catalogue[vae] for vae in ids]
    elif random:
        chosen = [catalogue[vae] for vae in (RANDOM_VAES_OF_CPU if device.type == "cpu" else RANDOM_VAES)]
    else:
        here = [one for one in catalogue if device.type != "cpu" and look_up(one).is_present and one.id != SHIPPED_VAE]
        chosen = here or [catalogue[SHIPPED_VAE]]
    for entry in chosen:
        if not look_up(entry).is_present and not (random and entry.id in ARCHITECTURES):
            raise ConfigurationError(f"the weights of VAE {entry.id!r} are not on this machine; {_remedy(entry)}")
    return chosen


def _remedy(entry: VaeEntry) -> str:
    fetched = f"`vaefarm vaes --pull {entry.id}` fetches them"
    if entry.id in ARCHITECTURES:
        return f"{fetched}, --random takes random ones, which are as fast"
    return f"{fetched}; --random knows {', '.join(ARCHITECTURES)}"


def load(entry: VaeEntry, device: torch.device, dtype: str | None) -> Subject:
    """Load a VAE onto the device, in its entry's dtype unless another is given.

    Raises:
        ConfigurationError: its weights cannot be read.
    """
    if look_up(entry).is_present:
        changes = {} if dtype is None else {"dtype": dtype, "cpu_dtype": dtype}
        loaded = read_vae(describe_vae(entry.model_copy(update=changes), device, decode_only=True))
        module, family, weights, wanted = loaded.module, loaded.family, "own", loaded.dtype
    else:
        module, weights = random_vae(entry.id), "random"
        family = family_of(ARCHITECTURES[entry.id][0])
        wanted = getattr(torch, dtype or (entry.cpu_dtype if device.type == "cpu" else entry.dtype))
        drop_encoder(module)
        switches.bound_tiles(module, family.scale(module.config))
    # Not diffusers' own `to`, which warns of a cast after the load.
    torch.nn.Module.to(module, device, wanted)
    switches_on = wanted_on(device)
    fast = fast_decoder(module, switches_on) if switches_on else None
    if fast is not None:
        fast.module.to(device, wanted)
    return Subject(entry.id, module, family, wanted, device, weights, fast)


def check_sizes(vae: str, scale: int, sizes: Iterable[int]) -> None:
    """Raise InvalidOption for a side of which a VAE of that scale has no whole number of latents."""
    for size in sizes:
        if size % scale:
            raise InvalidOption(
                f"--sizes {size}: VAE {vae!r} makes multiples of {scale} pixels;"
                f" expected such as {max(1, size // scale) * scale}"
            )

"""The widgets that nodes share, and what their values mean."""

import logging
import os
from functools import cache
from typing import Any, Final

from vaefarm_producer import ConfigurationError
from vaefarm_shared.catalogue import Catalogue

logger = logging.getLogger(__name__)

URL: Final[dict[str, Any]] = {
    "url": (
        "STRING",
        {
            "default": "",
            "tooltip": "A gateway's address (https://HOST), or Redis' (redis://HOST). Empty: VAEFARM_URL, or"
            " vaefarm.toml beside the nodes. Never write a key here: ComfyUI saves it in every picture. The key is"
            " VAEFARM_KEY, or stands in that file, and is sent to this machine's own farm alone.",
        },
    )
}

#: Seconds for which a node waits unless told otherwise: a farm without a worker is no reason to wait for ever.
TIMEOUT_SECONDS: Final[float] = 600.0

TIMEOUT: Final[dict[str, Any]] = {
    "timeout": (
        "FLOAT",
        {
            "default": TIMEOUT_SECONDS,
            "min": 0.0,
            "max": 604800.0,
            "step": 1.0,
            "tooltip": "Seconds to wait; 0: without limit.",
        },
    )
}

OTHER_VAE: Final[dict[str, Any]] = {
    "other_vae": (
        "STRING",
        {
            "default": "",
            "tooltip": "The id of a VAE of the farm's own, which is not in the list, in place of the one chosen there.",
        },
    )
}

OUTPUT: Final[dict[str, Any]] = {
    "output": (
        ["picture", "tensor"],
        {
            "default": "picture",
            "tooltip": "picture: 8 bits a channel, as a PNG has them. tensor: what the decoder gives, in float16, four"
            " times the bytes or more.",
        },
    )
}


def vae_widget() -> dict[str, Any]:
    """The catalogue's VAEs to choose from."""
    ids = vae_ids(os.environ.get("VAEFARM_CATALOGUE"))
    tooltip = "The VAE of the model that made the latents; `vaefarm vaes` tells of each."
    return {"vae": (list(ids), {"default": "sdxl", "tooltip": tooltip})}


@cache
def vae_ids(path: str | None) -> tuple[str, ...]:
    """Ids of the catalogue, with an operator's own file; without it where that cannot be read."""
    try:
        catalogue = Catalogue.load(path or None)
    except ConfigurationError as error:
        logger.warning("vaefarm: VAEs of one's own are not listed: %s", error)
        catalogue = Catalogue.load(None)
    return tuple(entry.id for entry in catalogue)


def chosen(vae: str, other_vae: str) -> str:
    """The VAE that a node's two fields mean."""
    return other_vae.strip() or vae


def patience(timeout: float) -> float | None:
    """Seconds to wait; None without limit."""
    return timeout or None

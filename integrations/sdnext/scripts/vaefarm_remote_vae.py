"""SD.Next's remote VAE by a farm: as SD.Next loads it, the farm's addresses take the place of Hugging Face's.

VAEFARM_URL                the gateway's address, https://HOST; without it nothing is changed
VAEFARM_SDNEXT_VAES        other VAEs than those below: "sdxl=my-finetune,sd=another"

The key goes into ~/.netrc: SD.Next has no field for one, and logs the whole address of each request that is refused.
"""

import logging
import os
from urllib.parse import urlsplit

from modules.vae import sd_vae_remote
from requests.utils import get_netrc_auth

log = logging.getLogger("sd")

#: SD.Next's types of models, and the farm's VAE for each. Those whose latents are scaled by vectors (Flux.2,
#: Qwen-Image) are left out: SD.Next tells an endpoint one factor, and decodes them itself.
VAES = {
    "sd": "sd-v1",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "f1": "flux",
    "chroma": "flux",
    "h1": "flux",
    "lumina2": "flux",
    "zimage": "z-image",
    "pixartalpha": "pixart-alpha",
    "pixartsigma": "pixart-sigma",
    "auraflow": "auraflow",
    "hunyuandit": "sdxl",
    "omnigen": "sdxl",
    "cogview4": "cogview4",
    "sana": "sana",
}


def chosen_vaes(text: str) -> dict[str, str]:
    """The table, with an operator's own choices. Raises ValueError for what is no TYPE=VAE."""
    chosen = dict(VAES)
    for part in filter(None, (one.strip() for one in text.split(","))):
        model, _, vae = part.partition("=")
        if not model.strip() or not vae.strip():
            raise ValueError(f"VAEFARM_SDNEXT_VAES has {part!r}; expected TYPE=VAE between commas, such as sdxl=sdxl")
        chosen[model.strip()] = vae.strip()
    return chosen


def checked_url(url: str) -> str:
    """The gateway's address without a slash at its end. Raises ValueError, which shows no password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("VAEFARM_URL is not a gateway's address; expected https://HOST: SD.Next reaches no Redis")
    if parts.password:
        log.warning("vaefarm: VAEFARM_URL holds a key, which SD.Next logs with refused requests; put it into ~/.netrc")
    elif os.environ.get("VAEFARM_KEY") and get_netrc_auth(url) is None:
        log.warning("vaefarm: SD.Next sends no VAEFARM_KEY; put it into ~/.netrc: machine %s", parts.hostname)
    return url.rstrip("/")


def point_at(url: str, vaes: dict[str, str]) -> None:
    """Make the farm's addresses the only ones: no latents go elsewhere. Raises AttributeError for another SD.Next."""
    tables = sd_vae_remote.hf_decode_endpoints, sd_vae_remote.hf_encode_endpoints
    for table in tables:
        table.clear()
        table.update({model: f"{url}/hf/{vae}" for model, vae in vaes.items()})


def install() -> None:
    """Do it, where there is an address; what is wrong is one line in SD.Next's log."""
    url = os.environ.get("VAEFARM_URL", "").strip()
    if not url:
        log.warning("vaefarm: VAEFARM_URL is not set; SD.Next's remote VAE is what it was")
        return
    try:
        vaes = chosen_vaes(os.environ.get("VAEFARM_SDNEXT_VAES", ""))
        point_at(checked_url(url), vaes)
    except AttributeError as error:
        log.error("vaefarm: this SD.Next has its endpoints elsewhere, and its remote VAE is what it was: %s", error)
    except ValueError as error:
        log.error("vaefarm: %s; SD.Next's remote VAE is what it was", error)
    else:
        log.info("vaefarm: SD.Next's remote VAE is at %s", urlsplit(url).hostname)


install()

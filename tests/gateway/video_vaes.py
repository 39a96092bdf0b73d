"""The VAEs of videos that the farm for clients of the Hugging Face protocol serves, small ones."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from tests.parity.hunyuan import short_hunyuan_video
from tests.parity.ltx import tiny_ltx_vae
from tests.parity.videos import tiny_wan_vae


@cache
def tiny_hunyuan_vae() -> Any:
    """A small AutoencoderKLHunyuanVideo."""
    return short_hunyuan_video().vae


#: By the id in the catalogue.
VIDEO_VAES: Final[dict[str, Callable[[], Any]]] = {
    "wan": tiny_wan_vae,
    "hunyuan-video": tiny_hunyuan_vae,
    "ltx-video": tiny_ltx_vae,
}

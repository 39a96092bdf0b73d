"""Routes of the Hugging Face remote-VAE protocol."""

from typing import Final

from . import hf
from .hf_parameters import HfParameters
from .hf_wanted import BASE64, BINARY, JSON, TEXT, VIDEO
from .routes import Route

BODIES: Final = (BINARY, BASE64, "application/octet-stream")
REPLIES: Final = ("image/jpeg", "image/png", "image/webp", VIDEO, TEXT, BINARY, BASE64, JSON)
TENSORS: Final = (BINARY, BASE64, JSON)

ROUTES: Final = [
    Route("POST", "/hf/{vae}", hf.post_vae, "Decode or encode, and wait for it.", query=HfParameters, bodies=BODIES,
          content_types=REPLIES),
    Route("POST", "/hf/{vae}/", hf.post_vae, "As without the slash.", query=HfParameters, bodies=BODIES,
          content_types=REPLIES),
    Route("POST", "/hf/{vae}/decode", hf.post_decode, "Decode, and wait for it.", query=HfParameters, bodies=BODIES,
          content_types=REPLIES),
    Route("POST", "/hf/{vae}/encode", hf.post_encode, "Encode, and wait for it.", query=HfParameters, bodies=BODIES,
          content_types=TENSORS),
    Route("POST", "/", hf.post_vae, "As /hf/{vae}, for the default VAE.", query=HfParameters, bodies=BODIES,
          content_types=REPLIES),
    Route("POST", "/predict", hf.post_vae, "As /hf/{vae}, for the default VAE.", query=HfParameters,
          bodies=BODIES, content_types=REPLIES),
    Route("GET", "/hf/{vae}", hf.get_vae, "That the farm knows the VAE.", content_types=(TEXT,)),
    Route("GET", "/hf/{vae}/health", hf.get_vae_health, "That a worker serves the VAE.", content_types=(TEXT,)),
]  # fmt: skip

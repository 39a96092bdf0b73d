"""The queue of Hugging Face's post on remote VAEs: one thread that takes latents and asks one endpoint for each.

https://huggingface.co/blog/remote_vae, section "Queueing", with the client that diffusers has had since, since the
post's own speaks a form of the protocol that its endpoints no longer do. The pipeline is a pause.
"""

import queue
import threading
import time
from typing import Any

import torch
from diffusers.utils.remote_utils import remote_decode

#: The constant of Stable Diffusion 1.x, which the post's pipeline is.
SCALING_FACTOR = 0.18215


def posts_script(url: str, latents: list[torch.Tensor], generator_seconds: float) -> float:
    """Seconds from the first generation to the last picture.

    Args:
        latents: Torch tensors of (1, 4, height / 8, width / 8).
        generator_seconds: What the pipeline takes for each.

    Raises:
        RuntimeError: the thread died before it had every picture.
    """
    waiting: queue.Queue[torch.Tensor | None] = queue.Queue()
    shown: list[Any] = []

    def decode_all() -> None:
        while (latent := waiting.get()) is not None:
            shown.append(remote_decode(url, latent, scaling_factor=SCALING_FACTOR))
            waiting.task_done()

    began = time.perf_counter()
    thread = threading.Thread(target=decode_all, daemon=True)
    thread.start()
    for latent in latents:
        time.sleep(generator_seconds)
        waiting.put(latent)
    waiting.put(None)
    thread.join()
    if len(shown) != len(latents):
        raise RuntimeError(f"the post's script showed {len(shown)} of {len(latents)} pictures")
    return time.perf_counter() - began

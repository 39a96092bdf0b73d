"""What configs of diffusers' VAEs tell of their geometry: channels, and how often sizes double."""

from collections.abc import Callable, Sequence

from .family import Config


def number(name: str) -> Callable[[Config], int]:
    """What reads a number of the config."""
    return lambda config: int(config[name])


def by_blocks(config: Config) -> int:
    """Pixels a latent: each block but the last doubles the size."""
    return int(2 ** (len(_blocks(config)) - 1))


def last_block(config: Config) -> int:
    """Channels of the decoder's last block, which gets those of the one before it."""
    return int(_blocks(config)[:2][-1])


def base_dim(config: Config) -> int:
    """Channels of the last block of Wan's decoder, and Qwen-Image's."""
    return int(config.get("decoder_base_dim") or config["base_dim"])


def _blocks(config: Config) -> Sequence[int]:
    found: Sequence[int] = config.get("decoder_block_out_channels") or config["block_out_channels"]
    return found

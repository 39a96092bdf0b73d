"""vaefarm's nodes for ComfyUI: decodes and encodes by a farm, in the place of a VAE in this process."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

"""Parts of a module that others stand in for."""

from collections.abc import Callable
from typing import Any

from torch import nn


def replace_parts(module: nn.Module, is_known: Callable[[Any], bool], make: Callable[[Any], nn.Module]) -> bool:
    """Put `make` of a part in place of every part that `is_known` knows, at any depth; whether there was any."""
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if is_known(child)
    ]
    for parent, name, child in found:
        setattr(parent, name, make(child))
    return bool(found)

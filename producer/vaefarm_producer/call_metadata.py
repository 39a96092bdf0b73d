"""What the call of a pipeline says of its pictures, as metadata by diffusers' own names. Imports no torch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vaefarm_shared.job import MAX_METADATA_CHARACTERS, metadata_characters

#: Arguments of pipelines that are recorded, the most telling first.
ARGUMENTS: Final[tuple[str, ...]] = (
    "prompt",
    "negative_prompt",
    "num_inference_steps",
    "guidance_scale",
    "true_cfg_scale",
    "strength",
    "prompt_2",
    "negative_prompt_2",
    "prompt_3",
    "negative_prompt_3",
)

#: What of a scheduler's configuration makes it another sampler to UIs.
SCHEDULER_FIELDS: Final[tuple[str, ...]] = ("use_karras_sigmas", "algorithm_type")


def call_metadata(pipeline: Any, said: Mapping[str, Any]) -> dict[str, str]:
    """Prompts, steps, guidance, seed, scheduler and model of a call that has not begun.

    What differs from picture to picture is a JSON list with one for each.

    Args:
        said: The call's arguments by name, defaults included.
    """
    found = {"seed": seed_of(said.get("generator"))}
    copies = said.get("num_images_per_prompt") or said.get("num_videos_per_prompt") or 1
    found |= {name: _text(said.get(name), copies) for name in ARGUMENTS}
    scheduler = getattr(pipeline, "scheduler", None)
    if scheduler is not None:
        found["scheduler"] = type(scheduler).__name__
        config = getattr(scheduler, "config", {})
        found |= {name: str(config[name]) for name in SCHEDULER_FIELDS if config.get(name)}
    found["model"] = model_of(getattr(pipeline, "config", {}).get("_name_or_path") or "")
    return {name: text for name, text in found.items() if text}


def seed_of(generator: Any) -> str:
    """The seed of a generator, or of several; '' where one was drawn from already, so that its seed tells nothing."""
    if generator is None:
        return ""
    if isinstance(generator, list | tuple):
        seeds = [seed_of(one) for one in generator]
        return (seeds[0] if len(seeds) == 1 else f"[{', '.join(seeds)}]") if all(seeds) else ""
    seed = generator.initial_seed()
    as_new = type(generator)(device=generator.device).manual_seed(seed)
    return str(seed) if bool((as_new.get_state() == generator.get_state()).all()) else ""


def model_of(name: str) -> str:
    """A repository's id; of a folder its name alone, since a path tells of the machine."""
    parts = re.split(r"[/\\]", name.rstrip("/\\"))
    is_repository = re.fullmatch(r"[\w.-]*\w(/[\w.-]*\w)?", name) is not None and not Path(name).exists()
    return name if is_repository else parts[-1]


def fitting(found: Mapping[str, str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What was given, and of what was found as much as a job's metadata may have besides, each whole."""
    kept = dict(given or {})
    for name, text in ((_writable(name), _writable(text)) for name, text in found.items()):
        if name not in kept and metadata_characters(kept | {name: text}) <= MAX_METADATA_CHARACTERS:
            kept[name] = text
    return kept


def _text(value: Any, copies: int) -> str:
    """A value, or one for each picture: each of a list makes so many."""
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        values = [one for one in value for _ in range(copies)]
        return values[0] if len(set(values)) == 1 else json.dumps(values, ensure_ascii=False)
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which nothing can write."""
    return text.encode("utf-8", "replace").decode()

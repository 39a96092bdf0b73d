"""Metadata as the text that AUTOMATIC1111's web UI writes into pictures, and the others read:

    a cat, sitting
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768, Model: sdxl

Readers take the last line for pairs where it has three or more, SD.Next from the first of Steps, Sampler, CFG scale,
Seed and Size on; Civitai and ComfyUI want it to begin with Steps (docs/metadata.md).
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from vaefarm_shared.job import JobSpec

from .sampler_names import sampler_of

#: The UIs' names, and the keys that mean them besides: diffusers' arguments first. In the order of the line.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "Steps": ("num_inference_steps", "steps"),
    "Sampler": (),
    "Schedule type": (),
    "CFG scale": ("true_cfg_scale", "guidance_scale", "cfg_scale"),
    "Distilled CFG Scale": (),
    "Seed": ("seed",),
    "Size": (),
    "Model hash": ("model_hash",),
    "Model": ("model", "model_name"),
    "Denoising strength": ("strength", "denoising_strength"),
}

#: Keys that are said already: by the text's first lines, by Sampler, or by the picture's own size.
SAID: Final[frozenset[str]] = frozenset(
    {"prompt", "negative_prompt", "Prompt", "Negative prompt", "Size", "width", "height"}
    | {"sampler", "sampler_name", "scheduler", "use_karras_sigmas", "algorithm_type"}
)

#: What may differ from picture to picture of a job: a JSON list then holds one for each.
OF_EACH: Final[tuple[str, ...]] = ("prompt", "negative_prompt", "seed")

#: How the line of the negative prompt begins.
NEGATIVE: Final[str] = "Negative prompt:"

#: Control characters that no text of a picture has: readers take NUL for its end.
CONTROLS: Final[re.Pattern[str]] = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

#: What a value may not have as it is: readers would end it there, or take it for a quotation.
SPECIAL: Final[re.Pattern[str]] = re.compile(r'[,:"\x00-\x1f\x7f]|^\s|\s$')


def of_picture(metadata: Mapping[str, str], index: int, count: int) -> dict[str, str]:
    """The metadata of one picture: of a list with one for each that is its own."""
    own = dict(metadata)
    for name in OF_EACH:
        if count > 1 and (found := _listed(metadata.get(name, ""), count)) is not None:
            own[name] = found[index]
    return own


def prompt_of(own: Mapping[str, str]) -> str:
    """The prompt of one picture; empty where it has none."""
    return _first(own, ("prompt", "Prompt"))


def infotext(own: Mapping[str, str], spec: JobSpec, index: int, creator: str) -> str:
    """The text of one picture.

    Args:
        own: What `of_picture` gave, without what is embedded under names of its own.
        creator: The program that writes it, and its version.
    """
    prompt, negative = _lines(prompt_of(own)), _lines(_first(own, ("negative_prompt", "Negative prompt")))
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in _pairs(own, spec, index, creator))
    return "\n".join(part for part in (prompt, negative and f"{NEGATIVE} {negative}", line) if part)


def _pairs(own: Mapping[str, str], spec: JobSpec, index: int, creator: str) -> Iterator[tuple[str, str]]:
    """The last line's pairs, no name twice: readers would keep the last. There are three at least."""
    height, width = spec.picture_size
    known = sampler_of(own) | {"Size": f"{width}x{height}"}
    if own.get("true_cfg_scale"):
        # Of a model that was distilled: Forge's name for what is guidance in diffusers.
        known["Distilled CFG Scale"] = own.get("guidance_scale", "")
    pairs = [(name, known.get(name) or _first(own, (name, *keys))) for name, keys in NAMES.items()]
    if spec.count > 1:
        # The seed is the whole call's, and the place what tells its pictures apart.
        pairs += ("Batch size", str(spec.count)), ("Batch pos", str(index))
    means = SAID.union(NAMES, *NAMES.values())
    pairs += [(_name(key), value) for key, value in own.items() if key not in means]
    pairs += ("Decoder", spec.vae), ("Version", creator)
    # A reader would take these for the prompts themselves.
    taken = {"prompt", "negative prompt"}
    for name, value in pairs:
        if len(name) > 1 and value.strip() and name.casefold() not in taken:
            taken.add(name.casefold())
            yield name, value


def _first(own: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((own[key] for key in keys if own.get(key)), "")


def _name(key: str) -> str:
    """A key as a name that readers take whole: words and spaces."""
    return " ".join(re.sub(r"[^\w ]", " ", key).split())


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if SPECIAL.search(value) else value


def _lines(text: str) -> str:
    """A prompt as it may stand above the pairs.

    A line of its own that begins as the negative prompt does would be taken for that: it joins the one before.
    """
    text = CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    # Part by part: a pattern would try the blank lines of a prompt, of which there may be thousands, in all their ways.
    *parts, last = text.split(NEGATIVE)
    return "".join(_joined(part) + NEGATIVE for part in parts) + last


def _joined(part: str) -> str:
    """What stands before a negative prompt's beginning; where a line ends there, a space in its place."""
    bare = part.rstrip()
    return f"{bare} " if "\n" in part[len(bare) :] else part


def _listed(text: str, count: int) -> list[str] | None:
    """The entries of a JSON list of as many strings or numbers as there are pictures; None for anything else."""
    try:
        found = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or len(found) != count or not all(type(one) in (str, int) for one in found):
        return None
    return [str(one) for one in found]

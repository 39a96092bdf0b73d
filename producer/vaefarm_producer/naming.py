"""Names of pictures' files out of a template: `{stem}_{seed}.{ext}`."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from string import Formatter
from typing import Final

from vaefarm_shared.errors import InvalidOption

#: What a template may name besides the metadata of the latents' file.
FIELDS: Final[dict[str, str]] = {
    "folder": "the latents' folder below the one that was given",
    "stem": "the latents' file name without .safetensors",
    "number": "the file's place among all, from 0",
    "index": "the picture's place in its file, from 0",
    "ext": "the format's ending",
    "vae": "the VAE id",
    "height": "pixels",
    "width": "pixels",
}

#: The template unless there is another.
DEFAULT_TEMPLATE: Final[str] = "{folder}/{stem}.{ext}"

#: Bytes of a file's name, less those of the temporary one.
MAX_NAME_BYTES: Final[int] = 255 - len("..part")

#: What no value may bring into a name: folders, and what a terminal would obey.
FORBIDDEN: Final[re.Pattern[str]] = re.compile(r"[/\\\x00-\x1f\x7f]")


class NameTemplate:
    """A template that was checked; each name that it gives is a relative path that stays below its folder."""

    def __init__(self, text: str) -> None:
        """Raises InvalidOption for what is no template."""
        self.text = text
        try:
            self._parts = [(literal, field, spec or "") for literal, field, spec in self._parse(text)]
        except ValueError as error:
            raise InvalidOption(f"--name {text!r}: {error}; expected fields such as {{stem}} and {{ext}}") from error
        if text.startswith(("/", "\\")) or ".." in PurePosixPath(text).parts:
            raise InvalidOption(f"--name {text!r} leads out of the folder; expected a path below --out")
        self.fields = frozenset(field for _, field, _ in self._parts if field is not None)

    @staticmethod
    def _parse(text: str) -> list[tuple[str, str | None, str | None]]:
        parts = []
        for literal, field, spec, conversion in Formatter().parse(text):
            if field is not None and (not field or re.search(r"[.\[\]]", field) or field.isdigit() or conversion):
                raise ValueError(f"{{{field}{'!' + conversion if conversion else ''}}} names no field")
            parts.append((literal, field, spec))
        return parts

    def names(self, values: Mapping[str, str | int], count: int) -> tuple[str, ...]:
        """The names of a file's pictures; several are told apart by `-0`, `-1` unless the template says {index}.

        Raises InvalidOption for a field that has no value, or a value that would lead elsewhere.
        """
        names = [self._name({**values, "index": index}) for index in range(count)]
        if count > 1 and "index" not in self.fields:
            paths = [PurePosixPath(name) for name in names]
            names = [str(path.with_name(f"{path.stem}-{index}{path.suffix}")) for index, path in enumerate(paths)]
        return tuple(names)

    def _name(self, values: Mapping[str, str | int]) -> str:
        name = "".join(literal + self._value(field, spec, values) for literal, field, spec in self._parts)
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise InvalidOption(f"--name {self.text!r} gives {name!r}; expected a path below --out")
        if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
            raise InvalidOption(f"--name {self.text!r} gives a name of more than {MAX_NAME_BYTES} bytes")
        return str(PurePosixPath(name))

    def _value(self, field: str | None, spec: str, values: Mapping[str, str | int]) -> str:
        if field is None:
            return ""
        if field not in values:
            others = ", ".join(sorted(set(values) - set(FIELDS))) or "none"
            raise InvalidOption(
                f"--name {self.text!r}: there is no {field!r}; expected {', '.join(FIELDS)}, or what the file's"
                f" metadata have: {others}"
            )
        try:
            value = format(values[field], spec)
        except ValueError as error:
            raise InvalidOption(f"--name {self.text!r}: {field}={values[field]!r}: {error}") from error
        if field != "folder" and FORBIDDEN.search(value):
            raise InvalidOption(f"--name {self.text!r}: {field}={value!r} has characters that no file name may have")
        return value

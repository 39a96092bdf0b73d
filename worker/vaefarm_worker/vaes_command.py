"""`vaefarm vaes`: the catalogue's VAEs, which of them are on this machine, and fetching those that are not."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.checks import describe_layout
from vaefarm_shared.errors import ConfigurationError, InvalidOption
from vaefarm_shared.settings import Settings

from .pulling import pull
from .sources import Presence, folder, look_up

#: Layouts whose latents do not tell height from width.
FLAT_LAYOUTS: Final[frozenset[str]] = frozenset({"packed", "tokens", "video_tokens"})

#: Layouts whose latents do not tell how many frames they make.
TIMELESS_LAYOUTS: Final[frozenset[str]] = frozenset({"video_tokens", "padded"})

#: What `vaefarm vaes ID` shows of a contract; of one for videos the rest as well.
SHOWN: Final[tuple[str, ...]] = ("picture_channels", "binned", "max_pixels", "max_count")
SHOWN_OF_VIDEOS: Final[tuple[str, ...]] = ("fps", "max_frames", "decode_arguments", "denormalised")

#: What is said of the latents of an entry whose contract only its worker knows.
UNKNOWN: Final[str] = "as its config.json says"


def vaes(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="VAE ids, shown in full; none for all.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--pull", help="Fetch them from Hugging Face, as safetensors.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="With --pull: every VAE that is not gated.")] = False,
    catalogue: Annotated[
        Path | None, typer.Option(help="TOML file with more VAEs. Otherwise VAEFARM_CATALOGUE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Show the VAEs of the catalogue: where they come from, whether they are here, and how a job names them.

    With --pull: fetch config.json and the weights into Hugging Face's cache, where workers find them; HF_HOME moves it,
    HF_TOKEN opens what is gated. Exits 1 when one was not fetched; on Ctrl-C, what is complete stays.
    """
    settings = Settings.from_env(catalogue=None if catalogue is None else str(catalogue))
    known = Catalogue.load(settings.catalogue)
    if everything and (ids or not fetch):
        raise InvalidOption("--all goes with --pull and without VAE ids")
    if fetch and not (ids or everything):
        raise InvalidOption("--pull fetches what is named; expected VAE ids, or --all for every VAE that is not gated")
    chosen = [known[vae] for vae in dict.fromkeys(ids or ())] or list(known)
    if fetch:
        pull_all([entry for entry in chosen if ids or not entry.gated], as_json)
        return
    if as_json:
        for entry in chosen:
            print(json.dumps(describe(entry, look_up(entry))))
    elif ids:
        for entry in chosen:
            show_one(entry)
    else:
        show_all(chosen)


def pull_all(entries: list[VaeEntry], as_json: bool) -> None:
    """Fetch entries one after the other, and say what became of each; exit 1 when one was not fetched."""
    failed = False
    try:
        for entry in entries:
            try:
                fetched, reason = pull_one(entry), ""
            except ConfigurationError as error:
                fetched, reason, failed = {}, str(error), True
            if as_json:
                print(json.dumps({"id": entry.id, "pulled": not reason, **fetched, "reason": reason}), flush=True)
            elif reason:
                print(f"vaefarm: {reason}", file=sys.stderr)
            else:
                print(f"{entry.id}: {fetched['source']}, {mebibytes(fetched['size_bytes'])}", flush=True)
    except KeyboardInterrupt:
        print("vaefarm: interrupted; files that are complete stay, the same command fetches the rest", file=sys.stderr)
        raise typer.Exit(130) from None
    if failed:
        raise typer.Exit(1)


def pull_one(entry: VaeEntry) -> dict[str, Any]:
    """Fetch an entry, unless it is a folder; where its files are from, and their bytes. Raises ConfigurationError."""
    if folder(entry) is not None:
        presence = look_up(entry)
        if not presence.is_present:
            raise ConfigurationError(f"VAE {entry.id!r} is a folder, and cannot be fetched: {presence.reason}")
        return {"source": entry.path, "size_bytes": presence.size_bytes}
    pulled = pull(entry)
    return {"source": f"{entry.origin} at {pulled.commit}", "commit": pulled.commit, "size_bytes": pulled.size_bytes}


def describe(entry: VaeEntry, presence: Presence) -> dict[str, Any]:
    """An entry as a program may read it; a contract that only a worker reads from config.json is null."""
    contract = entry.contract
    fields = entry.model_dump(
        include={"id", "description", "source", "path", "subfolder", "revision", "variant", "gated", "dtype"}
    )
    return fields | {
        "class": class_name(presence),
        "contract": None if contract is None else contract.model_dump(),
        "shapes": dict(shapes(entry)),
        "submit": dict(submits(entry)),
        "present": presence.is_present,
        "size_bytes": presence.size_bytes,
        "reason": presence.reason,
    }


def shapes(entry: VaeEntry) -> Iterator[tuple[str, str]]:
    """Each layout of an entry's contract, and the shape of latents in it."""
    contract = entry.contract
    if contract is not None:
        yield from ((layout, describe_layout(contract, layout)) for layout in contract.layouts)


def submits(entry: VaeEntry) -> Iterator[tuple[str, str]]:
    """Each layout of an entry's contract, and the call that queues latents in it: 1024 x 1024 pixels, 81 frames."""
    contract = entry.contract
    sized = ", height=1024, width=1024"
    for layout in ("spatial",) if contract is None else contract.layouts:
        # A picture from a bin of sizes is cropped to these; tokens do not tell height from width without them.
        needs_size = layout in FLAT_LAYOUTS or (contract is not None and contract.binned)
        timed = ", num_frames=81" if layout in TIMELESS_LAYOUTS else ""
        yield layout, f'farm.submit(latents, vae="{entry.id}"{timed}{sized if needs_size else ""})'


def class_name(presence: Presence) -> str | None:
    """The class that a VAE's config.json names, where it is here and can be read."""
    try:
        return None if presence.config is None else str(json.loads(presence.config.read_text())["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def here(presence: Presence) -> Text:
    """Whether a VAE is on this machine, for people."""
    if presence.is_present:
        return Text(f"yes, {mebibytes(presence.size_bytes)}", "green")
    if presence.is_present is None:
        return Text(f"unknown: {presence.reason}", "yellow")
    return Text("no" if presence.reason == "not fetched" else f"no: {presence.reason}")


def source(entry: VaeEntry) -> str:
    """Where an entry's weights come from, and what decides which of them are taken."""
    revision = entry.revision if entry.revision != "main" else None
    words = [entry.origin, revision, entry.variant, "(gated)" if entry.gated else None]
    return " ".join(word for word in words if word)


def lines(texts: dict[str, str]) -> str:
    """One line for each layout, each text once."""
    return "\n".join(dict.fromkeys(texts.values()))


def show_all(entries: list[VaeEntry]) -> None:
    """Print entries as a table, two lines or more for each."""
    table = Table(box=HORIZONTALS, show_lines=True)
    for header in ("vae=", "source", "latents (n pictures, h x w pixels)", "here"):
        table.add_column(header, overflow="fold")
    for entry in entries:
        latents = [short(layout, shape) for layout, shape in shapes(entry)] or [UNKNOWN]
        if entry.contract is not None and entry.contract.binned:
            latents.append("height= and width= crop the picture")
        table.add_row(
            Text(f'"{entry.id}"\n').append(entry.description, "dim"),
            Text(f"{source(entry)}\n").append(entry.dtype, "dim"),
            Text("\n".join(latents)),
            here(look_up(entry)),
        )
    console = Console()
    console.print(table)
    print(
        'A job names its VAE: farm.submit(latents, vae="sdxl"); packed latents and tokens need height= and width= too.'
        " Of videos, video_tokens and padded latents need num_frames=."
    )
    print("`vaefarm vaes ID` shows one in full, `vaefarm vaes --pull ID` fetches it.")


def short(layout: str, shape: str) -> str:
    """A layout and its shape, for a narrow column."""
    shape = shape.removeprefix(f"{layout}: ").removesuffix(" with height and width")
    return f"{layout} {shape}".replace("height", "h").replace("width", "w")


def show_one(entry: VaeEntry) -> None:
    """Print all there is to say of an entry."""
    presence = look_up(entry)
    shown = describe(entry, presence)
    contract = shown.pop("contract") or {}
    names = (*SHOWN, *(SHOWN_OF_VIDEOS if contract.get("temporal_scale") else ()))
    shown |= {name: contract[name] for name in names if contract}
    shown |= {"latents": lines(shown.pop("shapes")) or UNKNOWN, "submit": lines(shown["submit"])}
    table = Table("field", "value", show_header=False)
    for name, value in shown.items():
        if name not in {"present", "size_bytes", "reason"} and value not in (None, ""):
            table.add_row(name, Text(str(value)))
    table.add_row("here", here(presence))
    Console().print(table)


def mebibytes(size_bytes: int) -> str:
    """Bytes as MiB, for people."""
    return f"{size_bytes / 2**20:.1f} MiB"

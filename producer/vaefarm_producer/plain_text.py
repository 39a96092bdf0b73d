"""Texts of others at the prompt: names and errors that producers, workers and endpoints wrote."""

from rich.text import Text


def plain(text: object, style: str = "") -> Text:
    """A text from elsewhere, without markup; what would command the terminal is written out, as \\x1b."""
    return Text("".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(text)), style)

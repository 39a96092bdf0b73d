"""Lists in options and settings."""


def split_names(text: str | None) -> list[str]:
    """The names of a list separated by commas."""
    return [name for part in (text or "").split(",") if (name := part.strip())]

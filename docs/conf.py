"""How Sphinx makes pages of the documentation: `make docs`. Its source is the whole repository, as on a forge: one link
serves both."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

project = "vaefarm"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.typer"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", *(f"{at}/README.md" for at in ("examples", "benchmarks", "integrations/*"))]

# Headings are targets of links, as a forge makes them.
myst_heading_anchors = 4

# Docstrings mark code as Markdown does.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "model_config, __weakref__"}
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"vaefarm {version}"
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False


def mark_code(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make a literal block of what a docstring sets in below a paragraph that ends with a colon."""
    for place, line in enumerate(lines[:-2]):
        if line.endswith(":") and not lines[place + 1] and lines[place + 2].startswith("    "):
            lines[place] = f"{line}:"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    # Before napoleon reads it.
    app.connect("autodoc-process-docstring", mark_code, priority=400)

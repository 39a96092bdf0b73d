"""How Sphinx makes the documentation: `make docs`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "vaefarm"
copyright = "vaefarm's authors, Apache-2.0"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.typer"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["pictures"]
templates_path: list[str] = []

# Headings are link targets as GitHub makes them: pages are read there as well.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"vaefarm {version}"
# Nothing is fetched from elsewhere.
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}

"""The documentation agrees with the code: links lead somewhere, names exist, nothing is left out."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaefarm_producer
from vaefarm_producer.cli import COMMANDS
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("integrations/**/*.md")]
)

#: Older names of settings.
OLD = {"VAEFARM_BLOBS", "VAEFARM_BLOB_THRESHOLD"}

#: What traces call a job's stages.
SPANS = {"decode", "load", "store"}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings as a forge makes targets of them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(language: str) -> Iterator[tuple[Path, str]]:
    """Every block of code in that language."""
    for page in PAGES:
        for found, text in FENCE.findall(page.read_text()):
            if found == language:
                yield page, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_blocks_of_python_are_python() -> None:
    blocks = list(code("python"))
    assert len(blocks) > 10
    for page, text in blocks:
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise AssertionError(f"{page}: {error}: {text}") from error


def test_commands_that_are_named_exist() -> None:
    named = {
        command
        for page in PAGES
        for text in [
            *re.findall(r"`[^`\n]+`", page.read_text()),
            *(block for _, block in FENCE.findall(page.read_text())),
        ]
        for command in re.findall(r"^`?vaefarm ([a-z]+)", text, re.MULTILINE)
    }
    assert named - SPANS == {*COMMANDS}


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/python.md").read_text()
    named = set(re.findall(r"vaefarm_producer\.(\w+)", text))
    errors = {name for name in vaefarm_producer.__all__ if issubclass(getattr(vaefarm_producer, name), Exception)}

    assert "vaefarm_shared.errors" in text
    assert named >= {*vaefarm_producer.__all__, *vaefarm_producer.OF_DIFFUSERS} - errors
    for name in named:
        getattr(vaefarm_producer, name)


def test_every_setting_is_described() -> None:
    text = (ROOT / "docs/settings.md").read_text() + (ROOT / "docs/gateway.md").read_text()
    fields = {f"VAEFARM_{name.upper()}" for name in {*Settings.model_fields, *GatewaySettings.model_fields}}

    assert set(re.findall(r"`(VAEFARM_[A-Z_]+)", text)) >= fields - OLD


@pytest.mark.slow
def test_pages_are_made_of_it_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "docs/reference/commands.html").read_text()
    assert all(f"vaefarm {command}" in commands for command in COMMANDS)
    assert (
        "Queue latents for decoding, as a diffusers pipeline" in (tmp_path / "docs/reference/python.html").read_text()
    )
    assert not re.search(r'(?:src|href)="(?:https?:)?//[^"]+\.(?:js|css|woff2?)"', commands), "nothing is fetched"

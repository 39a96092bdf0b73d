"""A virtual environment for each peer, made once and kept in a cache folder."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from vaefarm_shared.errors import ConfigurationError

#: Where the versions of each environment are pinned.
REQUIREMENTS: Final = Path(__file__).parent / "requirements"


def cache_folder() -> Path:
    """Where environments are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaefarm-bench"


def environment(name: str) -> Path:
    """The Python of an environment, which is made if need be. Raises ConfigurationError with pip's last line."""
    wanted = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{digest}"
    python = folder / "bin" / "python"
    if not folder.exists():
        print(f"making the environment of {name} ...", file=sys.stderr, flush=True)
        _make(folder.with_suffix(f".{os.getpid()}"), folder, wanted)
    return python


def _make(unfinished: Path, folder: Path, wanted: Path) -> None:
    """Make an environment under another name first, so that a folder that exists is whole."""
    venv.create(unfinished, with_pip=True)
    pip = [str(unfinished / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(wanted)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(unfinished)
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigurationError(f"pip could not install {wanted.name}: {last}; leave that side out with --side")
    unfinished.rename(folder)

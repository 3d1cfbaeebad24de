"""Which versions made a file: libraries, and the commit where the package runs from a checkout."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

LIBRARIES = ("duallora", "torch", "torchvision", "timm", "accelerate", "safetensors", "numpy")


def duallora_version() -> str:
    """The installed version of duallora, "0+unknown" where it runs from source without being installed."""
    try:
        return metadata.version("duallora")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide results, read without importing them; absent ones left out.

    >>> sorted(library_versions())[0:2]
    ['accelerate', 'duallora']
    """
    versions = {"python": platform.python_version(), "duallora": duallora_version()}
    for name in LIBRARIES[1:]:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from ("-dirty" after it if changed), None outside of one."""
    here = Path(__file__).resolve().parent
    top = _git(here, "rev-parse", "--show-toplevel")
    if not top or here != Path(top).resolve() / "src" / "duallora":
        return None  # a site-packages folder inside somebody else's repository is not our commit
    commit = _git(here, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if _git(here, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

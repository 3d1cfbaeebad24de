"""Where published data sets lie, and what to do about one that is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from duallora.compat import import_torchvision
from duallora.errors import DualLoRAError
from duallora.files import user_path


class Missing(DualLoRAError):
    """A data set is not there.

    Attributes:
        what: which, and why it is not.
        cure: what to fetch, and where to put it.
    """

    def __init__(self, what: str, cure: str = "", instead: str = "") -> None:
        super().__init__("; ".join(part for part in (what, cure) if part) + instead)
        self.what, self.cure = what, cure


@dataclass(frozen=True)
class Published:
    """A data set of the literature.

    Attributes:
        name: as one types it.
        folders: how its unpacked archive is called, other than `name`; case, `-` and `_` do not matter.
        markers: patterns of paths inside that folder; where one of them fits, the data set is there.
        obtain: where it is to be had.
        expected: a path inside the folder that is there when all is well.
        archive: address and MD5 sum of an archive that torchvision can fetch; None where there is none.
    """

    name: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    obtain: str
    expected: str
    archive: tuple[str, str] | None = None


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets with a name are kept: `root`, else the variable DUALLORA_DATA, else ~/.cache/duallora/data."""
    return user_path(root or os.environ.get("DUALLORA_DATA") or Path.home() / ".cache" / "duallora" / "data")


def located(source: Published, root: str | Path | None, download: bool = True) -> Path:
    """The folder of a data set: `root`/<its name>, the folder of its archive in there, or `root` if it is called so.

    Raises:
        DualLoRAError: it is in none of them, and cannot be, or may not be, downloaded; the message says where to get it
            and where to put it.
    """
    base = data_root(root)
    found = find(source, base)
    if found is None and download and source.archive is not None:
        found = _fetched(source, base)
    if found is None:
        raise missing(source, base)
    return found


def find(source: Published, base: Path) -> Path | None:
    """The folder of a data set below `base`, or None."""
    names = {_plain(name) for name in (source.name, *source.folders)}
    for place in _places(base, names):
        if any(next(place.glob(pattern), None) is not None for pattern in source.markers):
            return place
    return None


def missing(source: Published, base: Path) -> Missing:
    """What to download and where to put it."""
    own = base / source.name
    held = f" (what lies in '{own}' is something else)" if own.is_dir() else ""
    return Missing(
        f"data set '{source.name}' is not in '{base}'{held}",
        f"get it from {source.obtain} and unpack it so that '{own / source.expected}' is there",
        ", or say where it is with stream.root=FOLDER or the variable DUALLORA_DATA",
    )


def _places(base: Path, names: set[str]) -> Iterator[Path]:
    """Where the folder may be, nearest to what the documentation says first."""
    if not base.is_dir():
        return
    below = [path for path in sorted(base.iterdir()) if path.is_dir() and _plain(path.name) in names]
    for path in below:
        yield path
        yield from (inner for inner in sorted(path.iterdir()) if inner.is_dir() and _plain(inner.name) in names)
    if _plain(base.resolve().name) in names:  # not any folder: ImageNet-A would be read as ImageNet-R
        yield base


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _fetched(source: Published, base: Path) -> Path | None:
    """Download and unpack the archive; only a whole one gets the data set's name."""
    import_torchvision()
    from torchvision.datasets.utils import download_and_extract_archive

    assert source.archive is not None
    address, md5 = source.archive
    own = base / source.name
    if own.is_dir() and any(own.iterdir()):  # what would be fetched could not take its place
        raise missing(source, base)
    partial = base / f"{source.name}.partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(address, str(partial), md5=md5, remove_finished=True)
        partial.replace(own)
    except (RuntimeError, OSError) as error:  # URLError and HTTPError are OSErrors
        raise DualLoRAError(f"{missing(source, base)}; fetching it from {address} failed ({error})") from error
    return find(source, base)

"""Image sets from lists: a file names the images, or a folder is listed without reading what is in its images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from duallora.data.images import EXTENSIONS
from duallora.data.imageset import ImageSet, Skipped
from duallora.errors import DualLoRAError


def read_rows(path: Path, columns: int, example: str) -> list[list[str]]:
    """The lines of a list, cut at white space, empty ones left out.

    Args:
        path: the list.
        columns: how many each line has at least.
        example: of a line, for the message.

    Raises:
        DualLoRAError: the list is missing or no text, or a line is too short.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DualLoRAError(f"the list '{path}' cannot be read ({reason}); unpack the data set again") from error
    rows = []
    for number, line in enumerate(lines, 1):
        cells = line.split()
        if cells and len(cells) < columns:
            raise DualLoRAError(f"'{path}', line {number}: {line!r}, expected as in {example!r}; unpack it again")
        if cells:
            rows.append(cells)
    return rows


def by_number(path: Path, rows: Iterable[Sequence[str]]) -> dict[int, str]:
    """The second column by the number in the first.

    Raises:
        DualLoRAError: something in the first column is no number.
    """
    try:
        return {int(row[0]): row[1] for row in rows}
    except ValueError as error:
        raise DualLoRAError(f"'{path}': {error}; each line begins with a number; unpack the data set again") from error


def listed(classes: Sequence[str], files: Iterable[tuple[Path, str]], where: str) -> ImageSet:
    """The images of a list; those that are not there, or empty, are left out and named in `skipped`.

    Args:
        classes: the names of the classes.
        files: each image and its class.
        where: the list they are from, for messages.

    Raises:
        DualLoRAError: not one of the images is there, or one is of a class that is not among `classes`.
    """
    position = {name: index for index, name in enumerate(classes)}
    folders: dict[Path, dict[str, int]] = {}  # bytes of each file
    found, labels, skipped = [], [], []
    for path, name in files:
        if path.parent not in folders:  # one look at a folder, not one at each of its images
            folders[path.parent] = _sizes(path.parent)
        if name not in position:
            raise DualLoRAError(
                f"'{path}' ({where}) is of class {name!r}, which is none of the {len(classes)} of the data set; "
                "unpack it again"
            )
        size = folders[path.parent].get(path.name)
        if size:
            found.append(path)
            labels.append(position[name])
        else:
            skipped.append(Skipped(str(path), f"is named by {where}, but {'not there' if size is None else 'empty'}"))
    if not found:
        example = f", for instance '{skipped[0].path}'" if skipped else ""
        raise DualLoRAError(f"none of the {len(skipped)} images of {where} is there{example}; unpack the images too")
    return ImageSet(tuple(classes), torch.tensor(labels, dtype=torch.int64), tuple(found), tuple(skipped))


def _sizes(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def class_folders(root: Path, inside: str = "") -> list[tuple[Path, str]]:
    """Each image of `root`/<class>/`inside`, with its class; sorted by class, then by name. None without `root`."""
    found: list[tuple[Path, str]] = []
    if not root.is_dir():
        return found
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        images = folder / inside
        if images.is_dir():
            paths = sorted(path for path in images.iterdir() if path.suffix.lower() in EXTENSIONS)
            found += [(path, folder.name) for path in paths if not path.name.startswith(".")]
    return found

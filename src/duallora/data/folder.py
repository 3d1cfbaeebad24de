"""Folders of images: one sub-folder per class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from duallora.data.images import EXTENSIONS, HEIC, UnreadableImage, check, unknown_format
from duallora.data.imageset import ImageSet, Skipped, Split, composed
from duallora.data.sampling import hold_out
from duallora.errors import DualLoRAError, unknown
from duallora.files import user_path

WHOLE_CHECK = 10_000
"""Of up to this many files every pixel is read before anything starts; of more, only those whose end tells nothing."""

ELSEWHERE = "is a link to a folder that is read in another place, or that holds it"

_TEST_PARTS = ("test", "val", "valid", "validation")
_PARTS = ("train", *_TEST_PARTS)


def read_folder(
    path: str | Path, *, held_out: float = 0.2, seed: int = 0, test_folder: str | Path | None = None
) -> Split:
    """Read a folder of images as a training and a test set.

    Three layouts are understood: `path/train/<class>/` with `path/test/<class>/` (or `val/` where there is no `test/`);
    `path/<class>/` with the test set in a `test_folder` of its own; `path/<class>/` alone, of which a share of every
    class is held out (a class with one image is for training only). Images may lie deeper inside a class folder.
    Hidden files are ignored; files that cannot be used are listed in `skipped` of the set they would have been in.

    Args:
        path: the folder.
        held_out: share of every class for testing, where no test images are given apart.
        seed: of the choice of those images.
        test_folder: a folder of class folders with the test images.

    Raises:
        DualLoRAError: see `scan_classes`; or a test class that is not among the training classes.
    """
    root = _existing(path)
    parts = _parts(root)
    train_folder = parts.get("train", root)
    if test_folder is None:
        test_folder = next((parts[name] for name in _TEST_PARTS if name in parts), None)
    train = scan_classes(train_folder)
    if test_folder is None:
        kept, held = hold_out(train.labels, train.classes, held_out, seed)
        chosen = train.subset(kept)
        return Split(ImageSet(chosen.classes, chosen.labels, chosen.items, train.skipped), train.subset(held))
    test = scan_classes(test_folder, minimum=1)
    for name in test.classes:
        if name not in train.classes:
            raise unknown(f"class in the test folder '{test_folder}'", name, train.classes)
    return Split(train, test.with_classes(train.classes))


def read_domains(path: str | Path, *, held_out: float = 0.2, seed: int = 0) -> dict[str, Split]:
    """Read a folder of domains, each a folder as `read_folder` takes it (as PACS: `path/<domain>/<class>/`).

    Raises:
        DualLoRAError: as `read_folder`, or no domain folder.
    """
    root = _existing(path)
    folders, _ = _listing(root)
    if not folders:
        raise DualLoRAError(f"folder '{root}' has no domain folders; expected {root}/<domain>/<class>/<image>")
    names = _names(folders)
    if not any(_listing(folder)[0] for folder in folders):
        raise DualLoRAError(
            f"folder '{root}' has folders of images, not domains of class folders; expected "
            f"{root}/<domain>/<class>/<image>, or take stream.scenario=class-incremental"
        )
    return {
        name: read_folder(folder, held_out=held_out, seed=seed) for name, folder in zip(names, folders, strict=True)
    }


def scan_classes(path: str | Path, *, minimum: int = 2) -> ImageSet:
    """All images of a folder with one sub-folder per class, in the order of the names.

    Class names may hold spaces and any Unicode (kept in NFC form). A file that is no image by its name, or that cannot
    be decoded, is left out and listed in `skipped`, as is a class folder of which nothing is left.

    Args:
        path: the folder.
        minimum: the number of images below which there is nothing to do.

    Raises:
        DualLoRAError: the folder is missing, is a file, is empty, has no class folders (loose images are mentioned),
            has train/ and test/ parts, has fewer than `minimum` usable images, or has classes differing only by case.
    """
    root = _existing(path)
    if parts := _parts(root):
        given = " or ".join(f"'{part}'" for part in parts.values())
        raise DualLoRAError(f"folder '{root}' has train/ and test/ parts, not classes; give one part: {given}")
    folders, files = _listing(root)
    loose = [file for file in files if file.suffix.lower() in EXTENSIONS]
    if not folders:
        raise DualLoRAError(_nothing(root, len(files), len(loose)))
    names = _names(folders)
    skipped = [Skipped(str(file), "lies beside the class folders, not in one of them") for file in loose]
    candidates: list[tuple[Path, str]] = []
    seen = {os.path.realpath(root)}
    elsewhere = set()
    for folder in folders:
        if (real := os.path.realpath(folder)) in seen:
            elsewhere.add(folder)
        seen.add(real)
    for folder, name in zip(folders, names, strict=True):
        for file, problem in [(folder, ELSEWHERE)] if folder in elsewhere else _below(folder, seen):
            if problem:
                skipped.append(Skipped(str(file), problem))
            else:
                candidates.append((file, name))
    usable = []
    for (file, name), problem in zip(candidates, _problems([file for file, _ in candidates]), strict=True):
        if problem:
            skipped.append(Skipped(str(file), problem))
        else:
            usable.append((file, name))
    with_images = {name for _, name in usable}
    told = {entry.path for entry in skipped}
    for folder, name in zip(folders, names, strict=True):
        if name not in with_images and str(folder) not in told:
            skipped.append(Skipped(str(folder), "class folder without a usable image"))
    if len(usable) < minimum:
        raise DualLoRAError(_too_few(root, len(usable), minimum, skipped))
    classes = tuple(name for name in names if name in with_images)
    labels = torch.tensor([classes.index(name) for _, name in usable], dtype=torch.int64)
    return ImageSet(classes, labels, tuple(file for file, _ in usable), tuple(skipped))


def _existing(path: str | Path) -> Path:
    if isinstance(path, str) and not path:
        raise DualLoRAError("the folder's name is empty text; give a folder with one sub-folder per class")
    root = user_path(path)
    if not root.exists():
        raise DualLoRAError(f"folder '{root}' does not exist; expected a folder with one sub-folder per class")
    if not root.is_dir():
        raise DualLoRAError(f"'{root}' is a file; expected a folder with one sub-folder per class")
    return root


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and other entries, sorted by name, without hidden ones and macOS's archive left-overs."""
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name != "__MACOSX")
    except OSError as error:
        raise DualLoRAError(f"folder '{folder}' cannot be read ({error.strerror}); check its permissions") from error
    return [entry for entry in entries if entry.is_dir()], [entry for entry in entries if not entry.is_dir()]


def _names(folders: list[Path]) -> tuple[str, ...]:
    """Names that stay apart on every file system; many take 'Cat' and 'cat' for one folder."""
    names = composed(folder.name for folder in folders)
    seen: dict[str, Path] = {}
    for name, folder in zip(names, folders, strict=True):
        if not name.isprintable() and any("\ud800" <= c <= "\udfff" for c in name):
            raise DualLoRAError(f"the name of folder {os.fsencode(folder)!r} is not valid UTF-8; rename it")
        if any(unicodedata.category(c) == "Cc" for c in name):
            raise DualLoRAError(f"the name of folder {str(folder)!r} has characters that nobody can see; rename it")
        other = seen.setdefault(name.casefold(), folder)
        if other is not folder:
            how = "only in how Unicode writes them" if composed([other.name])[0] == name else "only by case"
            raise DualLoRAError(f"folders '{other}' and '{folder}' differ {how}; merge them or rename one")
    return names


def _parts(root: Path) -> dict[str, Path]:
    """The folders of a data set in parts, or nothing: a class may well be called 'train' (or 'test').

    Other folders beside them do not matter where train and test hold folders of the same names.
    """
    folders = {folder.name.lower(): folder for folder in _listing(root)[0]}
    parts = {name: folder for name, folder in folders.items() if name in _PARTS}
    inner = {name: {folder.name for folder in _listing(part)[0]} for name, part in parts.items()}
    classes = inner.pop("train", set())
    if not classes or (len(parts) < len(folders) and not any(classes & names for names in inner.values())):
        return {}
    return parts


def files_below(folder: Path) -> Iterator[tuple[Path, str]]:
    """All files below a folder in a fixed order, each with the reason not to use it, or "".

    Links are followed, but to no folder twice. Sub-folders that cannot be read are among the files, hidden ones not.
    """
    return _below(folder, {os.path.realpath(folder)})


def _walk(folder: Path, seen: set[str]) -> Iterator[tuple[Path, str]]:
    """The same, of a folder that is in none of those already seen, nor above them."""
    real = os.path.realpath(folder)
    if real in seen or any(other.startswith(real.rstrip(os.sep) + os.sep) for other in seen):
        yield folder, ELSEWHERE
        return
    seen.add(real)
    yield from _below(folder, seen)


def _below(folder: Path, seen: set[str]) -> Iterator[tuple[Path, str]]:
    try:
        folders, files = _listing(folder)
    except DualLoRAError as error:
        yield folder, str(error)
        return
    for file in files:
        if file.suffix.lower() in HEIC:
            yield file, unknown_format(file.name)
        elif file.suffix.lower() not in EXTENSIONS:
            yield file, "is no image by the ending of its name"
        elif not file.exists():
            yield file, "is a link to a file that does not exist"
        else:
            yield file, "" if file.is_file() else "is not a regular file"
    for inner in folders:
        yield from _walk(inner, seen)


def _problems(files: list[Path]) -> Iterator[str]:
    whole = len(files) <= WHOLE_CHECK

    def problem(file: Path) -> str:
        try:
            check(file, whole=whole)
        except UnreadableImage as error:
            return error.reason
        return ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(problem, files)


def _nothing(root: Path, files: int, loose: int) -> str:
    layout = f"expected {root}/<class>/<image>"
    if loose:
        return f"folder '{root}' has no class folders, but {loose} loose image(s); move them, {layout}"
    if files:
        return f"folder '{root}' has no class folders, only {files} file(s) that are no images; {layout}"
    return f"folder '{root}' is empty; {layout}"


def _too_few(root: Path, found: int, minimum: int, skipped: list[Skipped]) -> str:
    count = {0: "no usable image", 1: "only 1 usable image"}.get(found, f"only {found} usable images")
    reasons = "".join(f"; skipped: {entry.path}: {entry.reason}" for entry in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"folder '{root}' has {count} in its class folders, expected at least {minimum}{reasons}{more}"

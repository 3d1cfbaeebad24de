"""Data sets by name: scikit-learn's digits, which need no download, torchvision's, and those of the literature."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duallora.compat import import_torchvision
from duallora.data.addresses import ORIGINS
from duallora.data.arrays import from_arrays, read_npz
from duallora.data.folder import read_domains, read_folder
from duallora.data.imageset import ImageSet, Split
from duallora.data.published import classes, domains, groups
from duallora.data.published.places import Missing, data_root, find
from duallora.data.sampling import hold_out
from duallora.errors import DualLoRAError, unknown
from duallora.files import user_path


@dataclass(frozen=True)
class _Torchvision:
    """Where one of torchvision's data sets keeps what: its class, its parts, the attributes with images and labels.

    Images on disk are taken as paths, so that they are decoded, checked and cached like any other folder's; torchvision
    has no public attribute for that, hence the underscores. Without `test` a fifth of each class is held out.
    """

    name: str
    train: tuple[Mapping[str, Any], ...]
    test: Mapping[str, Any] | None
    images: str = "data"
    labels: str = "targets"


HELD_OUT = 0.2  # share of each class to test on, where nothing says otherwise

_BY_FLAG: dict[str, Any] = {"train": ({"train": True},), "test": {"train": False}}
_BY_SPLIT: dict[str, Any] = {"train": ({"split": "train"},), "test": {"split": "test"}}
_THREE_PARTS: dict[str, Any] = {"train": ({"split": "train"}, {"split": "val"}), "test": {"split": "test"}}
_TRAINVAL: dict[str, Any] = {"train": ({"split": "trainval"},), "test": {"split": "test"}}
_FILES: dict[str, Any] = {"images": "_image_files", "labels": "_labels"}

_SOURCES: dict[str, _Torchvision] = {
    "cifar10": _Torchvision("CIFAR10", **_BY_FLAG),
    "cifar100": _Torchvision("CIFAR100", **_BY_FLAG),
    "mnist": _Torchvision("MNIST", **_BY_FLAG),
    "fashion-mnist": _Torchvision("FashionMNIST", **_BY_FLAG),
    "kmnist": _Torchvision("KMNIST", **_BY_FLAG),
    "svhn": _Torchvision("SVHN", **_BY_SPLIT, labels="labels"),
    "stl10": _Torchvision("STL10", **_BY_SPLIT, labels="labels"),
    "flowers102": _Torchvision("Flowers102", **_THREE_PARTS, **_FILES),
    "food101": _Torchvision("Food101", **_BY_SPLIT, **_FILES),
    "dtd": _Torchvision("DTD", **_THREE_PARTS, **_FILES),
    "aircraft": _Torchvision("FGVCAircraft", **_TRAINVAL, **_FILES),
    "pets": _Torchvision("OxfordIIITPet", **_TRAINVAL, images="_images", labels="_labels"),
    "eurosat": _Torchvision("EuroSAT", train=({},), test=None, images="samples", labels=""),
    "gtsrb": _Torchvision("GTSRB", **_BY_SPLIT, images="_samples", labels=""),
    "imagenette": _Torchvision(
        "Imagenette", train=({"split": "train"},), test={"split": "val"}, images="_samples", labels=""
    ),
}

_OMNIGLOT = _Torchvision("Omniglot", train=({"background": True},), test={"background": False})  # to fetch it by

_CLASSES: dict[str, Callable[[str | Path | None, bool], Split]] = {
    "imagenet-r": classes.read_imagenet_r,
    "imagenet-a": classes.read_imagenet_a,
    "cub": classes.read_cub,
    "cars": classes.read_cars,
    "tiny-imagenet": classes.read_tiny_imagenet,
    "notmnist": classes.read_notmnist,
    "omniglot": groups.read_omniglot,
}
_DOMAINS: dict[str, Callable[[str | Path | None, bool], dict[str, Split]]] = {
    "pacs": domains.read_pacs,
    "domainnet": domains.read_domainnet,
    "core50": domains.read_core50,
}


def list_named() -> list[str]:
    """The names that `load_named` knows.

    >>> "digits" in list_named()
    True
    """
    return sorted(["digits", "five-datasets", *_SOURCES, *_CLASSES, *_DOMAINS])


def load_named(name: str, root: str | Path | None = None, download: bool = True) -> Split:
    """Load a data set by name, downloading it first if need be (torchvision shows progress and verifies checksums).

    Of those in domains (`open_domains` gives them apart) all domains are put together. Where each is to be had, and in
    which layout it is read: docs/data.md.

    Args:
        name: one of `list_named()`; case, and `_` or `-`, do not matter.
        root: where data sets are kept; default the folder of the variable DUALLORA_DATA, else ~/.cache/duallora/data.
            A data set that torchvision itself put there is found as well.
        download: whether the network may be used.

    Raises:
        DualLoRAError: unknown name; or the data set is not there and cannot be, or may not be, downloaded.
    """
    key = _key(name)
    if key == "digits":
        return _digits()
    if key == "five-datasets":
        return groups.read_five_datasets(lambda part, fetch: load_named(part, root, fetch), download)
    base = data_root(root)
    if key == "omniglot" and download and find(groups.OMNIGLOT, base) is None:
        _fetched(key, _OMNIGLOT, base, download)
    if key in _CLASSES:
        return _CLASSES[key](root, download)
    if key in _DOMAINS:
        return domains.joined(_DOMAINS[key](root, download))
    if key not in _SOURCES:
        raise unknown("data set", name, list_named())
    source = _SOURCES[key]
    folder = _fetched(key, source, base, download)
    parts = [_part(key, source, folder, options) for options in source.train]
    train = parts[0] if len(parts) == 1 else _joined(parts)
    if source.test is not None:
        return Split(train, _part(key, source, folder, source.test).with_classes(train.classes))
    kept, held = hold_out(train.labels, train.classes, 0.2)
    return Split(train.subset(kept), train.subset(held))


def open_source(
    source: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = True,
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> Split:
    """Open any source of images: a name of `list_named()`, `folder:PATH`, `npz:PATH`, or just the path of either.

    Args:
        source: the source.
        root: see `load_named`.
        download: see `load_named`.
        held_out: see `read_folder`.
        seed: see `read_folder`.

    Raises:
        DualLoRAError: no such name and no such path; or as the function that reads it.

    >>> len(open_source("digits").train.classes)
    10
    """
    text = str(source)
    kind, _, rest = text.partition(":")
    if kind == "folder" and rest:
        return read_folder(rest, held_out=held_out, seed=seed)
    if kind == "npz" and rest:
        return read_npz(rest, held_out=held_out)
    if _key(text) in list_named():
        _not_held_out(_key(text), held_out)
        return load_named(text, root, download)
    path = user_path(text)
    if text and path.is_dir():
        return read_folder(path, held_out=held_out, seed=seed)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path, held_out=held_out)
    if path.is_file():
        raise DualLoRAError(f"'{path}' is a file; expected a folder with one sub-folder per class, or an .npz file")
    if len(path.parts) > 1 or path.suffix:
        raise DualLoRAError(f"'{path}' does not exist; expected a folder, an .npz file, or one of {_known()}")
    raise unknown("data source", text, [*list_named(), "folder:PATH", "npz:PATH"])


def open_domains(
    source: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = True,
    held_out: float = HELD_OUT,
    seed: int = 0,
) -> dict[str, Split]:
    """Open a source of domains that share their classes: pacs, domainnet, core50, `folder:PATH`, or just the path.

    Args:
        source: the source.
        root: see `load_named`.
        download: see `load_named`.
        held_out: see `read_domains`.
        seed: see `read_domains`.

    Raises:
        DualLoRAError: a data set without domains; or as the function that reads it.
    """
    text = str(source)
    key = _key(text)
    if key in _DOMAINS:
        _not_held_out(key, held_out)
        return _DOMAINS[key](root, download)
    if key in list_named():
        raise DualLoRAError(
            f"data set '{key}' has no domains; take one of {', '.join(_DOMAINS)}, or a folder of domains"
        )
    return read_domains(text.removeprefix("folder:"), held_out=held_out, seed=seed)


def _not_held_out(key: str, share: float) -> None:
    if share != HELD_OUT:
        raise DualLoRAError(
            f"held_out is {share}, but which images of data set '{key}' are for testing is settled; leave it out, or "
            "give its folder with folder:PATH"
        )


def _key(name: str) -> str:
    plain = name.lower().replace("_", "").replace("-", "")
    return next((known for known in list_named() if known.replace("-", "") == plain), plain)


def _known() -> str:
    return ", ".join(list_named())


def _digits() -> Split:
    """The 1,797 hand-written digits (8 x 8 pixels, values 0 to 16) that scikit-learn carries, a quarter for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = from_arrays(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target)
    kept, held = hold_out(images.labels, images.classes, 0.25)
    return Split(images.subset(kept), images.subset(held))


def _fetched(key: str, source: _Torchvision, base: Path, download: bool) -> Path:
    """The folder to give to torchvision as its root, with the data set complete in it."""
    own, parts = base / key, [*source.train, *([] if source.test is None else [source.test])]
    # Put there by us, or by torchvision, some of whose own folders have the same name.
    if own.is_dir() and not (problem := _lacks(source, own, parts[-1:])):
        return own
    if base.is_dir() and not _lacks(source, base, parts):
        return base
    if own.is_dir():
        raise _unexpected(key, own, problem)
    cure, instead = ORIGINS[key].told(own), "; or use 'digits', which needs no download"
    if not download:
        raise Missing(f"data set '{key}' is not in '{base}' and downloads are off", cure, instead)
    partial = base / f"{key}.partial"  # torchvision unpacks in place: only a complete data set gets its name
    try:
        partial.mkdir(parents=True, exist_ok=True)
        for options in parts:
            _construct(source, partial, options, download=True)
        partial.replace(own)
    except (RuntimeError, OSError) as error:  # URLError and HTTPError are OSErrors
        with contextlib.suppress(OSError):
            partial.rmdir()  # where nothing was fetched; what was stays, for the next try goes on from there
        raise Missing(
            f"data set '{key}' cannot be downloaded ({' '.join(str(error).split())})", cure, instead
        ) from error
    return own


def _unexpected(key: str, folder: Path, problem: object) -> DualLoRAError:
    return DualLoRAError(
        f"'{folder}' is not what torchvision expects there ({problem}); lay it out as torchvision unpacks it "
        f"({ORIGINS[key].told(folder)}), or move it away and load again"
    )


def _lacks(source: _Torchvision, folder: Path, parts: Sequence[Mapping[str, Any]]) -> str:
    """What torchvision says is wrong with the data set in a folder, or nothing."""
    try:
        for options in parts:
            _construct(source, folder, options, download=False)
    except (RuntimeError, OSError) as error:
        return str(error)
    return ""


def _construct(source: _Torchvision, folder: Path, options: Mapping[str, Any], *, download: bool) -> Any:
    import_torchvision()
    from torchvision import datasets

    return getattr(datasets, source.name)(str(folder), **options, download=download)


def _part(key: str, source: _Torchvision, folder: Path, options: Mapping[str, Any]) -> ImageSet:
    try:
        data = _construct(source, folder, options, download=False)
    except (RuntimeError, OSError) as error:
        raise _unexpected(key, folder, error) from error
    items = getattr(data, source.images)
    if source.labels:
        images, labels = items, getattr(data, source.labels)
    else:
        images, labels = [path for path, _ in items], [label for _, label in items]
    indices = torch.as_tensor(np.asarray(labels), dtype=torch.int64)
    names = getattr(data, "classes", None) or range(int(indices.max()) + 1)
    classes = tuple(name[0] if isinstance(name, tuple) else str(name) for name in names)
    if isinstance(images, list):
        return ImageSet(classes, indices, tuple(Path(path) for path in images))
    return from_arrays(images, indices, classes)


def _joined(parts: list[ImageSet]) -> ImageSet:
    files = tuple(item for part in parts for item in part.items if isinstance(item, Path))
    return ImageSet(parts[0].classes, torch.cat([part.labels for part in parts]), files)

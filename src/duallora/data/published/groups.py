"""Published data sets whose classes come in groups, named 'group/class': Omniglot's alphabets, the five data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.nn.functional import pad

from duallora.data.addresses import spoken
from duallora.data.imageset import ImageSet, Split
from duallora.data.published.lists import class_folders, listed
from duallora.data.published.places import Missing, Published, located
from duallora.data.sampling import hold_out
from duallora.data.transforms import Preprocessing
from duallora.errors import DualLoRAError

_PARTS = ("images_background", "images_evaluation")
_SMALL = ("images_background_small1", "images_background_small2")

OMNIGLOT = Published(
    "omniglot",
    ("omniglot-py",),
    ("*/character01", "images_*/*/character01"),
    "https://github.com/brendenlake/omniglot (python/images_background.zip, python/images_evaluation.zip)",
    "images_background",
)

FIVE = ("svhn", "mnist", "cifar10", "notmnist", "fashion-mnist")
"""The parts of five-datasets, in the order in which it is published."""

BY_HAND = "notmnist"
"""The part of five-datasets that cannot be downloaded."""

SIDE = 32
"""Pixels a side of five-datasets: what is smaller gets a black margin."""


def read_omniglot(root: str | Path | None = None, download: bool = True) -> Split:
    """Omniglot: handwritten characters of up to 50 alphabets; classes are called 'alphabet/character'.

    Read are images_background/ and images_evaluation/, or the small sets, or alphabets without such a folder around
    them. There is no split of the images: 4 of the 20 of each character are held out for testing.
    """
    place = located(OMNIGLOT, root, download)
    named = [place / part for part in _PARTS if (place / part).is_dir()]
    named = named or [place / part for part in _SMALL if (place / part).is_dir()]
    found: dict[str, list[Path]] = {}
    for folder in named or [place]:
        for alphabet in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            pairs = class_folders(alphabet)
            if not any(f"{alphabet.name}/{character}" in found for _, character in pairs):  # small sets share some
                for path, character in pairs:
                    found.setdefault(f"{alphabet.name}/{character}", []).append(path)
    images = listed(sorted(found), [(path, name) for name, paths in found.items() for path in paths], f"'{place}'")
    kept, held = hold_out(images.labels, images.classes, 0.2)
    return Split(images.subset(kept), images.subset(held))


def read_five_datasets(load: Callable[[str, bool], Split], download: bool = True) -> Split:
    """SVHN, MNIST, CIFAR-10, notMNIST and Fashion-MNIST with 10 classes each, called 'part/class', all of 32 px.

    Nothing is downloaded as long as the part that cannot be is not there: a gigabyte would be fetched for nothing.

    Args:
        load: gives a data set by name; the flag says whether it may be downloaded.
        download: whether the network may be used.

    Raises:
        DualLoRAError: parts are not there, or broken; all of them are named.
    """
    found: dict[str, Split] = {}
    lacking: dict[str, DualLoRAError] = {}

    def take(names: tuple[str, ...], fetch: bool) -> None:
        for name in names:
            try:
                found[name] = load(name, fetch)
            except DualLoRAError as error:
                lacking[name] = error
            else:
                lacking.pop(name, None)

    take(FIVE, False)
    tried = download and BY_HAND not in lacking
    if tried:
        take(tuple(lacking), True)
    if lacking:
        raise _incomplete(lacking, download, tried)
    train = ImageSet.concat([_prepared(name, found[name].train) for name in FIVE])
    test = ImageSet.concat([_prepared(name, found[name].test) for name in FIVE])
    return Split(train, test.with_classes(train.classes))


def _incomplete(lacking: Mapping[str, DualLoRAError], download: bool, tried: bool) -> DualLoRAError:
    """Every part that is not there, with what to do about each."""
    why = "" if tried else ", and downloads are off"
    if download and not tried:
        why = f", of which '{BY_HAND}' cannot be downloaded (nothing was; the others are, once it is there)"
        why = why if len(lacking) > 1 else ", which cannot be downloaded"
    told = []
    for name in sorted(lacking, key=lambda name: name != BY_HAND):  # what only a person can fetch comes first
        error, problem = lacking[name], str(lacking[name])
        if isinstance(error, Missing):  # the rest of its message would be the same for every part
            problem = f"{error.what}; {error.cure}" if tried else error.cure
        told.append(f"'{name}': {problem}")
    names = spoken([f"'{name}'" for name in lacking])
    return DualLoRAError(f"data set 'five-datasets' lacks {names}{why}. {'; '.join(told)}")


def _prepared(part: str, images: ImageSet) -> ImageSet:
    """In memory, of 32 px, with the classes named after the part."""
    if not isinstance(images.items, torch.Tensor):
        images = images.decoded(28, Preprocessing(28, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))  # notMNIST's own size
    assert isinstance(images.items, torch.Tensor)
    height, width = images.items.shape[2:]
    if max(height, width) > SIDE:
        raise DualLoRAError(f"the images of '{part}' are {height} x {width} px, expected {SIDE} px at most")
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    pixels = pad(images.items, (left, SIDE - width - left, top, SIDE - height - top))
    return ImageSet(tuple(f"{part}/{name}" for name in images.classes), images.labels, pixels, images.skipped)

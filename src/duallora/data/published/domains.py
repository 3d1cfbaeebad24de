"""Published data sets in domains: PACS, DomainNet, CORe50."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from duallora.data.folder import read_folder
from duallora.data.imageset import ImageSet, Split
from duallora.data.published.lists import class_folders, listed, read_rows
from duallora.data.published.places import Published, located
from duallora.errors import DualLoRAError

PACS = Published(
    "pacs",
    ("kfold", "images", "pacs_data"),
    ("art_painting/dog",),
    "https://domaingeneralization.github.io/#data (the images: art_painting/, cartoon/, photo/ and sketch/)",
    "art_painting/dog",
)
DOMAINNET = Published(
    "domainnet",
    (),
    ("*_train.txt", "*/*_train.txt"),
    "http://ai.bu.edu/M3SDA/ (the cleaned version: for each domain a .zip, a _train.txt and a _test.txt; 17 GB)",
    "clipart_train.txt",
)
CORE50 = Published(
    "core50",
    ("core50_128x128",),
    ("s[0-9]*/o[0-9]*",),
    "https://vlomonaco.github.io/core50 (core50_128x128.zip)",
    "s1/o1",
)

CORE50_TEST = ("s3", "s7", "s10")
"""The sessions that test, in every publication on CORe50."""


def read_pacs(root: str | Path | None = None, download: bool = True) -> dict[str, Split]:
    """PACS: 7 classes in 4 domains; a fifth of each class and domain is held out for testing."""
    place = located(PACS, root, download)
    names = ("art_painting", "cartoon", "photo", "sketch")
    return {name: read_folder(place / name) for name in names}


def read_domainnet(root: str | Path | None = None, download: bool = True) -> dict[str, Split]:
    """DomainNet: 345 classes in 6 domains, split by the lists <domain>_train.txt and <domain>_test.txt.

    The lists lie beside the folders of the domains or in one folder of their own; the domains are those that have
    lists. Of some classes a domain has no images.

    Raises:
        DualLoRAError: nothing there and nothing to be downloaded, or lists that contradict each other or the images.
    """
    place = located(DOMAINNET, root, download)
    lists = sorted(place.glob("*_train.txt")) or sorted(place.glob("*/*_train.txt"))
    rows: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for path in lists:
        domain = path.name.removesuffix("_train.txt")
        for part in ("train", "test"):
            rows[domain, part] = _entries(path.with_name(f"{domain}_{part}.txt"))
    names: dict[int, str] = {}
    for entries in rows.values():
        for path_text, label in entries:
            name = Path(path_text).parent.name
            if names.setdefault(label, name) != name:
                raise DualLoRAError(
                    f"the lists of '{place}' call class {label} {names[label]!r} and {name!r}; get them again"
                )
    classes = [names[label] for label in sorted(names)]

    def part_of(domain: str, part: str) -> ImageSet:
        files = [(place / text, names[label]) for text, label in rows[domain, part]]
        return listed(classes, files, f"'{domain}_{part}.txt'")

    domains = sorted({domain for domain, _ in rows})
    return {domain: Split(part_of(domain, "train"), part_of(domain, "test")) for domain in domains}


def _entries(path: Path) -> list[tuple[str, int]]:
    """Path and label in each line of a list; a path may hold spaces, the label is what stands last."""
    example = "clipart/zebra/clipart_344_000001.jpg 344"
    try:
        return [(" ".join(row[:-1]), int(row[-1])) for row in read_rows(path, 2, example)]
    except ValueError as error:
        raise DualLoRAError(f"'{path}': {error}; expected lines as {example!r}; get the list again") from error


def read_core50(root: str | Path | None = None, download: bool = True) -> dict[str, Split]:
    """CORe50: 50 objects in 11 sessions; sessions s3, s7 and s10 test, the others are one domain each.

    All domains hold the same test set.

    Raises:
        DualLoRAError: nothing there and nothing to be downloaded, or sessions are missing.
    """
    place = located(CORE50, root, download)
    sessions = _numbered(place, "s")
    objects = sorted({name for session in sessions for name in _numbered(place / session, "o")}, key=_number)
    if sessions != [f"s{number}" for number in range(1, 12)]:
        raise DualLoRAError(
            f"'{place}' holds the sessions {sessions}, expected s1 to s11; {CORE50_TEST} are for testing. "
            "Unpack all of core50_128x128.zip"
        )
    found = {session: _objects(place / session, objects) for session in sessions}
    train = {session: pairs for session, pairs in found.items() if session not in CORE50_TEST}
    held = [pair for session in CORE50_TEST for pair in found[session]]
    test = listed(objects, held, f"the sessions {', '.join(CORE50_TEST)}")
    return {session: Split(listed(objects, pairs, f"session {session}"), test) for session, pairs in train.items()}


def joined(domains: Mapping[str, Split]) -> Split:
    """All domains as one data set, for class-incremental learning; a test set that they share is taken once."""
    splits = list(domains.values())
    tests = list({id(split.test): split.test for split in splits}.values())
    train = ImageSet.concat([split.train for split in splits])
    return Split(train, ImageSet.concat(tests).with_classes(train.classes))


def _objects(session: Path, objects: list[str]) -> list[tuple[Path, str]]:
    """The images of a session, which holds all objects."""
    pairs = [(path, name) for path, name in class_folders(session) if name in objects]
    if missing := sorted(set(objects) - {name for _, name in pairs}, key=_number):
        raise DualLoRAError(f"'{session}' lacks images of {', '.join(missing[:5])}; unpack all of core50_128x128.zip")
    return pairs


def _numbered(place: Path, letter: str) -> list[str]:
    return sorted(
        (path.name for path in place.iterdir() if path.is_dir() and re.fullmatch(rf"{letter}\d+", path.name)),
        key=_number,
    )


def _number(name: str) -> int:
    return int(name[1:])

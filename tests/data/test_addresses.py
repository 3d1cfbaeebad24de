"""What is told of where torchvision's data sets come from is what the installed torchvision would fetch. No network."""

from __future__ import annotations

import contextlib
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from duallora.compat import import_torchvision
from duallora.data import list_named, load_named
from duallora.data.addresses import ORIGINS, Origin
from duallora.data.named import _OMNIGLOT, _SOURCES
from duallora.errors import DualLoRAError

TORCHVISIONS = _SOURCES | {"omniglot": _OMNIGLOT}


def fetched(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[set[tuple[str, str]], set[str]]:
    """Address and place below `root` of every file that torchvision would fetch, and the names of those it unpacks."""
    import_torchvision()
    from torchvision import datasets

    source = TORCHVISIONS[name]
    build = getattr(datasets, source.name)
    files: set[tuple[str, str]] = set()
    unpacked: set[str] = set()

    def download(url: str, folder: str, filename: str | None = None, md5: str | None = None) -> None:
        place = Path(folder, filename or url.rsplit("/", 1)[1])
        files.add((url, place.relative_to(root).as_posix()))

    def download_and_extract(url: str, download_root: str, filename: str | None = None, md5: str | None = None) -> None:
        download(url, download_root, filename)
        unpacked.add(url.rsplit("/", 1)[1])

    module = sys.modules[build.__module__]
    monkeypatch.setattr(module, "download_url", download, raising=False)
    monkeypatch.setattr(module, "download_and_extract_archive", download_and_extract, raising=False)
    for options in (*source.train, *([source.test] if source.test else [])):
        with contextlib.suppress(RuntimeError, OSError):  # it finds nothing of what it believes to have fetched
            build(str(root), **options, download=True)
    return files, unpacked


@pytest.mark.parametrize("name", sorted(TORCHVISIONS))
def test_origins_are_torchvisions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    from torchvision import datasets

    origin = ORIGINS[name]
    files, unpacked = fetched(name, tmp_path, monkeypatch)
    expected = {(f"{origin.addresses[0]}{file}", (Path(origin.folder) / file).as_posix()) for file in origin.files}
    assert files == expected
    assert set(origin.archives) == unpacked
    mirrors = getattr(getattr(datasets, TORCHVISIONS[name].name), "mirrors", origin.addresses)
    assert origin.addresses == tuple(mirrors)


def test_each_of_torchvisions_has_its_origin() -> None:
    assert set(ORIGINS) == set(TORCHVISIONS)


@pytest.mark.parametrize("reason", ["downloads are off", "cannot be downloaded"])
@pytest.mark.parametrize("name", sorted(_SOURCES))
def test_what_is_missing_is_told_with_address_files_and_folder(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(root: str, download: bool, **options: Any) -> None:
        raise urllib.error.URLError("no route to host") if download else RuntimeError("Dataset not found")

    import_torchvision()
    monkeypatch.setattr(f"torchvision.datasets.{_SOURCES[name].name}", build)
    with pytest.raises(DualLoRAError, match=rf"data set '{name}' .*{reason}.*; fetch .*; or use 'digits'") as caught:
        load_named(name, tmp_path, download=reason == "cannot be downloaded")
    origin, told = ORIGINS[name], str(caught.value)
    assert all(text in told for text in (*origin.addresses, *origin.files, f"into '{tmp_path / name / origin.folder}'"))
    (tmp_path / name).mkdir()  # as somebody leaves it who has put the files elsewhere in it
    with pytest.raises(DualLoRAError, match="lay it out as torchvision unpacks it") as caught:
        load_named(name, tmp_path, download=False)
    assert origin.told(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(list_named()) - {"digits"}))
def test_every_name_is_told_with_an_address_and_a_place(name: str, tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError, match=r"https?://[\w-]+\.\w+") as caught:
        load_named(name, tmp_path, download=False)
    assert f"'{tmp_path / ('notmnist' if name == 'five-datasets' else name)}" in str(caught.value)


def test_what_is_told_reads_well() -> None:
    one = Origin(("http://a.org/",), ("a.zip",), "in")
    assert (
        one.told(Path("d"))
        == "fetch http://a.org/a.zip on a machine with network, put it into 'd/in' and unpack it there"
    )
    mirrored = Origin(("http://a.org/", "http://b.org/"), ("a.gz", "b.gz"))
    assert mirrored.told(Path("d")).startswith("fetch a.gz and b.gz from http://a.org/ or http://b.org/ on a machine")
    plain = Origin(("http://a.org/",), ("a.mat", "b.mat"))
    assert plain.told(Path("d")).endswith("on a machine with network and put them into 'd'")
    mixed = Origin(("http://a.org/",), ("a.tgz", "b.mat"))
    assert mixed.told(Path("d")).endswith("put them into 'd' and unpack a.tgz there")

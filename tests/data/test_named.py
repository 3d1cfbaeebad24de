"""Data sets by name. No network: torchvision reads files that are made here, in the formats it expects."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from duallora.compat import import_torchvision
from duallora.data import list_named, load_named, open_source
from duallora.data.named import _SOURCES
from duallora.errors import DualLoRAError

Writer = Callable[..., Path]


def write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's own format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def make_mnist(root: Path) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    labels = np.arange(20) % 10
    for part, count in (("train", 20), ("t10k", 10)):
        write_idx(root / f"MNIST/raw/{part}-images-idx3-ubyte", images[:count])
        write_idx(root / f"MNIST/raw/{part}-labels-idx1-ubyte", labels[:count])
    return images


def test_digits() -> None:
    split = load_named("digits")
    assert split.train.classes == tuple("0123456789")
    assert len(split.train) + len(split.test) == 1797
    shares = torch.tensor(split.test.counts()) / (
        torch.tensor(split.test.counts()) + torch.tensor(split.train.counts())
    )
    assert shares.min() > 0.24 and shares.max() < 0.26
    assert isinstance(split.train.items, torch.Tensor)
    assert split.train.items.shape[1:] == (3, 8, 8) and split.train.items.max() == 255
    assert torch.equal(split.train.items[:, 0], split.train.items[:, 2])
    assert load_named("digits").test.fingerprint() == split.test.fingerprint()


def test_arrays_of_torchvision(tmp_path: Path) -> None:
    images = make_mnist(tmp_path / "mnist")
    split = load_named("MNIST", tmp_path, download=False)
    assert len(split.train) == 20 and len(split.test) == 10
    assert split.train.classes[3] == "3 - three"
    assert split.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert torch.equal(split.train.image(7)[1], torch.from_numpy(images[7]).to(torch.uint8))


def test_what_torchvision_put_there_itself_is_found(tmp_path: Path) -> None:
    make_mnist(tmp_path)
    assert len(load_named("mnist", tmp_path, download=False).train) == 20


def test_files_of_torchvision_without_a_test_part(tmp_path: Path, write: Writer) -> None:
    for name in ("Forest", "River"):
        for i in range(10):
            write(f"eurosat/eurosat/2750/{name}/{name}_{i}.jpg")
    split = load_named("eurosat", tmp_path, download=False)
    assert split.train.classes == ("Forest", "River")
    assert split.train.counts() == [8, 8] and split.test.counts() == [2, 2]
    assert split.train.image(0).shape == (3, 10, 12)


def test_torchvisions_own_folder_of_the_same_name_is_no_clash(tmp_path: Path, write: Writer) -> None:
    for name in ("Forest", "River"):
        for i in range(10):
            write(f"eurosat/2750/{name}/{name}_{i}.jpg")
    assert load_named("eurosat", tmp_path, download=False).train.counts() == [8, 8]


def test_a_part_beside_other_data_is_never_told_to_be_deleted(tmp_path: Path) -> None:
    make_mnist(tmp_path)
    for path in (tmp_path / "MNIST" / "raw").glob("t10k*"):
        path.unlink()
    with pytest.raises(DualLoRAError, match="'mnist' is not in") as caught:
        load_named("mnist", tmp_path, download=False)
    assert "delete" not in str(caught.value)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(
        DualLoRAError,
        match=r"mnist' is not what torchvision expects there .*; lay it out as torchvision unpacks it .*, or move",
    ):
        load_named("mnist", tmp_path, download=False)


def test_the_share_held_out_is_for_folders_and_arrays(tmp_path: Path) -> None:
    for source in ("digits", "imagenet-r"):
        with pytest.raises(DualLoRAError, match=r"held_out is 0.5, but .* is settled"):
            open_source(source, root=tmp_path, held_out=0.5)
    np.savez(tmp_path / "a.npz", train_x=np.zeros((8, 4, 4), np.uint8), train_y=np.arange(8) % 2)
    assert len(open_source(tmp_path / "a.npz", held_out=0.5).test) == 4


def test_files_of_torchvision_with_parts(tmp_path: Path, write: Writer) -> None:
    lists: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name in ("pizza", "soup"):
        for i in range(6):
            write(f"food101/food-101/images/{name}/{i}.jpg")
            lists["train" if i < 4 else "test"].setdefault(name, []).append(f"{name}/{i}")
    (tmp_path / "food101/food-101/meta").mkdir()
    for part, content in lists.items():
        (tmp_path / f"food101/food-101/meta/{part}.json").write_text(json.dumps(content))
    split = load_named("food101", tmp_path, download=False)
    assert split.train.counts() == [4, 4] and split.test.counts() == [2, 2]


def test_training_parts_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flowers(root: str, split: str, download: bool) -> Any:
        count = {"train": 3, "val": 2, "test": 4}[split]
        return SimpleNamespace(
            _image_files=[Path(root, split, f"{i}.jpg") for i in range(count)], _labels=[0, 1, 1, 0][:count]
        )

    import_torchvision()
    monkeypatch.setattr("torchvision.datasets.Flowers102", flowers)
    (tmp_path / "flowers102").mkdir()
    split = load_named("flowers102", tmp_path, download=False)
    assert split.train.labels.tolist() == [0, 1, 1, 0, 1] and split.test.labels.tolist() == [0, 1, 1, 0]


def test_every_name_is_one_of_torchvisions() -> None:
    import_torchvision()
    from torchvision import datasets

    assert [source.name for source in _SOURCES.values() if not hasattr(datasets, source.name)] == []
    assert {
        "cifar10",
        "cifar100",
        "mnist",
        "fashion-mnist",
        "svhn",
        "flowers102",
        "food101",
        "stl10",
        "eurosat",
    } <= set(list_named())


def test_the_document_names_every_data_set() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [name for name in list_named() if f"`{name}`" not in text] == []


def failing(error: Exception) -> Callable[..., Any]:
    def build(root: str, download: bool, **options: Any) -> Any:
        if download:
            raise error
        raise RuntimeError("Dataset not found. You can use download=True to download it")

    return build


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route to host"), RuntimeError("File not found or corrupted."), OSError("full")]
)
def test_impossible_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import_torchvision()
    monkeypatch.setattr("torchvision.datasets.CIFAR100", failing(error))
    with pytest.raises(DualLoRAError, match=r"'cifar100' cannot be downloaded \(.*\); fetch .*or use 'digits'"):
        load_named("cifar100", tmp_path / "data")
    assert not (tmp_path / "data" / "cifar100").exists()


def test_downloads_off(tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError, match=r"'cifar100' is not in .* and downloads are off; fetch http"):
        load_named("cifar-100", tmp_path, download=False)


def test_a_download_gets_its_name_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(root: str, train: bool, download: bool) -> Any:
        if download:
            Path(root, f"data-{train}").write_text("x")
        if not Path(root, f"data-{train}").exists():
            raise RuntimeError("Dataset not found")
        data = np.zeros((4, 32, 32, 3), np.uint8)
        return SimpleNamespace(data=data, targets=[0, 1, 1, 0], classes=["apple", "bear"])

    import_torchvision()
    monkeypatch.setattr("torchvision.datasets.CIFAR100", build)
    monkeypatch.setenv("DUALLORA_DATA", str(tmp_path))
    assert load_named("cifar100").train.classes == ("apple", "bear")
    assert [path.name for path in tmp_path.iterdir()] == ["cifar100"]
    (tmp_path / "cifar100" / "data-False").unlink()
    with pytest.raises(DualLoRAError, match=r"not what torchvision expects there.*move it away and load again"):
        load_named("cifar100")


def test_what_is_put_where_the_message_says_is_found(tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError) as caught:
        load_named("mnist", tmp_path, download=False)
    place = Path(str(caught.value).split("put them into '")[1].split("'")[0])
    make_mnist(place.parents[1])
    assert (place / "train-images-idx3-ubyte").is_file()
    assert len(load_named("mnist", tmp_path, download=False).train) == 20


def test_unknown_name() -> None:
    with pytest.raises(DualLoRAError, match="unknown data set 'cifar1000'; did you mean 'cifar100'"):
        load_named("cifar1000")


def test_open_source(tmp_path: Path, write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        for i in range(4):
            write(f"my zoo/{name}/{i}.png")
    np.savez(
        tmp_path / "set.npz",
        train_x=np.zeros((2, 4, 4, 3), np.uint8),
        train_y=[0, 1],
        test_x=np.zeros((1, 4, 4, 3), np.uint8),
        test_y=[1],
    )
    zoo = tmp_path / "my zoo"
    for source in (str(zoo), zoo, f"folder:{zoo}"):
        assert open_source(source, held_out=0.5).train.counts() == [2, 2]
    for source in (str(tmp_path / "set.npz"), f"npz:{tmp_path / 'set.npz'}"):
        assert open_source(source).train.classes == ("0", "1")
    assert len(open_source("digits").train.classes) == 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(open_source("digits").train.classes) == 10  # the name wins; ./digits is the folder
    with pytest.raises(DualLoRAError, match="is empty"):
        open_source("./digits/")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "unknown data source 'digit'; did you mean 'digits'"),
        ("no/such/folder", "'no/such/folder' does not exist; expected a folder, an .npz file, or one of"),
        ("missing.npz", "missing.npz' does not exist"),
        ("folder:nowhere", "folder 'nowhere' does not exist"),
        ("npz:nowhere.npz", "file 'nowhere.npz' does not exist"),
        ("folder:", "unknown data source 'folder:'"),
        ("", "unknown data source ''"),
    ],
)
def test_open_source_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DualLoRAError, match=message):
        open_source(source)


def test_open_source_of_another_file(write: Writer) -> None:
    with pytest.raises(DualLoRAError, match=r"is a file; expected a folder .*or an .npz"):
        open_source(write("a.png"))


def test_importing_the_package_does_not_import_torchvision() -> None:
    code = (
        "import sys, duallora.data, duallora.stream; sys.exit('torchvision' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

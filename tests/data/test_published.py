"""Data sets of the literature, on tiny folders in the layout in which each is published. No network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from duallora.compat import import_torchvision
from duallora.data import ImageSet, Split, list_named, load_named, open_domains, open_source
from duallora.data.published.groups import FIVE, read_five_datasets
from duallora.data.published.places import Missing
from duallora.errors import DualLoRAError
from duallora.stream import TaskStream

Writer = Callable[..., Path]


def names(images: ImageSet) -> list[tuple[str, str]]:
    """File and class of every image."""
    return [(Path(p).name, images.classes[y]) for p, y in zip(images.items, images.labels.tolist(), strict=True)]


# ------------------------------------------------------------------- one list of classes


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_imagenet_variants_without_a_split(name: str, tmp_path: Path, write: Writer) -> None:
    for wnid in ("n02119789", "n01443537"):
        for i in range(5):
            write(f"{name}/{wnid}/art_{i}.jpg")
    write(f"{name}/README.png").rename(tmp_path / name / "README.txt")
    split = load_named(name, tmp_path, download=False)
    assert split.train.classes == ("n01443537", "n02119789")
    assert split.train.counts() == [4, 4] and split.test.counts() == [1, 1]


def test_imagenet_r_with_the_split_folders(tmp_path: Path, write: Writer) -> None:
    write("imagenet-r/train/n01443537/a.jpg")
    write("imagenet-r/train/n02119789/b.jpg")
    write("imagenet-r/test/n02119789/c.jpg")
    split = open_source("ImageNet_R", root=tmp_path)
    assert names(split.train) == [("a.jpg", "n01443537"), ("b.jpg", "n02119789")]
    assert names(split.test) == [("c.jpg", "n02119789")]


@pytest.fixture
def cub(tmp_path: Path, write: Writer) -> Path:
    """Two birds; the numbers of the images are not in the order of the lines."""
    files = ["002.Auk/b1.jpg", "001.Finch/a1.jpg", "001.Finch/a2.jpg", "002.Auk/b2.jpg"]
    for file in files:
        write(f"CUB_200_2011/images/{file}")
    place = tmp_path / "CUB_200_2011"
    numbers = [4, 1, 2, 3]
    (place / "images.txt").write_text("".join(f"{n} {f}\n" for n, f in zip(numbers, files, strict=True)))
    (place / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n")
    (place / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n4 0\n")
    return place


def test_cub(cub: Path, tmp_path: Path) -> None:
    split = load_named("cub", tmp_path, download=False)
    assert split.train.classes == ("001.Finch", "002.Auk")
    assert sorted(names(split.train)) == [("a1.jpg", "001.Finch"), ("b2.jpg", "002.Auk")]
    assert sorted(names(split.test)) == [("a2.jpg", "001.Finch"), ("b1.jpg", "002.Auk")]
    assert len(load_named("cub", cub, download=False).train) == 2  # the folder itself, by its own name


def test_cub_says_what_is_wrong(cub: Path, tmp_path: Path) -> None:
    (cub / "images" / "001.Finch" / "a1.jpg").write_bytes(b"")  # a download that broke off
    (cub / "images" / "001.Finch" / "a2.jpg").unlink()
    (cub / "train_test_split.txt").write_text("1 1\n2 1\n3 1\n4 0\n")
    split = load_named("cub", tmp_path)
    told = sorted((skip.path.rsplit("/", 1)[1], skip.reason.rsplit(" but ")[1]) for skip in split.train.skipped)
    assert told == [("a1.jpg", "empty"), ("a2.jpg", "not there")]
    assert split.train.counts() == [0, 1]
    (cub / "image_class_labels.txt").write_text("1 1\n2\n")
    with pytest.raises(DualLoRAError, match=r"image_class_labels\.txt', line 2: '2', expected as in '1 1'"):
        load_named("cub", tmp_path)
    (cub / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(DualLoRAError, match="name different images"):
        load_named("cub", tmp_path)
    (cub / "image_class_labels.txt").unlink()
    with pytest.raises(DualLoRAError, match=r"image_class_labels\.txt' cannot be read"):
        load_named("cub", tmp_path)


def rows(*pairs: tuple[str, int]) -> np.ndarray:
    return np.array([(name, label) for name, label in pairs], dtype=[("fname", object), ("class", object)])


def test_cars(tmp_path: Path, write: Writer) -> None:
    for file in ("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"):
        write(f"stanford_cars/{file}")
    place = tmp_path / "stanford_cars"
    (place / "devkit").mkdir()
    savemat(place / "devkit/cars_meta.mat", {"class_names": np.array(["Acura RL", "BMW M3"], dtype=object)})
    savemat(place / "devkit/cars_train_annos.mat", {"annotations": rows(("00001.jpg", 2), ("00002.jpg", 1))})
    savemat(place / "cars_test_annos_withlabels.mat", {"annotations": rows(("00001.jpg", 1))})
    split = load_named("cars", tmp_path)
    assert split.train.classes == ("Acura RL", "BMW M3")
    assert names(split.train) == [("00001.jpg", "BMW M3"), ("00002.jpg", "Acura RL")]
    assert names(split.test) == [("00001.jpg", "Acura RL")]
    (place / "cars_test_annos_withlabels.mat").rename(place / "devkit" / "cars_test_annos_withlabels.mat")
    assert names(load_named("cars", tmp_path).test) == names(split.test)
    (place / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DualLoRAError, match=r"withlabels\.mat' is missing: a file of its own.*put it there"):
        load_named("cars", tmp_path)
    (place / "cars_test_annos_withlabels.mat").write_bytes(b"no MATLAB file, whatever its name says")
    with pytest.raises(DualLoRAError, match=r"withlabels\.mat' cannot be read"):
        load_named("cars", tmp_path)


def test_cars_by_class_folders(tmp_path: Path, write: Writer) -> None:
    for file in ("train/Acura RL/1.jpg", "train/BMW M3/2.jpg", "test/BMW M3/3.jpg"):
        write(f"car_data/car_data/{file}")
    split = load_named("cars", tmp_path)
    assert split.train.classes == ("Acura RL", "BMW M3") and names(split.test) == [("3.jpg", "BMW M3")]


def test_tiny_imagenet(tmp_path: Path, write: Writer) -> None:
    place = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for i in range(2):
            write(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{i}.JPEG")
        (place / "train" / wnid / f"{wnid}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t63\n")
    for i in range(3):
        write(f"tiny-imagenet-200/val/images/val_{i}.JPEG")
    (place / "wnids.txt").write_text("n02\nn01\n")
    annotations = "val_0.JPEG\tn02\t0\t32\t44\t62\nval_1.JPEG\tn01\t1\t2\t3\t4\nval_2.JPEG\tn02\t1\t2\t3\t4\n"
    (place / "val" / "val_annotations.txt").write_text(annotations)
    split = load_named("tiny-imagenet", tmp_path)
    assert split.train.classes == ("n01", "n02") and split.train.counts() == [2, 2] and not split.train.skipped
    assert names(split.test) == [("val_0.JPEG", "n02"), ("val_1.JPEG", "n01"), ("val_2.JPEG", "n02")]
    shutil.copytree(place, tmp_path / "sorted" / place.name)
    val = tmp_path / "sorted" / place.name / "val"
    for line in annotations.splitlines():  # as scripts do, which leave the list behind
        name, wnid = line.split("\t")[:2]
        (val / wnid / "images").mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(val / wnid / "images" / name)
    assert sorted(names(load_named("tiny-imagenet", tmp_path / "sorted").test)) == sorted(names(split.test))
    (val / "images").rmdir()
    assert sorted(names(load_named("tiny-imagenet", tmp_path / "sorted").test)) == sorted(names(split.test))
    for wnid in ("n01", "n02"):  # another script: below images/
        (val / wnid / "images").rename(val / "of one class")
        (val / wnid).rmdir()
        (val / "images").mkdir(exist_ok=True)
        (val / "images" / "._val_0.JPEG").write_bytes(b"left by a file manager")
        (val / "of one class").rename(val / "images" / wnid)
    assert sorted(names(load_named("tiny-imagenet", tmp_path / "sorted").test)) == sorted(names(split.test))
    (val / "images" / "n01").rename(val / "images" / "n03")
    with pytest.raises(DualLoRAError, match=r"is of class 'n03', which is none of the 2 of the data set"):
        load_named("tiny-imagenet", tmp_path / "sorted")
    (place / "val" / "val_annotations.txt").write_text(annotations.replace("n01", "n03"))
    with pytest.raises(DualLoRAError, match="names the class 'n03'"):
        load_named("tiny-imagenet", tmp_path)
    (place / "train").rename(place / "elsewhere")
    with pytest.raises(DualLoRAError, match="unpack the images too"):
        load_named("tiny-imagenet", tmp_path)


def test_tiny_imagenet_as_arrays_without_a_test_part(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "tiny-imagenet.npz", train_x=pixels, train_y=np.arange(20) % 2, classes=np.array(["n01", "n02"])
    )
    split = load_named("tiny-imagenet", tmp_path)
    assert split.train.classes == ("n01", "n02")
    assert split.train.counts() == [8, 8] and split.test.counts() == [2, 2]


# ------------------------------------------------------------------------------- domains


def test_pacs(tmp_path: Path, write: Writer) -> None:
    for domain in ("photo", "sketch", "cartoon", "art_painting"):
        for name in ("dog", "horse"):
            for i in range(5):
                write(f"PACS/kfold/{domain}/{name}/{i}.jpg")
                write(f"copy/pacs_data/pacs_data/{domain}/{name}/{i}.jpg")  # of Kaggle
    domains = open_domains("pacs", root=tmp_path / "PACS")
    assert list(domains) == ["art_painting", "cartoon", "photo", "sketch"]
    assert all(split.train.counts() == [4, 4] and split.test.counts() == [1, 1] for split in domains.values())
    assert list(open_domains("pacs", root=tmp_path / "copy")) == list(domains)
    together = open_source("pacs", root=tmp_path)
    assert together.train.counts() == [16, 16] and together.test.counts() == [4, 4]


@pytest.fixture
def domainnet(tmp_path: Path, write: Writer) -> Path:
    """Two domains of three classes; of the last one there is no painting to learn from."""
    lists = {
        "clipart_train": ["clipart/ant/1.jpg 0", "clipart/the bee/2.jpg 1", "clipart/t-shirt/3.jpg 2"],
        "clipart_test": ["clipart/ant/4.jpg 0"],
        "painting_train": ["painting/the bee/5.jpg 1", "painting/ant/6.jpg 0"],
        "painting_test": ["painting/t-shirt/7.jpg 2"],
    }
    for name, entries in lists.items():
        for entry in entries:
            write(f"DomainNet/{entry.rsplit(' ', 1)[0]}")
        (tmp_path / "DomainNet" / f"{name}.txt").write_text("\n".join(entries) + "\n")
    return tmp_path / "DomainNet"


def test_domainnet(domainnet: Path, tmp_path: Path) -> None:
    domains = open_domains("domainnet", root=tmp_path)
    assert list(domains) == ["clipart", "painting"]
    assert all(split.train.classes == ("ant", "the bee", "t-shirt") for split in domains.values())
    assert names(domains["painting"].train) == [("5.jpg", "the bee"), ("6.jpg", "ant")]
    assert domains["painting"].test.counts() == [0, 0, 1]
    together = load_named("DomainNet", tmp_path)  # class-incremental, as InfLoRA and SD-LoRA use it
    assert together.train.counts() == [2, 2, 1] and together.test.counts() == [1, 0, 1]


def test_domainnet_with_its_lists_apart(domainnet: Path, tmp_path: Path) -> None:
    (domainnet / "txt").mkdir()
    for path in domainnet.glob("*.txt"):
        shutil.move(path, domainnet / "txt" / path.name)
    assert open_domains("domainnet", root=tmp_path)["clipart"].train.counts() == [1, 1, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("painting/wasp/5.jpg 1", "call class 1 'the bee' and 'wasp'"),
        ("painting/ant/6.jpg zero", r"painting_train\.txt': .*expected lines as"),
        ("painting/ant/6.jpg", r"painting_train\.txt', line 1: 'painting/ant/6.jpg', expected as in"),
        ("painting/ant/nothing.jpg 0", r"none of the 1 images of 'painting_train\.txt' is there"),
    ],
)
def test_domainnet_says_what_is_wrong(domainnet: Path, tmp_path: Path, line: str, message: str) -> None:
    (domainnet / "painting_train.txt").write_text(line + "\n")
    with pytest.raises(DualLoRAError, match=message):
        open_domains("domainnet", root=tmp_path)


def test_core50(tmp_path: Path, write: Writer) -> None:
    for session in range(1, 12):
        for thing in (1, 2, 10):
            write(f"core50/core50_128x128/s{session}/o{thing}/C_{session:02}_{thing:02}_000.png")
    domains = open_domains("core50", root=tmp_path)
    assert list(domains) == ["s1", "s2", "s4", "s5", "s6", "s8", "s9", "s11"]
    assert all(split.train.classes == ("o1", "o2", "o10") for split in domains.values())
    assert ("C_11_10_000.png", "o10") in names(domains["s11"].train)
    assert {name[2:4] for name, _ in names(domains["s1"].test)} == {"03", "07", "10"}
    stream = TaskStream.domain_incremental({name: domains[name] for name in ("s4", "s1")})
    assert [len(task.test) for task in stream] == [9, 0]  # one test set: measured once after every task
    together = load_named("core50", tmp_path)
    assert together.train.counts() == [8, 8, 8] and together.test.counts() == [3, 3, 3]


def test_core50_must_be_whole(tmp_path: Path, write: Writer) -> None:
    write("core50_128x128/s1/o1/C_01_01_000.png")
    with pytest.raises(DualLoRAError, match=r"holds the sessions \['s1'\], expected s1 to s11"):
        open_domains("core50", root=tmp_path)
    for session in range(2, 11):
        write(f"core50_128x128/s{session}/o1/C_{session:02}_01_000.png")
    with pytest.raises(DualLoRAError, match=r"'s10'\], expected s1 to s11"):
        open_domains("core50", root=tmp_path)
    write("core50_128x128/s11/o2/C_11_02_000.png")
    with pytest.raises(DualLoRAError, match=r"s1' lacks images of o2; unpack all"):
        open_domains("core50", root=tmp_path)
    for session in range(1, 12):
        for thing in (1, 2):
            write(f"core50_128x128/s{session}/o{thing}/C_{session:02}_{thing:02}_000.png")
        write(f"core50_128x128/s{session}/depth/C_{session:02}.png")  # of another archive
    assert all(split.train.classes == ("o1", "o2") for split in open_domains("core50", root=tmp_path).values())


def test_what_has_no_domains() -> None:
    with pytest.raises(DualLoRAError, match="'digits' has no domains; take one of pacs, domainnet, core50"):
        open_domains("digits")


# -------------------------------------------------------------------------------- groups


def characters(write: Writer, folder: str, alphabets: dict[str, int]) -> None:
    for alphabet, count in alphabets.items():
        for character in range(1, count + 1):
            for drawer in range(5):
                write(f"{folder}/{alphabet}/character{character:02}/{character:04}_{drawer:02}.png", 1, "1")


@pytest.mark.parametrize(
    "folders",
    [
        {"omniglot": {"Greek": 2, "Latin": 1}},
        {
            "omniglot/omniglot-py/images_background": {"Latin": 1},
            "omniglot/omniglot-py/images_evaluation": {"Greek": 2},
        },
        {
            "omniglot/images_background_small1": {"Greek": 2},
            "omniglot/images_background_small2": {"Greek": 2, "Latin": 1},
        },
    ],
    ids=["alphabets alone", "as torchvision unpacks", "small sets"],
)
def test_omniglot(folders: dict[str, dict[str, int]], tmp_path: Path, write: Writer) -> None:
    for folder, alphabets in folders.items():
        characters(write, folder, alphabets)
    split = load_named("omniglot", tmp_path, download=False)
    assert split.train.classes == ("Greek/character01", "Greek/character02", "Latin/character01")
    assert split.train.counts() == [4, 4, 4] and split.test.counts() == [1, 1, 1]
    stream = TaskStream.class_incremental(split, "source")
    assert [(task.name, len(task.classes)) for task in stream] == [("Greek", 2), ("Latin", 1)]


def test_torchvision_fetches_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer) -> None:
    def fetch(root: str, background: bool, download: bool) -> Any:
        part = "images_background" if background else "images_evaluation"
        if download:
            characters(write, str(Path(root, "omniglot-py", part)), {"Greek" if background else "Latin": 1})
        elif not Path(root, "omniglot-py", part).exists():
            raise RuntimeError("Dataset not found")
        return SimpleNamespace()

    import_torchvision()
    monkeypatch.setattr("torchvision.datasets.Omniglot", fetch)
    assert load_named("omniglot", tmp_path / "data").train.classes == ("Greek/character01", "Latin/character01")


def small(name: str) -> Split:
    """Three images of a part of five-datasets, of its own size."""
    side = 32 if name in ("svhn", "cifar10") else 28
    pixels = torch.full((3, 3, side, side), 200, dtype=torch.uint8)
    images = ImageSet(("x", "y"), torch.tensor([0, 1, 1]), pixels)
    return Split(images, images.subset([0, 1]))


def test_five_datasets(tmp_path: Path, write: Writer) -> None:
    for name in "AB":
        for i in range(5):
            write(f"notMNIST/{name}/{i}.png", 255, "L", size=(28, 28))

    def load(name: str, fetch: bool) -> Split:
        return load_named(name, tmp_path, fetch) if name == "notmnist" else small(name)

    split = read_five_datasets(load)
    assert len(split.train.classes) == 10 and split.train.classes[:2] == ("svhn/x", "svhn/y")
    assert split.train.only(["notmnist/B"]).counts() == [4]
    mnist = split.train.only(["mnist/x"]).items
    assert isinstance(mnist, torch.Tensor) and mnist.shape == (1, 3, 32, 32)
    assert mnist[0, 0, 2:30, 2:30].eq(200).all() and int(mnist.eq(200).sum()) == 3 * 28 * 28  # a margin of 2 px
    stream = TaskStream.class_incremental(split, "source")
    assert tuple(task.name for task in stream) == FIVE


# ------------------------------------------------------------------------ what is missing


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("imagenet-r", r"hendrycks/imagenet-r\.tar"),
        ("imagenet-a", r"hendrycks/imagenet-a\.tar"),
        ("cub", r"data\.caltech\.edu/records/65de6-vp158"),
        ("cars", r"pytorch/vision/issues/7545"),
        ("domainnet", r"ai\.bu\.edu/M3SDA"),
        ("core50", r"vlomonaco\.github\.io/core50"),
        ("omniglot", r"brendenlake/omniglot"),
        ("pacs", r"domaingeneralization\.github\.io"),
        ("tiny-imagenet", r"tiny-imagenet-200\.zip"),
        ("notmnist", r"notMNIST"),
    ],
)
def test_what_is_missing_is_said_with_where_to_get_and_to_put_it(name: str, where: str, tmp_path: Path) -> None:
    assert name in list_named()
    (tmp_path / name).mkdir()
    with pytest.raises(DualLoRAError, match=rf"'{name}' is not in '.*something else.*get it from .*{where}") as caught:
        load_named(name, tmp_path, download=False)
    assert str(tmp_path / name) in str(caught.value) and "stream.root=" in str(caught.value)


def test_all_missing_parts_of_five_datasets_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DualLoRAError, match="lacks 'svhn', 'mnist', 'cifar10', 'notmnist' and 'fashion-mnist'"
    ) as caught:
        load_named("five-datasets", tmp_path, download=False)
    told = str(caught.value)
    assert "and downloads are off. 'notmnist': get it from https://github.com" in told
    assert "'svhn': fetch train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ on" in told
    assert all(f"'{tmp_path / place}'" in told for place in ("svhn", "mnist/MNIST/raw", "cifar10", "notmnist/A"))
    assert "digits" not in told  # of another kind: no help where five data sets are wanted


def five(there: tuple[str, ...], reachable: tuple[str, ...], tried: list[str]) -> Callable[[str, bool], Split]:
    """Parts of which some are there, others can be downloaded, which is written down; the rest fails."""

    def load(name: str, fetch: bool) -> Split:
        if fetch:
            tried.append(name)
        if name in there or (fetch and name in reachable):
            return small(name)
        raise Missing(f"data set '{name}' is {'out of reach' if fetch else 'not there'}", f"get {name}", "; or digits")

    return load


def test_five_datasets_downloads_nothing_without_the_part_that_cannot_be() -> None:
    tried: list[str] = []
    with pytest.raises(DualLoRAError) as caught:
        read_five_datasets(five(("mnist", "cifar10"), FIVE, tried))
    assert tried == []
    assert str(caught.value) == (
        "data set 'five-datasets' lacks 'svhn', 'notmnist' and 'fashion-mnist', of which 'notmnist' cannot be "
        "downloaded (nothing was; the others are, once it is there). 'notmnist': get notmnist; 'svhn': get svhn; "
        "'fashion-mnist': get fashion-mnist"
    )
    with pytest.raises(DualLoRAError, match=r"lacks 'notmnist', which cannot be downloaded\. 'notmnist': get notmnist"):
        read_five_datasets(five(("svhn", "mnist", "cifar10", "fashion-mnist"), FIVE, tried))
    assert tried == []


def test_five_datasets_downloads_what_is_missing_and_names_all_that_fails() -> None:
    tried: list[str] = []
    assert len(read_five_datasets(five(("notmnist", "mnist"), FIVE, tried)).train.classes) == 10
    assert tried == ["svhn", "cifar10", "fashion-mnist"]
    with pytest.raises(DualLoRAError) as caught:
        read_five_datasets(five(("notmnist", "mnist"), ("cifar10",), tried))
    assert str(caught.value) == (
        "data set 'five-datasets' lacks 'svhn' and 'fashion-mnist'. 'svhn': data set 'svhn' is out of reach; get svhn; "
        "'fashion-mnist': data set 'fashion-mnist' is out of reach; get fashion-mnist"
    )


def test_a_broken_part_of_five_datasets_is_named_with_what_is_wrong() -> None:
    def load(name: str, fetch: bool) -> Split:
        if name == "mnist":
            raise DualLoRAError("'mnist' is cut short; fetch it again")
        return small(name)

    with pytest.raises(DualLoRAError, match=r"lacks 'mnist'\. 'mnist': 'mnist' is cut short; fetch it again"):
        read_five_datasets(load)


def test_an_archive_is_fetched_and_a_failure_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer
) -> None:
    def fetch(url: str, root: str, md5: str, remove_finished: bool) -> None:
        assert url.endswith("imagenet-a.tar") and len(md5) == 32
        for i in range(2):
            write(f"{root}/imagenet-a/n01498041/{i}.jpg")

    def fail(url: str, root: str, md5: str, remove_finished: bool) -> None:
        raise OSError("no route to host")

    import_torchvision()
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fail)
    with pytest.raises(DualLoRAError, match=r"unpack it so that .*fetching it from .*failed \(no route to host\)"):
        load_named("imagenet-a", tmp_path / "data")
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    assert load_named("imagenet-a", tmp_path / "data").train.counts() == [1]
    (tmp_path / "other" / "imagenet-a").mkdir(parents=True)
    (tmp_path / "other" / "imagenet-a" / "imagenet-a.tar").write_bytes(b"")  # in whose place nothing fetched could go
    with pytest.raises(DualLoRAError, match="is something else"):
        load_named("imagenet-a", tmp_path / "other")
    assert not (tmp_path / "other" / "imagenet-a.partial").exists()


def test_another_data_set_is_not_taken_for_it(tmp_path: Path, write: Writer) -> None:
    write("imagenet-r/n01443537/a.jpg")
    with pytest.raises(DualLoRAError, match="'imagenet-a' is not in"):
        load_named("imagenet-a", tmp_path / "imagenet-r", download=False)

"""Published data sets with one list of classes: ImageNet-R and -A, CUB-200, Stanford Cars, Tiny-ImageNet, notMNIST."""

from __future__ import annotations

from pathlib import Path

from duallora.data.arrays import read_npz
from duallora.data.folder import read_folder
from duallora.data.images import EXTENSIONS
from duallora.data.imageset import ImageSet, Split
from duallora.data.published.lists import by_number, class_folders, listed, read_rows
from duallora.data.published.places import Published, data_root, find, located
from duallora.errors import DualLoRAError

_BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks"

IMAGENET_R = Published(
    "imagenet-r",
    (),
    ("n[0-9]*", "train/n[0-9]*"),
    f"{_BERKELEY}/imagenet-r.tar (about 2 GB)",
    "n01443537",
    (f"{_BERKELEY}/imagenet-r.tar", "a61312130a589d0ca1a8fca1f2bd3337"),
)
IMAGENET_A = Published(
    "imagenet-a",
    (),
    ("n[0-9]*", "train/n[0-9]*"),
    f"{_BERKELEY}/imagenet-a.tar (about 0.7 GB)",
    "n01498041",
    (f"{_BERKELEY}/imagenet-a.tar", "c3e55429088dc681f30d81f4726b6595"),
)
CUB = Published(
    "cub",
    ("CUB_200_2011", "cub200", "cub-200-2011"),
    ("images.txt", "train/*.*"),
    "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz, about 1.2 GB)",
    "images.txt",
    ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz", "97eceeb196236b17998738112f37df78"),
)
CARS = Published(
    "cars",
    ("stanford_cars", "stanford-cars", "cars196", "car_data"),
    ("devkit/cars_meta.mat", "train/*"),
    "a mirror that has devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat (the authors' page is gone; "
    "https://github.com/pytorch/vision/issues/7545 names some)",
    "devkit/cars_meta.mat",
)
TINY_IMAGENET = Published(
    "tiny-imagenet",
    ("tiny-imagenet-200",),
    ("wnids.txt", "train/n[0-9]*", "tiny-imagenet.npz"),
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip (248 MB)",
    "wnids.txt",
    ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),
)
NOTMNIST = Published(
    "notmnist",
    ("notMNIST_small",),
    ("A", "train/A", "Train/A"),
    "https://github.com/facebookresearch/Adversarial-Continual-Learning (data/notMNIST.zip, with Train/ and Test/) or "
    "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz",
    "A",
)


def read_imagenet_r(root: str | Path | None = None, download: bool = True) -> Split:
    """ImageNet-R: 30,000 renditions of 200 classes; train/ and test/ where they are split, else 80 and 20 %."""
    return read_folder(located(IMAGENET_R, root, download))


def read_imagenet_a(root: str | Path | None = None, download: bool = True) -> Split:
    """ImageNet-A: 7,500 hard photographs of 200 classes; train/ and test/ where they are split, else 80 and 20 %."""
    return read_folder(located(IMAGENET_A, root, download))


def read_notmnist(root: str | Path | None = None, download: bool = True) -> Split:
    """NotMNIST: letters A to J in many fonts, 28 px; train/ and test/ where there are such, else 80 and 20 %."""
    return read_folder(located(NOTMNIST, root, download))


def read_cub(root: str | Path | None = None, download: bool = True) -> Split:
    """CUB-200-2011: 200 birds with the authors' split (5,994 and 5,794 images), or train/ and test/ class folders.

    Raises:
        DualLoRAError: nothing there and nothing to be downloaded, or lists that do not fit each other or the images.
    """
    place = located(CUB, root, download)
    if not (place / "images.txt").is_file():
        return read_folder(place)
    tables = {}
    for name, example in (
        ("images.txt", "1 001.Black_footed_Albatross/a.jpg"),
        ("image_class_labels.txt", "1 1"),
        ("train_test_split.txt", "1 0"),
    ):
        tables[name] = by_number(place / name, read_rows(place / name, 2, example))
    paths, label_of, in_training = tables.values()
    if set(paths) != set(label_of) or set(paths) != set(in_training):
        raise DualLoRAError(f"the lists of '{place}' name different images; unpack CUB_200_2011.tgz again")
    folder_of = {int(label_of[number]): Path(path).parent.name for number, path in paths.items()}
    classes = [folder_of[label] for label in sorted(folder_of)]
    parts = [
        [
            (place / "images" / path, Path(path).parent.name)
            for number, path in paths.items()
            if in_training[number] == flag
        ]
        for flag in ("1", "0")
    ]
    return Split(*(listed(classes, part, f"'{place / 'images.txt'}'") for part in parts))


def read_cars(root: str | Path | None = None, download: bool = True) -> Split:
    """Stanford Cars, 196 models: devkit/ with cars_train/ and cars_test/, or train/ and test/ of class folders."""
    place = located(CARS, root, download)
    if not (place / "devkit" / "cars_meta.mat").is_file():
        return read_folder(place)
    classes = [str(name) for name in _mat(place / "devkit" / "cars_meta.mat", "class_names")]
    train = _cars_part(place, classes, [place / "devkit" / "cars_train_annos.mat"])
    lists = [folder / "cars_test_annos_withlabels.mat" for folder in (place, place / "devkit")]
    if not any(path.is_file() for path in lists):
        raise DualLoRAError(
            f"'{lists[0]}' is missing: a file of its own, beside the archives of Stanford Cars (cars_test_annos.mat, "
            "which the devkit has, is without labels); put it there"
        )
    return Split(train, _cars_part(place, classes, lists))


def _cars_part(place: Path, classes: list[str], lists: list[Path]) -> ImageSet:
    path = next((path for path in lists if path.is_file()), lists[0])
    images = place / ("cars_train" if "train" in path.name else "cars_test")
    inner = images / images.name  # one mirror packs the folder into itself
    images = inner if inner.is_dir() else images
    rows = [(images / str(row["fname"]), classes[int(row["class"]) - 1]) for row in _mat(path, "annotations")]
    return listed(classes, rows, f"'{path}'")


def _mat(path: Path, key: str) -> list:  # type: ignore[type-arg]  # rows of a MATLAB structure, typed by nobody
    from scipy.io import loadmat  # type: ignore[import-untyped]  # scikit-learn brings it along

    try:
        values = loadmat(str(path), squeeze_me=True)[key]
    except Exception as error:  # on damaged files the parser raises whatever it meets
        raise DualLoRAError(f"'{path}' cannot be read ({error}); the devkit of Stanford Cars has one") from error
    return list(values.reshape(-1))


def _images_in(folder: Path) -> bool:
    return any(path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") for path in folder.glob("*.*"))


def read_tiny_imagenet(root: str | Path | None = None, download: bool = True) -> Split:
    """Tiny-ImageNet: 200 classes of 64 px; val/ is the test set, as everywhere (test/ has no labels).

    An array file tiny-imagenet.npz (as `read_npz` takes it) in the folder, or beside it, serves as well.

    Raises:
        DualLoRAError: nothing there and nothing to be downloaded, or annotations that do not fit the classes.
    """
    base = data_root(root)
    if find(TINY_IMAGENET, base) is None and (base / "tiny-imagenet.npz").is_file():
        return read_npz(base / "tiny-imagenet.npz", held_out=0.2)
    place = located(TINY_IMAGENET, root, download)
    if (place / "tiny-imagenet.npz").is_file():
        return read_npz(place / "tiny-imagenet.npz", held_out=0.2)
    pairs = class_folders(place / "train", "images") or class_folders(place / "train")
    classes = sorted({name for _, name in pairs})
    train = listed(classes, pairs, f"'{place / 'train'}'")
    annotations, flat = place / "val" / "val_annotations.txt", place / "val" / "images"
    if annotations.is_file() and _images_in(flat):  # else it was sorted into folders since
        rows = read_rows(annotations, 2, "val_0.JPEG n03444034 0 32 44 62")
        held = [(flat / row[0], row[1]) for row in rows]
        strange = sorted({name for _, name in held} - set(classes))
        if strange:
            raise DualLoRAError(
                f"'{annotations}' names the class {strange[0]!r}, of which '{place}' has no training image"
            )
        return Split(train, listed(classes, held, f"'{annotations}'"))
    held = class_folders(flat) or class_folders(place / "val", "images") or class_folders(place / "val")
    return Split(train, listed(classes, held, f"'{place / 'val'}'"))

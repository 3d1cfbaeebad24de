"""Where torchvision fetches its data sets from and into which of its folders: for those who must do so by hand.

Written down here, for torchvision keeps it in a different place for each data set, for some only inside a function. The
tests hold it to what the installed torchvision would fetch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """Where the files of a data set come from.

    Attributes:
        addresses: any of them, followed by the name of a file, leads to it.
        files: all that are needed.
        folder: of torchvision's own, in the data set's, where it looks for what is in them; "" where there is none.
    """

    addresses: tuple[str, ...]
    files: tuple[str, ...]
    folder: str = ""

    @property
    def archives(self) -> tuple[str, ...]:
        """The files that have to be unpacked."""
        return tuple(file for file in self.files if not file.endswith(".mat"))

    def told(self, own: Path) -> str:
        """What to fetch, from where, and where to put it, with the data set's folder."""
        if len(self.files) == 1:
            them, what = "it", " or ".join(f"{address}{self.files[0]}" for address in self.addresses)
        else:
            them, what = "them", f"{spoken(self.files)} from {' or '.join(self.addresses)}"
        some = them if self.archives == self.files else spoken(self.archives)
        put = f"put {them} into '{own / self.folder}'"
        return f"fetch {what} on a machine with network" + (
            f", {put} and unpack {some} there" if some else f" and {put}"
        )


def spoken(names: Sequence[str]) -> str:
    """Names as one says them.

    >>> spoken(["a.gz", "b.gz", "c.gz"])
    'a.gz, b.gz and c.gz'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# Of MNIST, and of what was made after its pattern.
_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"

ORIGINS: dict[str, Origin] = {
    "cifar10": Origin((_TORONTO,), ("cifar-10-python.tar.gz",)),
    "cifar100": Origin((_TORONTO,), ("cifar-100-python.tar.gz",)),
    "mnist": Origin(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"), _IDX, "MNIST/raw"
    ),
    "fashion-mnist": Origin(("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",), _IDX, "FashionMNIST/raw"),
    "kmnist": Origin(("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",), _IDX, "KMNIST/raw"),
    "svhn": Origin(("http://ufldl.stanford.edu/housenumbers/",), ("train_32x32.mat", "test_32x32.mat")),
    "stl10": Origin(("http://ai.stanford.edu/~acoates/stl10/",), ("stl10_binary.tar.gz",)),
    "flowers102": Origin(
        (f"{_OXFORD}flowers/102/",), ("102flowers.tgz", "imagelabels.mat", "setid.mat"), "flowers-102"
    ),
    "food101": Origin(("http://data.vision.ee.ethz.ch/cvl/",), ("food-101.tar.gz",)),
    "dtd": Origin((f"{_OXFORD}dtd/download/",), ("dtd-r1.0.1.tar.gz",), "dtd"),
    "aircraft": Origin((f"{_OXFORD}fgvc-aircraft/archives/",), ("fgvc-aircraft-2013b.tar.gz",)),
    "pets": Origin((f"{_OXFORD}pets/data/",), ("images.tar.gz", "annotations.tar.gz"), "oxford-iiit-pet"),
    "eurosat": Origin(
        ("https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/",),
        ("EuroSAT.zip",),
        "eurosat",
    ),
    "gtsrb": Origin(
        ("https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",),
        ("GTSRB-Training_fixed.zip", "GTSRB_Final_Test_Images.zip", "GTSRB_Final_Test_GT.zip"),
        "gtsrb",
    ),
    "imagenette": Origin(("https://s3.amazonaws.com/fast-ai-imageclas/",), ("imagenette2.tgz",)),
    "omniglot": Origin(
        ("https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",),
        ("images_background.zip", "images_evaluation.zip"),
        "omniglot-py",
    ),
}
"""By the names of `list_named`; each address ends where the name of a file follows."""

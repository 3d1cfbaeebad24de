"""Where images come from and how they are prepared. Importing this does not import torchvision."""

from duallora.data.arrays import from_arrays, read_npz
from duallora.data.batches import Batches
from duallora.data.folder import read_domains, read_folder, scan_classes
from duallora.data.images import MAX_PIXELS, UnreadableImage, decode
from duallora.data.imageset import ImageSet, Skipped, Split
from duallora.data.named import list_named, load_named, open_domains, open_source
from duallora.data.transforms import (
    Augment,
    Preprocessing,
    evaluation_transform,
    normalise,
    training_transform,
)

__all__ = [
    "MAX_PIXELS",
    "Augment",
    "Batches",
    "ImageSet",
    "Preprocessing",
    "Skipped",
    "Split",
    "UnreadableImage",
    "decode",
    "evaluation_transform",
    "from_arrays",
    "list_named",
    "load_named",
    "normalise",
    "open_domains",
    "open_source",
    "read_domains",
    "read_folder",
    "read_npz",
    "scan_classes",
    "training_transform",
]

"""From decoded images to what the backbone sees: resize, crop, augmentation, normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from duallora.compat import import_torchvision
from duallora.errors import DualLoRAError, unknown

Augment = Literal["none", "crop", "shift", "standard"]
"""`standard`: random crop and flip; `crop`: milder random crop, no flip (digits, text); `shift`: by up to an eighth of
the side, and flip, for images so small that a crop would blur them; `none`: as in evaluation."""

DRAWS = 5
"""Random numbers that one training image takes: area, shape, top, left, flip."""

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_RATIO = 4 / 3  # crops are between 3:4 and 4:3, as in v2.RandomResizedCrop
_SHIFT = 8  # a shift goes up to this part of the side: 4 of 32 pixels, as is usual for CIFAR
_SMALLEST_CROP: dict[str, float] = {"standard": 0.5, "crop": 0.7}  # where nobody says otherwise


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone expects of its images.

    Attributes:
        size: side of the square image in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        interpolation: nearest, bilinear or bicubic.
        crop_pct: share of the resized shorter side that the centre crop keeps.

    Raises:
        DualLoRAError: a value outside its range.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.size < 1:
            raise DualLoRAError(f"the image size is {self.size}, expected 1 pixel or more")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise DualLoRAError(f"mean {self.mean} and std {self.std}: expected 3 numbers each, std above 0")
        if self.interpolation not in _INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, _INTERPOLATIONS)
        if not 0 < self.crop_pct <= 1:
            raise DualLoRAError(f"crop_pct is {self.crop_pct}, expected 0 < crop_pct <= 1")

    def unnormalised(self) -> Preprocessing:
        """The same with values in [0, 1] left as they are.

        >>> Preprocessing(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).unnormalised().std
        (1.0, 1.0, 1.0)
        """
        return replace(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values.

        >>> Preprocessing(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).to_json()["interpolation"]
        'bicubic'
        """
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def apply(self, images: Tensor) -> Tensor:
        """Prepare for evaluation (resize, crop, normalise): uint8 (..., 3, h, w) to float32 (..., 3, size, size)."""
        return normalise(evaluation_transform(self)(images), self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The reverse of `to_json`.

        Raises:
            DualLoRAError: an unknown or a missing key, or a value that does not fit.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown("preprocessing key", key, known)
        try:
            return cls(**values)
        except TypeError as error:
            raise DualLoRAError(f"preprocessing {dict(values)} cannot be read: {error}") from error


@dataclass(frozen=True)
class EvaluationTransform:
    """Resize the shorter side, crop the centre; see `evaluation_transform`."""

    preprocessing: Preprocessing

    def __call__(self, images: Tensor, draws: Sequence[float] | None = None) -> Tensor:
        """Uint8 (..., 3, height, width) to uint8 (..., 3, size, size); `draws` is ignored, nothing is random here."""
        whole = resized(images, self.preprocessing)
        cropped: Tensor = _functional().center_crop(whole, [self.preprocessing.size] * 2)
        return cropped


@dataclass(frozen=True)
class TrainingTransform:
    """Random crop or shift, and flip, whose random numbers can be given; see `training_transform`."""

    preprocessing: Preprocessing
    augment: Augment
    smallest: float | None = None

    def __call__(self, image: Tensor, draws: Sequence[float] | None = None) -> Tensor:
        """Uint8 (3, height, width) to uint8 (3, size, size).

        Args:
            image: one decoded image.
            draws: `DRAWS` numbers in [0, 1); drawn from torch's global generator when left out.
        """
        numbers = torch.rand(DRAWS).tolist() if draws is None else draws
        result = self._shifted(image, numbers) if self.augment == "shift" else self._cropped(image, numbers)
        return result.flip(-1) if self.augment != "crop" and numbers[4] < 0.5 else result

    def _cropped(self, image: Tensor, numbers: Sequence[float]) -> Tensor:
        smallest = self.smallest or _SMALLEST_CROP[self.augment]
        top, left, height, width = crop_box(numbers, image.shape[-2], image.shape[-1], smallest)
        size = self.preprocessing.size
        # v2's functions with parameters drawn by ourselves, not v2.RandomResizedCrop: that one draws from the global
        # generator, so the images would depend on whatever else drew from it and on the number of workers. It is also
        # faster (one core, 64 px: 12,000 images/s against 7,000; a batched bicubic grid_sample makes 3,400).
        cropped: Tensor = _functional().resized_crop(
            image, top, left, height, width, [size, size], interpolation=_mode(self.preprocessing), antialias=True
        )
        return cropped

    def _shifted(self, image: Tensor, numbers: Sequence[float]) -> Tensor:
        size = self.preprocessing.size
        margin = size // _SHIFT
        whole = EvaluationTransform(self.preprocessing)(image)
        wide = _functional().pad(whole, [margin], padding_mode="reflect")
        top, left = (int(number * (2 * margin + 1)) for number in numbers[2:4])
        shifted: Tensor = wide[..., top : top + size, left : left + size]
        return shifted


def resized(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Shorter side as evaluation has it, round(size / crop_pct), nothing cropped: uint8 (..., 3, h, w) to the same.

    Square images not larger than `size` come out at `size`; what it has resized once it leaves as it is.

    >>> p = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_pct=0.8)
    >>> resized(torch.zeros(3, 60, 90, dtype=torch.uint8), p).shape
    torch.Size([3, 40, 60])
    """
    p, (height, width) = preprocessing, images.shape[-2:]
    # Small square images (CIFAR, digits) have no border to spare: a crop would only cut the object.
    small = height == width and height <= p.size
    scale = (p.size if small else round(p.size / p.crop_pct)) / min(height, width)
    sides = [max(p.size, round(height * scale)), max(p.size, round(width * scale))]
    if sides == [height, width]:
        return images
    larger: Tensor = _functional().resize(images, sides, interpolation=_mode(p), antialias=True)
    return larger


def evaluation_transform(preprocessing: Preprocessing) -> EvaluationTransform:
    """The transform of test images: shorter side to round(size / crop_pct), then the centre (size, size).

    Square images not larger than `size` are only resized. One image or a batch of equal sizes may be given.

    >>> p = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_pct=0.9)
    >>> evaluation_transform(p)(torch.zeros(5, 3, 60, 80, dtype=torch.uint8)).shape
    torch.Size([5, 3, 32, 32])
    """
    return EvaluationTransform(preprocessing)


def training_transform(
    preprocessing: Preprocessing, augment: Augment = "standard", smallest: float | None = None
) -> TrainingTransform | EvaluationTransform:
    """The transform of training images, uint8 (3, h, w) to uint8 (3, size, size).

    Args:
        preprocessing: of the backbone.
        augment: see `Augment` for the kinds.
        smallest: share of an image's area that a crop keeps at least; by default 0.5, of the kind `crop` 0.7.

    Raises:
        DualLoRAError: unknown kind of augmentation.
    """
    if augment not in get_args(Augment):
        raise unknown("augmentation", str(augment), get_args(Augment))
    if augment == "none":
        return EvaluationTransform(preprocessing)
    return TrainingTransform(preprocessing, augment, smallest)


def crop_box(draws: Sequence[float], height: int, width: int, smallest: float) -> tuple[int, int, int, int]:
    """A random crop: top, left, height, width, inside the image.

    Its area is between `smallest` and all of the image's, its shape between 3:4 and 4:3 (even in log scale); a box that
    would not fit is shrunk until it does, where `v2.RandomResizedCrop` draws again and in the end takes the centre.

    >>> crop_box([1.0, 0.5, 0.0, 0.0, 0.0], 8, 8, smallest=0.5)
    (0, 0, 8, 8)
    """
    area = height * width * (smallest + (1 - smallest) * draws[0])
    ratio = _RATIO ** (2 * draws[1] - 1)
    box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    fit = min(1.0, width / box_width, height / box_height)
    crop_height = min(height, max(1, round(box_height * fit)))
    crop_width = min(width, max(1, round(box_width * fit)))
    top = int(draws[2] * (height - crop_height + 1))
    left = int(draws[3] * (width - crop_width + 1))
    return top, left, crop_height, crop_width


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Uint8 (..., 3, h, w) to float32 of the same shape: (value / 255 - mean) / std per channel."""
    scale = torch.tensor([1 / (255 * std) for std in preprocessing.std], device=images.device)
    shift = torch.tensor([m / s for m, s in zip(preprocessing.mean, preprocessing.std, strict=True)])
    return images.float().mul_(scale.view(3, 1, 1)).sub_(shift.to(images.device).view(3, 1, 1))


def _functional() -> Any:
    import_torchvision()
    from torchvision.transforms.v2 import functional

    return functional


def _mode(preprocessing: Preprocessing) -> Any:
    import_torchvision()
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(preprocessing.interpolation)

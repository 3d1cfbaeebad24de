"""Blending of training images with one another, of their labels in the same shares, and of labels with all others."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from duallora.compat import import_torchvision

Mix = Literal["none", "mixup", "cutmix", "both"]
"""`mixup`: weighted sums of two images; `cutmix`: a box of one in the other; `both`: each batch by either."""

MIXUP_ALPHA, CUTMIX_ALPHA = 0.8, 1.0  # of the Beta distribution of the share, as DeiT is trained (arXiv 2012.12877)


class Mixing:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899) by torchvision.

    What is drawn is a function of the seed and the step alone, whatever the method draws meanwhile.

    Args:
        kind: see `Mix`, but not "none".
        classes: C, how many class indices there are.
        seed: not negative.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 2])
    >>> mixed, shares = Mixing("both", classes=3, seed=0)(images, labels, step=0)
    >>> mixed.shape, shares.shape, shares.sum(1).round(decimals=4).tolist()
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]), [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(self, kind: Mix, classes: int, seed: int) -> None:
        """Make the transforms."""
        import_torchvision()
        from torchvision.transforms import v2

        mixup = v2.MixUp(alpha=MIXUP_ALPHA, num_classes=classes)
        cutmix = v2.CutMix(alpha=CUTMIX_ALPHA, num_classes=classes)
        self._transforms = {"mixup": [mixup], "cutmix": [cutmix], "both": [mixup, cutmix]}[kind]
        self._seed = seed

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """A batch: (b, 3, S, S) and (b,) to images of the same shape and the shares of the classes, (b, C) float32."""
        with torch.random.fork_rng(devices=[]):  # the shares and boxes are drawn on the CPU
            torch.default_generator.manual_seed((self._seed * 1_000_003 + step) % 2**63)
            transform = self._transforms[int(torch.randint(len(self._transforms), ()))]
            mixed, shares = transform(images, labels)
        return mixed, shares.float()


class Smoothing:
    """Labels as shares of a task's classes (Szegedy et al. 2016, arXiv 1512.00567): 1 - eps of the label, eps of all.

    Args:
        eps: in [0, 1).
        label_map: (classes of the task,) their indices among all.

    >>> Smoothing(0.2, torch.tensor([3, 1]))(torch.tensor([1]))
    tensor([[0.0000, 0.9000, 0.0000, 0.1000]])
    """

    def __init__(self, eps: float, label_map: Tensor) -> None:
        """Prepare what is the same for all labels."""
        own = label_map.unique()
        self.eps, self._even = eps, torch.zeros(int(own.max()) + 1)
        self._even[own] = 1 / len(own)

    def __call__(self, labels: Tensor) -> Tensor:
        """Class indices (b,), or shares (b, C), to shares (b, C) float32."""
        shares = labels if labels.is_floating_point() else F.one_hot(labels, len(self._even)).float()
        return (1 - self.eps) * shares + self.eps * self._even.to(labels.device)

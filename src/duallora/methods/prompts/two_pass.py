"""What the prompt methods share: a frozen pass for the query, keys that are matched with it, a prompted pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import Cost, Encoding, MethodConfig, Shrinkage, State
from duallora.methods.reading import ReadingMethod


class PromptConfig(MethodConfig):
    """Options of every prompt method."""

    readout: Literal["heads", "tasks", "gaussian", "quadratic", "product"] = "heads"
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class TwoPassMethod(ReadingMethod):
    """A method that asks the frozen network which prompts an image gets, then runs it with them.

    Prompts are chosen for each image by itself. Public code of this family also has a choice by majority over the
    batch, which tells the task of a test image by its neighbours wherever test images come task by task.
    """

    def query(self, images: Tensor) -> Tensor:
        """q(x) (b, d), float32: the frozen network's own feature; prompts are in place only within `prompted`."""
        with torch.no_grad():
            return self.backbone(images, levels=False).float()

    @abstractmethod
    def prompted(self, images: Tensor, query: Tensor) -> Tensor:
        """Features (b, d) of a second pass, with the prompts that the query (b, d) chooses; float32."""

    def encode(self, images: Tensor) -> Encoding:
        """Two passes; every read-out, the statistics at the end of a task included, sees the prompted features."""
        return Encoding(self.prompted(images, self.query(images)))

    def cost(self) -> Cost:
        """As any method's, with the query pass."""
        return replace(super().cost(), passes_per_image=2.0)


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """Cosine similarity of queries (b, d) and keys (M, d): (b, M), float32 even under autocast.

    >>> cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
    tensor([[1.0000, 0.0000, 0.7071]])
    """
    with torch.autocast(query.device.type, enabled=False):  # bfloat16 would make ties where there are none
        return F.normalize(query.float(), dim=1) @ F.normalize(keys.float(), dim=1).T


def small_uniform(*shape: int) -> Tensor:
    """Uniform in [0, 0.01): how the authors' code starts the keys and prompts of L2P and DualPrompt."""
    return torch.rand(shape) * 0.01


def restore(parameters: Iterable[tuple[str, nn.Parameter]], state: State) -> None:
    """Copy saved tensors into parameters by name.

    Raises:
        DualLoRAError: one is missing or has another shape.
    """
    for name, own in parameters:
        own.data.copy_(saved_tensor(state, name, own.shape))

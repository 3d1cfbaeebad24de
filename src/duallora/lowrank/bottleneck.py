"""Bottleneck adapters beside the MLP of a block, and where those MLPs are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank.adapted import block_indices


class Bottleneck(nn.Module):
    """x -> s ReLU(x D^T + a) U^T + s b, with D (r, d) random and U (d, r), a, b zero at the start.

    >>> import torch
    >>> Bottleneck(8, rank=2, scale=0.1)(torch.ones(1, 3, 8)).abs().sum().item()
    0.0
    """

    def __init__(self, dim: int, rank: int, scale: float) -> None:
        """Over tokens of d = `dim`; `rank` is the width r of the bottleneck, `scale` is s."""
        super().__init__()
        self.scale = scale
        self.down, self.up = nn.Linear(dim, rank), nn.Linear(rank, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added: (..., d) -> (..., d)."""
        y: Tensor = self.up(F.relu(self.down(x))) * self.scale
        return y


def mlps(network: nn.Module, attention: Sequence[nn.Module], blocks: Sequence[int] | None = None) -> list[nn.Module]:
    """The MLPs that stand in the same blocks as these attention modules.

    Args:
        network: that contains the blocks.
        attention: the attention module of each block.
        blocks: block indices, negative from the end; None is all of them.

    Raises:
        DualLoRAError: a block that does not exist, or that has no `mlp`, or one that carries a hook already.
    """
    owners = {id(child): module for module in network.modules() for child in module.children()}
    found = []
    for b in block_indices(len(attention), blocks):
        mlp = getattr(owners.get(id(attention[b])), "mlp", None)
        if not isinstance(mlp, nn.Module):
            raise DualLoRAError(f"block {b} has no `mlp` to put an adapter beside; load a plain vision transformer")
        if mlp._forward_hooks:
            raise DualLoRAError(
                f"block {b}: its MLP carries an adapter already; a backbone carries one method, "
                "load another with load_backbone(...)"
            )
        found.append(mlp)
    return found

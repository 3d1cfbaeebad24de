"""Low-rank updates of chosen outputs of a frozen linear map, attached by wrapping timm's own module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.errors import DualLoRAError, unknown

TARGETS = ("query", "key", "value", "proj")


@dataclass(frozen=True)
class Slot:
    """One linear map of one block and the parts of its output that are adapted.

    Attributes:
        block: index of the block.
        owner: the attention module; `owner.<attribute>` is the linear.
        attribute: "qkv" or "proj".
        rows: target name -> (first output, number of outputs).
    """

    block: int
    owner: nn.Module
    attribute: str
    rows: dict[str, tuple[int, int]]

    @property
    def linear(self) -> nn.Linear:
        """The map as it stands (wrapped or not)."""
        linear: nn.Linear = getattr(self.owner, self.attribute)
        return linear

    def attach(self, wrapper: nn.Module) -> None:
        """Put a wrapper in the map's place."""
        setattr(self.owner, self.attribute, wrapper)


def block_indices(depth: int, blocks: Sequence[int] | None = None, option: str = "blocks") -> list[int]:
    """The chosen ones of `depth` blocks, from the first to the last; negative indices count from the end, None is all.

    `option` is what errors call them.

    >>> block_indices(6, (-1, 0))
    [0, 5]

    Raises:
        DualLoRAError: a block that does not exist, or none at all.
    """
    if blocks is not None and not blocks:
        raise DualLoRAError(f"{option}: none is named; give some of 0 to {depth - 1}, or leave the option out")
    chosen = range(depth) if blocks is None else blocks
    for b in chosen:
        if not -depth <= b < depth:
            raise DualLoRAError(f"{option}: {b} does not exist; this backbone has blocks 0 to {depth - 1}")
    return sorted({b % depth for b in chosen})


def slots(attention: Sequence[nn.Module], targets: Iterable[str], blocks: Sequence[int] | None = None) -> list[Slot]:
    """Where updates go: one slot per block for the fused qkv map, one for the output projection.

    Args:
        attention: the attention module of each block.
        targets: any of "query", "key", "value", "proj".
        blocks: block indices, negative from the end; None is all of them.

    Raises:
        DualLoRAError: an unknown target, a block that does not exist, or a map that is wrapped already.
    """
    wanted = tuple(dict.fromkeys(targets))
    for target in wanted:
        if target not in TARGETS:
            raise unknown("placement", target, TARGETS)
    found = []
    for b in block_indices(len(attention), blocks):
        owner = attention[b]
        for attribute in ("qkv", "proj"):
            linear = getattr(owner, attribute)
            if not isinstance(linear, nn.Linear):
                raise DualLoRAError(
                    f"block {b}: {attribute} is a {type(linear).__name__}, not a plain Linear; "
                    "a backbone carries one method, load another with load_backbone(...)"
                )
            third = linear.out_features // 3
            names = ["proj"] if attribute == "proj" else ["query", "key", "value"]
            width = linear.out_features if attribute == "proj" else third
            rows = {
                name: (i * third if attribute == "qkv" else 0, width) for i, name in enumerate(names) if name in wanted
            }
            if rows:
                found.append(Slot(b, owner, attribute, rows))
    return found


class LowRank(nn.Module):
    """A trainable update x -> x A^T B^T with A (r, d) random and B (rows, r) zero at the start (Hu et al. 2022, eq. 3).

    >>> LowRank(8, 4, rank=2)(torch.ones(1, 3, 8)).abs().sum().item()
    0.0
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        """Kaiming-uniform A as in the LoRA reference, B = 0."""
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The update of x (..., d): (..., rows)."""
        return F.linear(F.linear(x, self.A), self.B)

    def matrix(self) -> Tensor:
        """B A (rows, d), float32."""
        return self.B.detach().float() @ self.A.detach().float()


class AdaptedLinear(nn.Module):
    """A frozen linear map with one low-rank update per target; scaled by `scale` (alpha / r in LoRA's terms)."""

    def __init__(self, slot: Slot, rank: int, scale: float = 1.0) -> None:
        """Wrap the slot's map; call `slot.attach(self)` to put it in place."""
        super().__init__()
        self.base = slot.linear
        self.rows = dict(slot.rows)
        self.scale = scale
        self.updates = nn.ModuleDict(
            {name: LowRank(self.base.in_features, n, rank) for name, (_, n) in self.rows.items()}
        )

    def update_of(self, name: str) -> LowRank:
        """The update of one target."""
        return cast(LowRank, self.updates[name])

    @property
    def weight(self) -> Tensor:
        """The frozen map's weight, for code that looks for it."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> (..., outputs)."""
        y: Tensor = self.base(x)
        for name, (first, width) in self.rows.items():
            y.narrow(-1, first, width).add_(self.updates[name](x), alpha=self.scale)
        return y

"""Prefix keys and values inside a frozen attention module: prefix tuning without a copy of any attention code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank import Slot, slots

# Where timm's plain attention lives, by version. Other classes act on keys between the qkv map and the softmax.
PLAIN = {("timm.layers.attention", "Attention"), ("timm.models.vision_transformer", "Attention")}


class PrefixSite(nn.Module):
    """Lets every token of one block attend to L more keys and values than there are tokens.

    With a prefix (p_K, p_V) set, each head computes softmax(q [p_K; K]^T / sqrt(c)) [p_V; V], the prefix tuning of
    DualPrompt (Wang et al. 2022, arXiv 2204.04799); without one the block is untouched. The prefix stands for keys and
    values *after* their projection, as in the public code of DualPrompt and of CODA-Prompt; a prefix before it would be
    the same with other parameters. A network that normalises its keys normalises these too.

    timm's module stays in place and does the attention: its input is lengthened by L rows, whose queries are zero,
    whose keys and values are the prefix, and whose outputs are cut off again.
    """

    def __init__(self, slot: Slot) -> None:
        """Take the place of the slot's fused qkv map."""
        super().__init__()
        self.base = slot.linear
        self.prefix: Tensor | None = None  # (b, 2, L, d), set for one pass only: see `inserted`
        slot.attach(self)
        slot.owner.register_forward_pre_hook(self._lengthen)
        slot.owner.register_forward_hook(self._shorten)

    @property
    def weight(self) -> Tensor:
        """The frozen map's weight, for code that looks for it."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """x (b, L + N, d), of which the first L rows are padding -> (b, L + N, 3 d)."""
        if self.prefix is None:
            y: Tensor = self.base(x)
            return y
        y = self.base(x[:, self.prefix.shape[2] :])
        keys, values = self.prefix.unbind(1)
        rows = torch.cat([torch.zeros_like(keys), keys, values], dim=-1)
        return torch.cat([rows.to(y.dtype), y], dim=1)

    def _lengthen(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.prefix is None:
            return None
        return (F.pad(args[0], (0, 0, self.prefix.shape[2], 0)), *args[1:])

    def _shorten(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return None if self.prefix is None else output[:, self.prefix.shape[2] :]


def attach(attention: Sequence[nn.Module], blocks: Sequence[int]) -> dict[int, PrefixSite]:
    """A site in each of the given blocks, by index.

    Raises:
        DualLoRAError: a block does not exist, its attention is none of timm's plain ones, or it is wrapped already.
    """
    for b, owner in enumerate(attention):
        if not any((c.__module__, c.__name__) in PLAIN for c in type(owner).__mro__):
            raise DualLoRAError(
                f"block {b}: prefixes cannot enter a {type(owner).__name__}, which may turn or bias keys by position; "
                "take a plain timm vision transformer, e.g. 'vit_small_patch16_224', or a method without prefixes"
            )
    return {slot.block: PrefixSite(slot) for slot in slots(attention, ("key", "value"), blocks)}


@contextmanager
def inserted(sites: Mapping[int, PrefixSite], prefixes: Mapping[int, Tensor]) -> Iterator[None]:
    """Set prefixes (b, 2, L, d) by block for the passes within; afterwards the network is the frozen one again."""
    for block, prefix in prefixes.items():
        sites[block].prefix = prefix
    try:
        yield
    finally:
        for site in sites.values():
            site.prefix = None

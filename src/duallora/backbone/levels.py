"""Features from several depths of one pass: what the last blocks hold of an image, beside the final class token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST = 2304  # as many features as `levels=None` takes at most: their covariance is the largest thing a model keeps


class Levels:
    """Collects, from the last k blocks during a pass, the class token and the mean patch token.

    A linear read-out of a network's end alone throws away what earlier blocks knew, and patches hold what the class
    token did not ask for. Each vector is layer-normalised (no parameters), for the residual stream grows with depth.
    The last block's class token is left out: the final feature is that, normalised.
    """

    def __init__(self, vit: nn.Module, count: int) -> None:
        """Listen to the last `count` blocks of a timm vision transformer; 0 listens to none."""
        self.count, self.class_token = count, bool(vit.has_class_token)
        self.prefix: int = vit.num_prefix_tokens  # type: ignore[assignment]
        self.vit = vit
        self.seen: list[tuple[Tensor, Tensor]] = []  # class token and mean patch token (b, d), float32, of each block
        self.listening = True
        for block in list(vit.blocks)[len(vit.blocks) - count :]:  # type: ignore[arg-type]
            block.register_forward_hook(self._see)

    def listen(self, wanted: bool) -> None:
        """Before a pass: whether its levels will be asked for."""
        self.listening = wanted
        self.seen.clear()  # of a pass that broke off, or that somebody took through `vit` itself

    def _see(self, _block: nn.Module, _inputs: object, tokens: Tensor) -> None:
        if not self.listening:
            return
        # Copies: a view would keep the tokens of all blocks in memory until the pass ends.
        first = tokens[:, 0].to(torch.float32, copy=True)
        patches: int = self.vit.patch_embed.num_patches  # type: ignore[union-attr, assignment]
        # Tokens that a method appended to the sequence are none of the image.
        mean = tokens[:, self.prefix : self.prefix + patches].mean(1, dtype=torch.float32)
        self.seen.append((first, mean))

    @staticmethod
    def width(dim: int, count: int, class_token: bool) -> int:
        """Number of features for tokens of width `dim`.

        >>> Levels.width(192, 6, class_token=True)
        2304
        """
        return dim * max(1, count * (2 if class_token else 1))

    def take(self, final: Tensor) -> Tensor:
        """Features (b, D) = [final, levels from the last block backwards] of the pass that has just ended.

        Args:
            final: (b, d) the network's own feature.
        """
        seen, self.seen = self.seen, []
        if not seen:
            return final
        parts: list[Tensor] = []
        for depth, (first, mean) in enumerate(reversed(seen)):
            if depth and self.class_token:
                parts.append(first)
            if depth or self.class_token:  # without a class token the final feature is the last mean already
                parts.append(mean)
        if not parts:
            return final
        with torch.autocast(final.device.type, enabled=False):
            levels = F.layer_norm(torch.stack(parts, 1), final.shape[-1:])
        return torch.cat([final.float(), levels.flatten(1)], 1)


def fitting(dim: int, depth: int, class_token: bool) -> int:
    """How many levels stay within WIDEST features; at least one.

    >>> fitting(192, 6, True), fitting(768, 12, True)
    (6, 1)
    """
    return max(1, min(depth, WIDEST // Levels.width(dim, 1, class_token)))

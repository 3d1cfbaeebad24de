"""Prompt tokens at the input of a frozen transformer, and what is read at its output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from duallora.errors import DualLoRAError

Pooled = Literal["prompts", "token"]


class InputTokens:
    """Puts tokens behind the embedded image before the first block, and takes them out after the final norm.

    Positions are added before the first block, so where in the sequence the tokens stand makes no difference; behind
    the others they leave the class token where the backbone looks for it. `pooled` says what the backbone then reads:
    its own feature ("token": the class token, or the mean of the patch tokens where there is none), or the mean of the
    outputs of the prompt tokens ("prompts").
    """

    def __init__(self, backbone: object, pooled: Pooled) -> None:
        """Hook the first block and the final norm; both do nothing unless tokens are set.

        Raises:
            DualLoRAError: `backbone` is no timm vision transformer.
        """
        vit = getattr(backbone, "vit", None)
        blocks, norm = getattr(vit, "blocks", None), getattr(vit, "norm", None)
        if not isinstance(blocks, nn.Sequential) or not isinstance(norm, nn.Module):
            raise DualLoRAError(
                f"prompt tokens cannot enter a {type(vit or backbone).__name__}: it has no `blocks` and `norm`; "
                "take a backbone from load_backbone(...)"
            )
        self.pooled = pooled
        self.tokens: Tensor | None = None  # (b, P, d), set for one pass only
        blocks[0].register_forward_pre_hook(self._put_in)
        norm.register_forward_hook(self._take_out)

    def _put_in(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.tokens is None:
            return None
        return (torch.cat([args[0], self.tokens.to(args[0].dtype)], dim=1), *args[1:])

    def _take_out(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self.tokens is None:
            return None
        count = self.tokens.shape[1]
        image = output[:, :-count]
        if self.pooled == "token":
            return image
        # In every place of the sequence, so that any pooling of the backbone yields this mean.
        return output[:, -count:].mean(dim=1, keepdim=True).expand_as(image)

    @contextmanager
    def inserted(self, tokens: Tensor) -> Iterator[None]:
        """Set tokens (b, P, d) for the passes within; afterwards the network is the frozen one again."""
        self.tokens = tokens
        try:
            yield
        finally:
            self.tokens = None

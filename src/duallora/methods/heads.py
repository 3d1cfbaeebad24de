"""One linear head per task, concatenated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Heads(nn.Module):
    """Linear heads over the first d features: `grow` adds one and freezes the earlier ones.

    Training uses the newest head alone (local cross-entropy over the current task's classes), prediction all of them.
    """

    def __init__(self, dim: int) -> None:
        """No head yet; `dim` is d."""
        super().__init__()
        self.dim = dim
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()

    def grow(self, classes: int, freeze: bool = True) -> None:
        """Add a head of `classes` rows, small random weights; earlier heads stop training if `freeze`."""
        for parameter in self.parameters():
            parameter.requires_grad_(not freeze)
        device = self.weights[0].device if len(self.weights) else None
        weight = torch.empty(classes, self.dim)
        nn.init.trunc_normal_(weight, std=0.02)
        self.weights.append(nn.Parameter(weight.to(device)))
        self.biases.append(nn.Parameter(torch.zeros(classes, device=device)))

    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Set the newest head, weight (classes, d) and bias (classes,), before it trains; its logits are centred.

        A class without images, whose bias is -inf, starts as the least likely of the others.
        """
        seen = bias.isfinite()
        if not seen.all():
            least = bias[seen].min() if seen.any() else bias.new_zeros(())
            bias = torch.where(seen, bias, least)
        with torch.no_grad():
            self.weights[-1].copy_(weight)
            self.biases[-1].copy_(bias)
        self.centre()

    def centre(self) -> None:
        """Take the mean over the newest head's classes out of its logits: a softmax over them is blind to it."""
        with torch.no_grad():
            self.weights[-1] -= self.weights[-1].mean(0)
            self.biases[-1] -= self.biases[-1].mean()

    def clear(self) -> None:
        """Forget all heads."""
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()

    def newest(self, features: Tensor) -> Tensor:
        """Logits of the newest head: (b, D) -> (b, classes of the task)."""
        return F.linear(features[:, : self.dim], self.weights[-1], self.biases[-1])

    def forward(self, features: Tensor) -> Tensor:
        """Logits of all heads: (b, D) -> (b, R)."""
        return F.linear(features[:, : self.dim], torch.cat(list(self.weights)), torch.cat(list(self.biases)))

    def state(self) -> dict[str, Tensor]:
        """All heads as two matrices and their sizes."""
        if not len(self.weights):
            return {"sizes": torch.zeros(0, dtype=torch.int64)}
        return {
            "weight": torch.cat(list(self.weights)).detach(),
            "bias": torch.cat(list(self.biases)).detach(),
            "sizes": torch.tensor([len(w) for w in self.weights]),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.clear()
        sizes = state["sizes"].tolist()
        if not sizes:
            return
        for weight, bias in zip(state["weight"].split(sizes), state["bias"].split(sizes), strict=True):
            self.weights.append(nn.Parameter(weight.clone(), requires_grad=False))
            self.biases.append(nn.Parameter(bias.clone(), requires_grad=False))

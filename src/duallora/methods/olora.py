"""O-LoRA: an update per task, each kept orthogonal to those of earlier tasks by a penalty."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from duallora.methods.base import MethodConfig
from duallora.methods.folding import FoldingLoRA
from duallora.methods.lora import AdapterConfig, Placement


class OLoRAConfig(AdapterConfig):
    """Options of `olora`."""

    placement: Placement = Field(("query", "value"), min_length=1, description="adapted maps of each block")
    orthogonality: float = Field(0.5, ge=0, description="lambda, weight of the penalty")
    penalty: Literal["absolute", "squared"] = Field(
        "absolute", description="of the entries of A_i A_t^T: their absolute values or their squares are summed"
    )


class OLoRA(FoldingLoRA):
    """Orthogonal low-rank adaptation (Wang et al. 2023, arXiv 2310.14152): a penalised update per task, all summed.

    "Orthogonal Subspace Learning for Language Model Continual Learning". In task t every adapted map has

        W_t = W_0 + sum_{i <= t} B_i A_i        A_i (r, d), B_i (rows, r)
        loss = CE + lambda sum_{i < t} sum_{jk} (A_i A_t^T)_jk^2 or |(A_i A_t^T)_jk|, summed over the adapted maps

    so that the rows of A_t, the input directions that the new task reads, keep clear of those of earlier tasks.

    Trains: A_t and B_t, the newest head. Frozen: the backbone, earlier updates and heads. Kept per task: A_t, B_t, a
    head (and class Gaussians for the other read-outs). One pass per image, with finished updates folded into the
    map.

    The paper adapts language models by the queries and values of each attention, so these are the default placement.
    It generates its answers; here, as in every method of this library, each task has a head of its own, trained on
    that task's classes and joined to the others for prediction. The paper sums squares ("squared"); the authors'
    trainer absolute values, and the weight 0.5 is that of its scripts; whether it suits a vision backbone is not said
    anywhere. Those scripts also scale updates by alpha / r = 4 and drop inputs out at 0.1: here neither. Their optional
    penalty on the norm of the new factors, which they leave off, is left out. Rate and epochs of language models say
    nothing here: they are the library's.
    """

    name: ClassVar[str] = "olora"
    Config: ClassVar[type[MethodConfig]] = OLoRAConfig
    config: OLoRAConfig

    def overlap(self) -> Tensor:
        """The penalty before weighting."""
        total = torch.zeros((), device=next(self.parameters()).device)
        updates = self.updates()
        with torch.autocast(total.device.type, enabled=False):
            for name, folded in self.folded().items():
                entries = folded.A @ updates[name].A.T  # (R, r), R ranks of all earlier tasks
                total = total + (entries.abs() if self.config.penalty == "absolute" else entries.square()).sum()
        return total

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy and the penalty."""
        loss = super().loss(images, labels)
        return loss + self.config.orthogonality * self.overlap() if len(self.rows.members) > 1 else loss

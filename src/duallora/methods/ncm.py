"""Nearest class mean over frozen features."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F

from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import (
    BackboneLike,
    Batches,
    Encoding,
    Method,
    MethodConfig,
    Output,
    State,
    TaskInfo,
    each,
    part,
)

TEMPERATURE = 0.05  # turns cosines into logits whose softmax serves as a confidence; the argmax is untouched


class NCM(Method):
    """Frozen backbone, cosine to the nearest class mean: the no-adaptation row.

    As SimpleCIL (Zhou et al. 2023, arXiv 2303.07338), but for the means, which are of normalised features, so that no
    image weighs more than another: class c scores cos(f, mu_c), mu_c the mean of f' / |f'| over its images. Nothing
    trains. Kept per task: one mean per class. One pass per image.
    """

    name: ClassVar[str] = "ncm"

    def __init__(self, backbone: BackboneLike, config: MethodConfig) -> None:
        """Nothing is attached."""
        super().__init__(backbone, config)
        self.sums = torch.zeros(0, backbone.features, dtype=torch.float64)

    def trainable(self) -> list[torch.nn.Parameter]:
        """Nothing."""
        return []

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Rows for the new classes."""
        self.rows.add(task.index, task.classes)
        self._first = len(self.sums)
        self._order = torch.tensor(task.classes)
        self.sums = torch.cat([self.sums, self.sums.new_zeros(len(task.classes), self.sums.shape[1])])

    def end_task(self, batches: Batches) -> None:
        """One pass: sum the normalised features of each class."""
        for images, labels in each(batches):
            x = F.normalize(self.encode(images).features, dim=1).cpu().double()
            at = (labels.cpu().unsqueeze(1) == self._order).long().argmax(1) + self._first
            self.sums.index_add_(0, at, x)

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Cosine similarity to each mean, over TEMPERATURE."""
        means = F.normalize(self.sums, dim=1).float().to(encoding.features.device)
        with torch.autocast(means.device.type, enabled=False):
            rows = F.normalize(encoding.features.float(), dim=1) @ means.T / TEMPERATURE
        # A row without images (a class that a domain lacks) must not answer where all cosines are negative.
        return Output(rows.masked_fill(~means.any(1), -torch.inf))

    def state(self) -> State:
        """The sums (their direction is the mean's) and the rows."""
        return {"sums": self.sums} | {f"rows.{k}": v for k, v in self.rows.state().items()}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        self.rows.load_state(part("rows", state))
        self.sums = saved_tensor(state, "sums", (len(self.rows), self.backbone.features)).clone()

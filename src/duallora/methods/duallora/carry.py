"""Carrying earlier class statistics along when features drift."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.methods.readout import Sample

FITTED = 10_000  # images; d + 1 would do where nothing was random


class Carry:
    """The affine change x -> x W + o of features over a task, fitted on the images at hand.

    Earlier classes have no images any more, but the new ones show how the feature space has moved. W is the ridge
    solution pulled towards the identity: minimise ||X_old W + o - X_new||^2 + alpha ||W - I||^2 over the task's
    images. Semantic drift compensation (Yu et al. 2020) moves means by a local average of the same differences; a
    linear map is its smooth form. Features of at most FITTED images, any as likely as any other, are held until `solve`
    and never kept.
    """

    def __init__(self, ridge: float = 1.0) -> None:
        """`ridge` times n / d of the mean square of the old features is alpha."""
        self.ridge = ridge
        self.old, self.new = Sample(FITTED), Sample(FITTED)  # both draw alike, so that they hold the same images

    def before(self, features: Tensor) -> None:
        """Features (b, d) of a batch before training."""
        self.old.add(features.cpu())

    def after(self, features: Tensor) -> None:
        """Features of the same batches in the same order after training."""
        self.new.add(features.cpu())

    def solve(self) -> tuple[Tensor, Tensor]:
        """W (d, d) and o (d,), float64."""
        X, Y = (torch.cat(sample.features).double() for sample in (self.old, self.new))
        d = X.shape[1]
        centre, moved = X.mean(0), Y.mean(0)
        Xc, change = X - centre, (Y - moved) - (X - centre)
        alpha = self.ridge * Xc.square().sum() / d + 1e-12
        # Both are the ridge solution; what is inverted is of the size of the smaller side.
        if len(X) < d:
            K = Xc @ Xc.T + alpha * torch.eye(len(X), dtype=torch.float64)
            delta = Xc.T @ torch.cholesky_solve(change, torch.linalg.cholesky(K))
        else:
            G = Xc.T @ Xc + alpha * torch.eye(d, dtype=torch.float64)
            delta = torch.cholesky_solve(Xc.T @ change, torch.linalg.cholesky(G))
        W = torch.eye(d, dtype=torch.float64) + delta
        return W, moved - centre @ W

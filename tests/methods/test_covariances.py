"""Class covariances and their factors, against numpy."""

from __future__ import annotations

import numpy as np
import torch

from duallora.methods.covariances import ClassCovariances
from duallora.methods.gaussian import ClassGaussians


def data(counts: tuple[int, ...], d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + 3 * r for r, n in enumerate(counts)]
    return torch.cat(parts), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def taught(x: torch.Tensor, y: torch.Tensor, dim: int) -> ClassCovariances:
    covariances, gaussians = ClassCovariances(dim), ClassGaussians(x.shape[1], 0.1)
    rows = int(y.max()) + 1
    covariances.grow(rows)
    gaussians.grow(rows)
    for a, b in zip(x.split(7), y.split(7), strict=True):
        covariances.update(a, b)
        gaussians.update(a, b)
    covariances.seal(gaussians)
    return covariances


def test_factors_draw_features_of_the_covariance_that_numpy_finds() -> None:
    x, y = data((40, 25), d=4)
    covariances = taught(x + 7, y, dim=4)
    for row in (0, 1):
        factor = covariances.factor(row, ridge=0.01).double()
        expected = np.cov(x[y == row].double().numpy().T) + 0.01 * np.eye(4)
        np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-4, atol=1e-4)
        assert factor.triu(1).abs().max() == 0


def test_large_features_still_have_a_factor() -> None:
    x, y = data((6,), d=8)  # fewer images than dimensions, and float32 rounding of 1e6 on the diagonal
    covariances = taught(1e3 * x, y, dim=8)
    assert torch.isfinite(covariances.factor(0, ridge=0.0)).all()

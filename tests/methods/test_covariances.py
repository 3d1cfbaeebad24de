"""Class covariances and their factors, against numpy."""

from __future__ import annotations

import numpy as np
import torch

from duallora.methods.covariances import ClassCovariances
from tests_support import features_of_classes as data
from tests_support import feed


def taught(x: torch.Tensor, y: torch.Tensor, dim: int) -> ClassCovariances:
    covariances = ClassCovariances(dim)
    feed(covariances, x, y)
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

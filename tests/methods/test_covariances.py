"""The quadratic term of the class Gaussians against scipy's densities and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from duallora.methods.covariances import ClassCovariances
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.readout import Readout
from duallora.methods.rows import Rows


def data(counts: tuple[int, ...], d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + 3 * r for r, n in enumerate(counts)]
    return torch.cat(parts), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def taught(x: torch.Tensor, y: torch.Tensor, dim: int, prior: float = 4.0) -> tuple[ClassCovariances, ClassGaussians]:
    covariances, gaussians = ClassCovariances(dim, prior), ClassGaussians(x.shape[1], 0.1)
    rows = int(y.max()) + 1
    covariances.grow(rows)
    gaussians.grow(rows)
    for a, b in zip(x.split(7), y.split(7), strict=True):
        covariances.update(a, b)
        gaussians.update(a, b)
    covariances.seal(gaussians)
    return covariances, gaussians


def test_scores_are_log_densities_under_each_class_covariance() -> None:
    x, y = data((30, 12, 25))
    covariances, gaussians = taught(x, y, dim=5, prior=2.0)
    found = (gaussians.scores(x) + covariances.correction(x, gaussians)).double().numpy()
    shared, expected = gaussians.covariance().numpy(), []
    for r in range(3):
        own = x[y == r].double().numpy()
        n = len(own)
        Sigma = (2 * 5 * shared + (n - 1) * np.cov(own.T)) / (2 * 5 + n - 1)
        expected.append(multivariate_normal(own.mean(0), Sigma).logpdf(x.numpy()))
    expected = np.stack(expected, 1)
    differences = found - expected  # equal up to a term that all rows of an image share
    np.testing.assert_allclose(differences - differences[:, :1], 0, atol=2e-3)


def test_only_the_first_features_count() -> None:
    x, y = data((20, 20), d=6)
    covariances, gaussians = taught(x, y, dim=2)
    other = x.clone()
    other[:, 2:] += 1
    torch.testing.assert_close(covariances.correction(x, gaussians), covariances.correction(other, gaussians))


def test_a_class_of_one_image_takes_the_shared_covariance() -> None:
    x, y = data((20, 1))
    covariances, gaussians = taught(x, y, dim=5)
    assert covariances.correction(x, gaussians)[:, 1].abs().max() < 1e-4


def test_classes_that_differ_in_spread_alone_are_told_apart() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 3, generator=g) * 0.2, torch.randn(200, 3, generator=g) * 2])
    y = torch.arange(400) // 200
    covariances, gaussians = taught(x, y, dim=3)
    linear = gaussians.scores(x)
    right = ((linear + covariances.correction(x, gaussians)).argmax(1) == y).float().mean()
    assert right > 0.9 > 0.7 > (linear.argmax(1) == y).float().mean()


def test_a_row_without_images_spoils_no_loss() -> None:
    """A domain may lack a class: its row competes with nothing."""
    x, y = data((10, 12, 9))
    rows = Rows()
    read = Readout(3, 5, rows)
    for t, classes in enumerate(((0, 1, 5), (2,))):
        rows.add(t, classes)
        read.begin(classes)
        own = torch.isin(y, torch.tensor(classes))
        if t == 0:
            read.collect(x[own], y[own])
            read.finish([x[own]], [y[own]])
    assert torch.isfinite(read.seen_loss(x[y == 2], y[y == 2]))


@pytest.mark.parametrize("later", [False, True])
def test_a_readout_restores_them(later: bool) -> None:
    x, y = data((10, 12, 9, 11))
    rows = Rows()
    read = Readout(3, 5, rows)
    for t, classes in enumerate(((0, 1), (2, 3))):
        rows.add(t, classes)
        read.begin(classes)
        own = torch.isin(y, torch.tensor(classes))
        read.collect(x[own], y[own])
        read.finish([x[own]], [y[own]])
    other = Readout(3, 5, Rows())
    other.load_state({k: v.clone() for k, v in read.state().items()})
    if later:
        for r in (read, other):
            torch.manual_seed(0)
            r.rows.add(2, (4,))
            r.begin((4,))
            r.collect(x[:8] + 1, torch.full((8,), 4))
            r.finish([x[:8] + 1], [torch.full((8,), 4)])
    assert torch.equal(read.scores(x, "quadratic"), other.scores(x, "quadratic"))


def test_factors_draw_features_of_the_covariance_that_numpy_finds() -> None:
    x, y = data((40, 25), d=4)
    covariances, _ = taught(x + 7, y, dim=4)
    for row in (0, 1):
        factor = covariances.factor(row, ridge=0.01).double()
        expected = np.cov(x[y == row].double().numpy().T) + 0.01 * np.eye(4)
        np.testing.assert_allclose(factor @ factor.T, expected, rtol=1e-4, atol=1e-4)
        assert factor.triu(1).abs().max() == 0


def test_large_features_still_have_a_factor() -> None:
    x, y = data((6,), d=8)  # fewer images than dimensions, and float32 rounding of 1e6 on the diagonal
    covariances, _ = taught(1e3 * x, y, dim=8)
    assert torch.isfinite(covariances.factor(0, ridge=0.0)).all()

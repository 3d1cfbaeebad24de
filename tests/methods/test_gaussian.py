"""Class Gaussians against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from duallora.methods.gaussian import ClassGaussians


def data(n: int = 300, d: int = 6, rows: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % rows
    mix = torch.randn(d, d, generator=g)
    return torch.randn(n, d, generator=g) @ mix + torch.randn(rows, d, generator=g)[y] * 2, y


def fitted(x: torch.Tensor, y: torch.Tensor, shrinkage: float | str = 1e-4, cut: int = 64) -> ClassGaussians:
    gaussians = ClassGaussians(x.shape[1], shrinkage)
    gaussians.grow(int(y.max()) + 1)
    for a, b in zip(x.split(cut), y.split(cut), strict=True):
        gaussians.update(a, b)
    return gaussians


def test_scores_are_those_of_linear_discriminant_analysis() -> None:
    x, y = data()
    gaussians = fitted(x, y, shrinkage=0.0)
    reference = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(4, 0.25)).fit(x.numpy(), y.numpy())
    expected = reference.predict_proba(x.numpy())
    # scikit-learn divides the scatter by n, we by n - R: compare after undoing that.
    n, r = len(x), 4
    ours = torch.softmax(gaussians.scores(x).double() * n / (n - r), 1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-4)


def test_shrinkage_is_oas() -> None:
    x, y = data(n=40, d=12)
    gaussians = fitted(x, y, "oas")
    sigma = gaussians.scatter() / (40 - 4)
    residual = (x - gaussians.means[y].float()).double().numpy()
    reference = OAS(assume_centered=True).fit(residual)
    alpha = float(1 - (gaussians.covariance() / sigma)[0, 1])
    assert alpha == pytest.approx(reference.shrinkage_, abs=0.03)  # n - R instead of n


@given(st.integers(1, 50), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_batches_do_not_matter(cut: int, seed: int) -> None:
    x, y = data(n=50, seed=seed)
    torch.testing.assert_close(fitted(x, y, cut=cut).covariance(), fitted(x, y, cut=50).covariance())


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (2, 2), (2, 1), (5, 3)])
def test_few_images_give_finite_scores(n: int, rows: int) -> None:
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
    gaussians = fitted(x, torch.arange(n) % rows, "oas")
    assert torch.isfinite(gaussians.scores(x)).all()
    assert (gaussians.scores(x).argmax(1) == torch.arange(n) % rows).all()


def test_duplicated_images_give_finite_scores() -> None:
    x = torch.ones(6, 4) * torch.tensor([[1.0], [1], [1], [2], [2], [2]])
    assert torch.isfinite(fitted(x, torch.tensor([0, 0, 0, 1, 1, 1]), "oas").scores(x)).all()


def test_autocast_does_not_touch_the_scores() -> None:
    x, y = data()
    gaussians = fitted(x + 100, y)
    with torch.autocast("cpu", torch.bfloat16):
        under = gaussians.scores(x + 100)
    assert torch.equal(under, gaussians.scores(x + 100))


def test_a_row_without_images_never_wins() -> None:
    x, y = data(rows=2)
    gaussians = fitted(x, y)
    gaussians.grow(1)
    assert gaussians.scores(x).argmax(1).max() == 1


def test_distances_are_mahalanobis() -> None:
    x, y = data(n=2000)
    gaussians = fitted(x, y, 0.0)
    own = gaussians.distances(x, y)
    assert own.square().mean() == pytest.approx(1, abs=0.02)
    assert gaussians.distances(x + 100, y).min() > own.max()


def test_the_covariance_is_projected_anew_only_where_it_has_changed() -> None:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(40, 6, generator=g), torch.arange(40) % 2
    gaussians = fitted(x, y)
    P = torch.linalg.qr(torch.randn(6, 3, generator=g))[0]
    for _ in range(2):
        L = gaussians.projected(P)
        torch.testing.assert_close(L @ L.T, P.T.double() @ gaussians.covariance() @ P.double())
        assert gaussians.projected(P) is L
        gaussians.update(3 * x, y)
    assert gaussians.projected(P) is not L
    assert gaussians.projected(P[:, :2]).shape == (2, 2)


def test_carry_follows_an_affine_change_of_the_features() -> None:
    x, y = data()
    gaussians = fitted(x, y)
    W = torch.eye(6, dtype=torch.float64) + 0.1 * torch.randn(6, 6, dtype=torch.float64)
    o = torch.randn(6, dtype=torch.float64)
    before, spread = gaussians.means, gaussians.scatter()
    gaussians.carry(4, W, o)
    torch.testing.assert_close(gaussians.means, before @ W + o)
    torch.testing.assert_close(gaussians.scatter(), spread)


def test_held_out_distances_are_those_of_a_fit_without_the_image() -> None:
    x, y = data(n=60, d=12)
    gaussians = fitted(x, y, 0.05)
    expected = []
    for i in range(20):
        others = torch.arange(60) != i
        expected.append(fitted(x[others], y[others], 0.05).distances(x[i : i + 1], y[i : i + 1]))
    torch.testing.assert_close(gaussians.held_out_distances(x[:20], y[:20]), torch.cat(expected), rtol=0.03, atol=0)


def test_held_out_distances_are_like_those_of_new_images_where_plain_ones_are_not() -> None:
    g = torch.Generator().manual_seed(0)
    x, new = torch.randn(120, 64, generator=g), torch.randn(500, 64, generator=g)
    gaussians = fitted(x, torch.arange(120) % 2, 1e-3)
    fresh = torch.minimum(*(gaussians.distances(new, torch.full((500,), r)) for r in (0, 1))).median()
    left_out = gaussians.held_out_distances(x, torch.arange(120) % 2).median()
    assert left_out == pytest.approx(float(fresh), rel=0.15)
    assert gaussians.distances(x, torch.arange(120) % 2).median() < fresh / 1.4


def test_held_out_of_several_rows_is_as_if_learned_without_the_image() -> None:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    y = torch.arange(12) % 2
    gaussians = ClassGaussians(5, shrinkage=0.2)
    gaussians.grow(4)
    gaussians.update(torch.cat([x, x]), torch.cat([y, y + 2]))
    found = gaussians.held_out_distances(x, y + 2, torch.full((12,), 2.0))
    total = gaussians.counts.sum() - 4  # degrees of freedom, and with them the scale, stay as they are
    sigma = gaussians.covariance()
    for i in range(12):
        n = 6
        own = x[y == y[i]].double()
        u = x[i].double() - own.mean(0)
        without = sigma - 0.8 * 2 * n / (n - 1) / total * torch.outer(u, u)  # of both copies
        away = x[i].double() - (own.sum(0) - x[i].double()) / (n - 1)
        expected = (away @ torch.linalg.solve(without, away) / 5).sqrt()
        assert float(found[i]) == pytest.approx(float(expected), rel=1e-4)

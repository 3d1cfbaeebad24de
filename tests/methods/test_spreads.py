"""The quadratic term of the class Gaussians against scipy's densities and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh
from scipy.stats import multivariate_normal

from duallora.errors import DualLoRAError
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.readout import Readout
from duallora.methods.rows import Rows
from duallora.methods.spreads import ClassSpreads, _of_covariance, _of_images, widest
from tests_support import features_of_classes as data
from tests_support import feed


def taught(x: torch.Tensor, y: torch.Tensor, prior: float = 4.0) -> tuple[ClassSpreads, ClassGaussians]:
    spreads = ClassSpreads(x.shape[1], prior)
    return spreads, feed(spreads, x, y)


def learned(tasks: list[tuple[int, ...]], x: torch.Tensor, y: torch.Tensor, dim: int) -> Readout:
    read = Readout(dim, x.shape[1], Rows())
    for t, classes in enumerate(tasks):
        read.rows.add(t, classes)
        read.begin(classes)
        own = torch.isin(y, torch.tensor(classes))
        read.collect(x[own], y[own])
        read.finish([x[own]], [y[own]])
    return read


def own_covariance(own: np.ndarray, shared: np.ndarray, prior: float, most: int) -> np.ndarray:
    """(1 - w) Sigma + w S, the `most` smallest eigenvalues of S beside Sigma made equal, by scipy."""
    n, k = own.shape
    values, vectors = eigh(np.cov(own.T), shared)  # vectors.T @ shared @ vectors = I
    values[:most] = values[:most].mean()
    S = shared @ vectors * values @ vectors.T @ shared
    w = (n - 1) / (prior * k + n - 1)
    return (1 - w) * shared + w * S


@pytest.mark.parametrize("directions", [2, 4, 64])
def test_scores_are_log_densities_under_each_class_covariance(directions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duallora.methods.spreads.DIRECTIONS", directions)
    x, y = data((30, 12, 25))
    spreads, gaussians = taught(x, y, prior=2.0)
    found = (gaussians.scores(x) + spreads.correction(x, gaussians)).double().numpy()
    shared, columns = gaussians.covariance().numpy(), []
    for r in range(3):
        own = x[y == r].double().numpy()
        Sigma = own_covariance(own, shared, 2.0, 5 - min(directions, 4))
        columns.append(multivariate_normal(own.mean(0), Sigma).logpdf(x.numpy()))
    differences = found - np.stack(columns, 1)  # equal up to a term that all rows of an image share
    np.testing.assert_allclose(differences - differences[:, :1], 0, atol=2e-3)


def test_with_all_directions_it_is_regularised_discriminant_analysis() -> None:
    x, y = data((30, 12, 25))
    own = x[y == 1].double().numpy()
    shared = taught(x, y)[1].covariance().numpy()
    plain = (2 * 5 * shared + 11 * np.cov(own.T)) / (2 * 5 + 11)
    np.testing.assert_allclose(own_covariance(own, shared, 2.0, 1), plain, atol=1e-10)


def test_rows_of_earlier_tasks_follow_the_shared_covariance() -> None:
    """What a row is beside Sigma stays as measured; Sigma, and so the posterior, are those of now."""
    x, y = data((30, 25, 40))
    read = learned([(0, 1), (2,)], x, y, dim=5)
    C, rho = read.spreads.factors.double().numpy(), read.spreads.rest.double().numpy()
    shared = read.gaussians.covariance().numpy()
    found = read.scores(x, "quadratic").double().numpy()
    columns = []
    for r, n in enumerate((30, 25, 40)):
        w = (n - 1) / (4 * 5 + n - 1)
        Sigma = (1 - w) * shared + w * (rho[r] * shared + C[r].T @ C[r])
        columns.append(multivariate_normal(x[y == r].double().mean(0).numpy(), Sigma).logpdf(x.numpy()))
    differences = found - np.stack(columns, 1)
    np.testing.assert_allclose(differences - differences[:, :1], 0, atol=2e-3)


@pytest.mark.parametrize("held", [1, 64, 10**6])  # chosen by the first batch, within the task, at its end
def test_wide_features_are_projected(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the directions that vary most within classes, by numpy; the rest of what is scored is as before."""
    for name, value in (("WIDTH", 3), ("DIRECTIONS", 2), ("HELD", held)):
        monkeypatch.setattr(f"duallora.methods.spreads.{name}", value)
    g = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.1, 20.0, 0.2, 10.0, 0.1, 30.0])
    y = torch.arange(90) % 2
    x = torch.randn(90, 6, generator=g) * scales * (1 + y[:, None]) + 50 * y[:, None]
    spreads, gaussians = taught(x, y)
    P = spreads.basis.double().numpy()
    assert P.shape == (6, 3)
    np.testing.assert_allclose(P.T @ P, np.eye(3), atol=1e-6)
    assert np.square(P[[1, 3, 5]]).sum() > 2.99
    found = spreads.correction(x, gaussians).double().numpy()
    shared, columns = P.T @ gaussians.covariance().numpy() @ P, []
    for r in range(2):
        z, mu = x.double().numpy() @ P, x[y == r].double().mean(0).numpy() @ P
        Sigma = own_covariance(z[y == r], shared, 4.0, 1)
        columns.append(multivariate_normal(mu, Sigma).logpdf(z) - multivariate_normal(mu, shared).logpdf(z))
    np.testing.assert_allclose(found, np.stack(columns, 1), rtol=1e-3, atol=2e-3)


def test_lower_precision_moves_scores_little() -> None:
    """bfloat16 has 8 bits; the scores of one image differ between classes by far more than it takes."""
    x, y = data((60, 50, 70), d=40)
    spreads, gaussians = taught(x + 100, y)
    whole = spreads.correction(x + 100, gaussians)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = spreads.correction(x + 100, gaussians)
    assert lowered.dtype == torch.float32
    assert 0 < (whole - lowered).abs().mean() < 0.02 * whole.std()
    torch.testing.assert_close(spreads.correction(x + 100, gaussians), whole)  # and back


def test_a_projection_is_kept_for_later_tasks_and_across_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duallora.methods.spreads.WIDTH", 3)
    x, y = data((20, 25, 30), d=6)
    read = learned([(0, 1), (2,)], x, y, dim=4)
    first = learned([(0, 1)], x, y, dim=4)
    assert torch.equal(read.spreads.basis, first.spreads.basis)
    other = Readout(4, 6, Rows())
    other.load_state({k: v.clone() for k, v in read.state().items()})
    assert torch.equal(read.scores(x, "quadratic"), other.scores(x, "quadratic"))
    narrow = learned([(0, 1)], x[:, :3], y, dim=2)
    assert "spreads.basis" in read.state()
    assert "spreads.basis" not in narrow.state()  # nothing is projected there


def test_a_state_without_its_projection_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duallora.methods.spreads.WIDTH", 3)
    x, y = data((20, 25), d=6)
    state = taught(x, y)[0].state()
    del state["basis"]
    with pytest.raises(DualLoRAError, match=r"spreads.basis: missing, expected shape \(6, 3\)"):
        ClassSpreads(6).load_state(state)


@given(n=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_directions_are_orthonormal_whatever_varies(n: int, seed: int) -> None:
    """Also where fewer images than directions vary, or none."""
    x, y = data((n, 1), d=9, seed=seed)
    P = widest(x, y, 6).double()
    torch.testing.assert_close(P.T @ P, torch.eye(6, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_class_of_one_image_takes_the_shared_covariance() -> None:
    x, y = data((20, 1))
    spreads, gaussians = taught(x, y)
    assert spreads.correction(x, gaussians)[:, 1].abs().max() < 1e-4


def test_classes_that_differ_in_spread_alone_are_told_apart() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 3, generator=g) * 0.2, torch.randn(200, 3, generator=g) * 2])
    y = torch.arange(400) // 200
    spreads, gaussians = taught(x, y)
    linear = gaussians.scores(x)
    right = ((linear + spreads.correction(x, gaussians)).argmax(1) == y).float().mean()
    assert right > 0.9 > 0.7 > (linear.argmax(1) == y).float().mean()


@given(n=st.integers(1, 6), copies=st.booleans(), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_few_images_and_copies_stay_finite(n: int, copies: bool, seed: int) -> None:
    """Fewer images than dimensions, one image, or copies of one."""
    x, y = data((n, n + 1), d=8, seed=seed)
    if copies:
        x = x[:1].expand_as(x) + y.unsqueeze(1)
    spreads, gaussians = taught(x, y)
    assert torch.isfinite(spreads.factors).all()
    assert torch.isfinite(spreads.correction(x, gaussians)).all()


@given(n=st.integers(0, 14), k=st.integers(1, 12), q=st.integers(1, 11), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_images_give_what_their_covariance_gives(n: int, k: int, q: int, seed: int) -> None:
    """A class of few images is looked at in the directions that they span, without a matrix of all k."""
    draw, q = torch.Generator().manual_seed(seed), min(q, k - 1)
    z, A = torch.randn(n, k, generator=draw), torch.randn(2 * k, k, generator=draw).double()
    L = torch.linalg.cholesky(A.T @ A)
    S = torch.from_numpy(np.cov(z.double().numpy().T).reshape(k, k)) if n > 1 else torch.zeros(k, k).double()
    C, rho = _of_images(z, L, q)
    D, other = _of_covariance(S, L, q)
    assert C.shape == (q, k)
    torch.testing.assert_close(C.T @ C, D.T @ D)  # eigenvectors have no sign
    torch.testing.assert_close(rho, other, rtol=1e-6, atol=1e-12)


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
    read.collect(x[y == 2], y[y == 2])
    read.finish([x[y == 2]], [y[y == 2]])
    scores = read.scores(x, "quadratic")
    assert torch.isneginf(scores[:, 2]).all() and torch.isfinite(scores[:, [0, 1, 3]]).all()


@pytest.mark.parametrize("wide", [768, 3])  # as they are, and projected
@pytest.mark.parametrize("later", [False, True])
def test_a_readout_restores_them(later: bool, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duallora.methods.spreads.WIDTH", wide)
    x, y = data((10, 12, 9, 11))
    read = learned([(0, 1), (2, 3)], x, y, dim=3)
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

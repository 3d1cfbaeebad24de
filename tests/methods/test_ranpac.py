"""RanPAC: the ridge solution and the choice of lambda against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.methods.ranpac import TEMPERATURE, RanPAC, RanPACConfig
from duallora.methods.ridge import LAMBDAS, Ridge, choose, held_out, solve
from tests_support import learn, take_a_step


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def taught(backbone: Backbone, tasks: list[tuple[int, ...]], **options: object) -> RanPAC:
    torch.manual_seed(0)
    method = RanPAC(backbone, RanPACConfig(**{"projection": 50, **options}))
    for t, classes in enumerate(tasks):
        learn(method, t, images(20, t), classes, take_a_step)
    return method


def regressed(h: np.ndarray, y: np.ndarray, ridge: float) -> Reference:
    return Reference(alpha=ridge, fit_intercept=False, solver="svd").fit(h, y)


def test_tasks_in_turn_give_the_ridge_regression_of_all_at_once() -> None:
    g = torch.Generator().manual_seed(0)
    h, rows = torch.randn(90, 12, generator=g).relu(), torch.arange(90) % 5
    ridge = Ridge(12)
    first, second = rows < 2, rows >= 2
    ridge.learn(h[first], rows[first], 2)
    ridge.learn(h[second], rows[second] - 2, 3)
    reference = regressed(h.double().numpy(), np.eye(5)[rows.numpy()], float(ridge.ridge))
    np.testing.assert_allclose(ridge.weight(torch.device("cpu")).numpy(), reference.coef_, atol=1e-6)


def test_each_task_chooses_lambda_on_its_own_fifth() -> None:
    """Of its images four fifths are fitted, the fifth judges: not the other way round, and not once for all tasks."""
    g, ridge, chosen = torch.Generator().manual_seed(0), Ridge(40), []
    for noise in (0.7, 0.2):
        rows = torch.arange(200) % 3
        h = noise * torch.randn(len(rows), 40, generator=g) + torch.randn(3, 40, generator=g)[rows]
        y, held = np.eye(3)[rows.numpy()], held_out(rows).numpy()
        best = []
        for fit in (~held, held):
            H = h.double().numpy()
            errors = [((regressed(H[fit], y[fit], r).predict(H[~fit]) - y[~fit]) ** 2).mean() for r in LAMBDAS]
            best.append(LAMBDAS[int(np.argmin(errors))])
        ridge.learn(h, rows, 3)
        assert float(ridge.ridge) == best[0]
        chosen.append(best)
    assert chosen[0][0] != chosen[0][1]  # the other way round would be seen
    assert chosen[0][0] != chosen[1][0]


@pytest.mark.parametrize("images_of_the_task", [30, 200])  # fewer and more than the 40 features
def test_lambda_has_the_least_error_on_what_is_held_out(images_of_the_task: int) -> None:
    g = torch.Generator().manual_seed(images_of_the_task)
    rows = torch.arange(images_of_the_task) % 3
    h = torch.randn(len(rows), 40, generator=g) + 0.7 * torch.randn(3, 40, generator=g)[rows]
    y, held = torch.nn.functional.one_hot(rows), held_out(rows)
    assert held.sum() == len(rows) // 5
    H, Y, out = h.double().numpy(), y.numpy(), held.numpy()
    errors = [((regressed(H[~out], Y[~out], r).predict(H[out]) - Y[out]) ** 2).mean() for r in LAMBDAS]
    best = LAMBDAS[int(np.argmin(errors))]
    assert 1e-8 < best < 1e8
    assert choose(h[~held], y[~held], h[held], y[held]) == best


def test_lambda_is_sought_among_powers_of_ten() -> None:
    """10^-8 to 10^8, as in the public code of RanPAC."""
    np.testing.assert_allclose(np.log10(LAMBDAS), np.arange(-8, 9))


def test_how_many_random_features(backbone: Backbone) -> None:
    """13 per feature, which is about what the paper draws for a ViT-B, at most 10000; or as many as one says."""
    assert RanPAC(backbone, RanPACConfig()).ridge.G.shape[0] == 13 * backbone.features
    assert RanPACConfig().width(2304) == 10000
    assert RanPACConfig(projection=50).width(768) == 50


def test_a_singular_gram_matrix_is_solved() -> None:
    h = torch.randn(5, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e4
    y = torch.eye(5, dtype=torch.float64)
    weight = solve(h.T @ h, h.T @ y, 1e-8)
    torch.testing.assert_close(h @ weight, y, atol=1e-3, rtol=0)


def test_scores_are_those_of_scikit_learn_on_projected_features(backbone: Backbone) -> None:
    tasks = [(0, 1), (2,), (3, 4)]
    method, x = taught(backbone, tasks), images(6, 99)

    def lifted(pictures: torch.Tensor) -> np.ndarray:
        return np.maximum(method.backbone(pictures).double().numpy() @ method.P.double().numpy(), 0)

    H = np.concatenate([lifted(images(20, t)) for t in range(3)])
    labels = [classes[i % len(classes)] for classes in tasks for i in range(20)]
    with torch.no_grad():
        reference = regressed(H, np.eye(5)[labels], float(method.ridge.ridge))
        np.testing.assert_allclose(method(x).rows.numpy() * TEMPERATURE, reference.predict(lifted(x)), atol=2e-3)


def test_a_class_that_comes_again_is_scored_as_one_column(backbone: Backbone) -> None:
    """As the paper does over domains: C of a class is summed over all its images."""
    method, x = taught(backbone, [(0, 1), (1, 0), (0, 1)], projection=0), images(6, 99)
    H = np.concatenate([method.backbone(images(20, t)).double().detach().numpy() for t in range(3)])
    labels = [classes[i % 2] for classes in [(0, 1), (1, 0), (0, 1)] for i in range(20)]
    reference = regressed(H, np.eye(2)[labels], float(method.ridge.ridge))
    output = method(x)
    scores = method.rows.class_scores(output.rows).detach().numpy() * TEMPERATURE
    np.testing.assert_allclose(scores, reference.predict(method.backbone(x).double().detach().numpy()), atol=2e-3)
    assert output.tasks.shape == (6, 3)
    assert not torch.equal(output.tasks[:, 0], output.tasks[:, 1])  # the task is still told


def test_only_the_first_task_trains(backbones: Callable[..., Backbone]) -> None:
    method, x = taught(backbones(), [(0, 1)]), images(4, 99)
    adapted, projection = method.encode(x).features, method.P.clone()
    assert not torch.equal(adapted, backbones()(x))
    learn(method, 1, images(20, 1), (2, 3), take_a_step)
    assert method.trainable() == []
    assert torch.equal(method.encode(x).features, adapted)
    assert torch.equal(method.P, projection)
    plain = taught(backbones(), [(0, 1)], first_session=False)
    assert plain.trainable() == []
    assert torch.equal(plain.encode(x).features, backbones()(x))


def test_a_state_of_other_options_is_refused(backbones: Callable[..., Backbone]) -> None:
    state = taught(backbones(), [(0, 1)]).state()
    with pytest.raises(DualLoRAError, match="projection=60"):
        RanPAC(backbones(), RanPACConfig(projection=60)).load_state(state)


def test_the_projection_is_normal(backbone: Backbone) -> None:
    P = taught(backbone, [(0, 1)], projection=2000).P
    assert P.shape == (backbone.features, 2000)
    assert abs(float(P.mean())) < 0.02 and abs(float(P.std()) - 1) < 0.02
    assert abs(float((P**4).mean()) - 3) < 0.15  # of a uniform law it is 1.8


def test_a_task_too_small_to_hold_out_from_keeps_lambda() -> None:
    g, ridge = torch.Generator().manual_seed(0), Ridge(6)
    rows = torch.arange(40) % 2
    ridge.learn(3 * torch.randn(40, 6, generator=g) + rows[:, None], rows, 2)
    before = float(ridge.ridge)
    ridge.learn(torch.randn(4, 6, generator=g), torch.zeros(4, dtype=torch.int64), 1)
    assert float(ridge.ridge) == before != 1.0

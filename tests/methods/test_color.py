"""CoLoR: k-means and the choice of the task against scikit-learn, the answer by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.methods.color import CoLoR, CoLoRConfig
from duallora.methods.kmeans import kmeans
from tests_support import learn, take_a_step

TASKS = [(0, 1), (2, 3), (4, 5)]


def images(classes: tuple[int, ...], n: int, seed: int) -> torch.Tensor:
    """n images round the classes, each near a pattern of its class."""
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return torch.stack([patterns[classes[i % len(classes)]] for i in range(n)]) + 0.1 * torch.randn(
        n, 3, 16, 16, generator=g
    )


def taught(backbone: Backbone, tasks: int = 3, **options: object) -> CoLoR:
    torch.manual_seed(0)
    method = CoLoR(backbone, CoLoRConfig(clusters=2, **options))
    for t, classes in enumerate(TASKS[:tasks]):
        learn(method, t, images(classes, 12, t), classes, take_a_step)
    return method


def test_centroids_are_those_of_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=g) + 1.5 * torch.randn(5, 6, generator=g)[torch.arange(400) % 5]  # overlapping
    ours = kmeans(x, 5)
    reference = KMeans(5, n_init=50, random_state=0).fit(x.double().numpy())
    assert float(torch.cdist(x.double(), ours).amin(1).square().sum()) <= reference.inertia_ * 1.001
    from_ours = KMeans(5, init=ours.numpy(), n_init=1, tol=0).fit(x.double().numpy())
    np.testing.assert_allclose(from_ours.cluster_centers_, ours.numpy(), atol=1e-9)  # a fixed point


def test_k_means_is_repeatable_and_copes_with_few_points_and_copies() -> None:
    x = torch.randn(40, 3)
    assert torch.equal(kmeans(x, 4), kmeans(x, 4))
    assert torch.equal(kmeans(x[:2], 5), x[[0, 1, 0, 1, 0]].double())
    copies = kmeans(x[:2].repeat(10, 1), 5)
    assert copies.shape == (5, 3)
    assert torch.cdist(x[:2].double(), copies).amin(1).max() < 1e-6


def test_the_task_is_that_of_the_nearest_centroid_of_frozen_features(backbones: Callable[..., Backbone]) -> None:
    method, frozen = taught(backbones()), backbones()

    def selecting(x: torch.Tensor) -> np.ndarray:
        return F.normalize(frozen(x), dim=1).numpy()

    centres = [KMeans(2, n_init=10, random_state=0).fit(selecting(images(c, 12, t))) for t, c in enumerate(TASKS)]
    x = torch.cat([images(c, 8, 90) for c in TASKS] + [torch.randn(40, 3, 16, 16)])
    away = np.stack([centre.transform(selecting(x)).min(1) for centre in centres], 1)
    evidence = method.encode(x).evidence
    np.testing.assert_allclose(-evidence.numpy(), away, atol=1e-4)
    assert (method(x).tasks.argmax(1).numpy() == away.argmin(1)).all()
    assert set(away.argmin(1)) == {0, 1, 2}


def test_the_answer_is_the_chosen_head_on_the_chosen_adapter(backbone: Backbone) -> None:
    method = taught(backbone)
    x = torch.cat([images(c, 8, 90) for c in TASKS])
    chosen, answer = method.encode(x).evidence.argmax(1), method(x).rows.argmax(1)
    for i in range(len(x)):
        t = int(chosen[i])
        method.banks.use(t)
        logits = method.backbone(x[i : i + 1]) @ method.read.heads.weights[t].T + method.read.heads.biases[t]
        assert int(answer[i]) == 2 * t + int(logits.argmax())
    given = method.decode(method.encode_given(x, 1))
    assert set(given.rows.argmax(1).tolist()) <= {2, 3}


def test_a_task_does_not_touch_the_adapters_before_it(backbones: Callable[..., Backbone]) -> None:
    method, x = taught(backbones(), 1), images((0, 1), 6, 80)
    before = method.encode_given(x, 0).features
    learn(method, 1, images(TASKS[1], 12, 1), TASKS[1], take_a_step)
    assert torch.equal(method.encode_given(x, 0).features, before)
    assert not torch.equal(method.encode_given(x, 1).features, before)
    method.banks.use(None)
    torch.testing.assert_close(method.backbone(x), backbones()(x), atol=0, rtol=0)


def test_features_of_the_first_task_can_choose(backbone: Backbone) -> None:
    method = taught(backbone, features="first")
    x = images(TASKS[2], 6, 70)
    normalised = F.normalize(method.encode_given(x, 0).features, dim=1)
    expected = torch.cdist(normalised, method.centroids.flatten(0, 1)).unflatten(1, (3, 2)).amin(2)
    torch.testing.assert_close(-method.encode(x).evidence, expected, atol=1e-4, rtol=0)


def test_a_state_of_other_options_is_refused(backbones: Callable[..., Backbone]) -> None:
    state = taught(backbones()).state()
    with pytest.raises(DualLoRAError, match="centroids"):
        CoLoR(backbones(), CoLoRConfig(clusters=3)).load_state(state)
    with pytest.raises(DualLoRAError, match=r"0\.query\.A"):
        CoLoR(backbones(), CoLoRConfig(clusters=2, rank=4)).load_state(state)

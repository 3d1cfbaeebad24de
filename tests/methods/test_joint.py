"""The upper bound: a row per class and task, one head over all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.methods.base import TaskInfo
from duallora.methods.joint import Joint, JointConfig
from duallora.methods.readout import TRUST

Learned = tuple[Joint, Tensor]


@pytest.fixture
def learned(backbone: Backbone) -> Learned:
    """Two classes in two domains; the images have the labels 0 to 3 in turn."""
    torch.manual_seed(0)
    method = Joint(backbone, JointConfig(shrinkage=0.1))
    x, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 4
    batches = [(x[:7], labels[:7]), (x[7:], labels[7:])]
    method.begin_task(TaskInfo(1, (0, 1), 16, members=((0, 1), (0, 1))), batches)
    method.loss(x, labels).backward()
    method.end_task(batches)
    return method, x


def test_a_class_has_a_row_in_each_domain(learned: Learned) -> None:
    method, x = learned
    assert (method.rows.classes, method.rows.tasks) == ([0, 1, 0, 1], [0, 0, 1, 1])
    features = method.encode(x).features
    means = torch.stack([features[row::4].mean(0) for row in range(4)])
    torch.testing.assert_close(method.read.gaussians.means.float(), means, atol=1e-4, rtol=1e-4)


def test_the_product_takes_the_one_head_as_sure_of_the_task(learned: Learned) -> None:
    method, x = learned
    scores = {name: method.decode(method.encode(x), name).rows for name in ("heads", "quadratic", "product")}
    expected = torch.log_softmax(scores["heads"], 1) + TRUST * torch.log_softmax(scores["quadratic"], 1)
    torch.testing.assert_close(scores["product"], expected)
    apart = method.rows.within_tasks(scores["heads"])
    assert not torch.allclose(scores["product"], apart + TRUST * torch.log_softmax(scores["quadratic"], 1))


def test_each_time_it_starts_over(learned: Learned) -> None:
    method, x = learned
    members = ((0, 1), (0, 1), (2,))
    labels = torch.arange(16) % 5
    method.begin_task(TaskInfo(2, (2,), 16, members=members), [(x, labels)])
    assert method.rows.classes == [0, 1, 0, 1, 2]
    assert [len(bias) for bias in method.read.heads.biases] == [5]
    assert all(not update.B.any() for update in method.updates().values())


@pytest.mark.parametrize("mixed", [False, True])
def test_the_rows_of_a_class_do_not_compete(learned: Learned, mixed: bool) -> None:
    """The loss over two classes in two domains, by numpy: a class's score is the best of its rows."""
    method, _ = learned
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))  # not those that the head knows
    labels = torch.arange(16) % 4  # rows
    z = method.read.heads.newest(method.backbone(x, levels=False).float()).detach().double().numpy()
    scores = np.maximum(z[:, :2], z[:, 2:])
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    share = np.eye(2)[labels.numpy() % 2]
    given: Tensor = labels
    if mixed:
        given = 0.7 * torch.eye(4)[labels] + 0.3 * torch.eye(4)[labels.flip(0)]
        share = 0.7 * share + 0.3 * share[::-1]
    expected = -(share * log_p).sum(1).mean()
    assert float(method.loss(x, given).detach()) == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(method.loss(x, given).detach()) == pytest.approx(expected, rel=0.1)

"""Heads on frozen features."""

from __future__ import annotations

import pytest
import torch

from duallora.backbone import Backbone
from duallora.methods.base import TaskInfo
from duallora.methods.probe import Probe, ProbeConfig
from tests_support import learn, take_a_step


def test_its_loss_is_the_newest_heads_over_the_tasks_own_classes(backbone: Backbone) -> None:
    method = Probe(backbone, ProbeConfig())
    for t, classes in enumerate([(4, 1), (0, 2, 3)]):
        method.begin_task(TaskInfo(t, classes, 6), [])
    features, labels = torch.randn(6, backbone.features), torch.tensor([0, 2, 3, 3, 2, 0])
    with torch.no_grad():
        for parameter in method.trainable():
            parameter.copy_(torch.randn(parameter.shape))
    weight, bias = method.read.heads.weights[1].detach().double(), method.read.heads.biases[1].detach().double()
    logits = features[:, : backbone.dim].double() @ weight.T + bias
    at = torch.tensor([(0, 2, 3).index(int(label)) for label in labels])
    expected = -(logits - logits.exp().sum(1, keepdim=True).log())[torch.arange(6), at].mean()
    assert method.loss(features, labels).item() == pytest.approx(float(expected), rel=1e-5)
    assert len(method.trainable()) == 2  # the earlier head is frozen


@pytest.mark.parametrize("centred", [False, True])
def test_a_centred_head_has_nothing_that_all_its_logits_share(backbone: Backbone, centred: bool) -> None:
    method = Probe(backbone, ProbeConfig(centred=centred))
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    learn(method, 0, x, (0, 1), take_a_step)
    head = method.read.heads.weights[0]
    assert (head.mean(0).abs().max() < 1e-6) == centred

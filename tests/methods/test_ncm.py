"""Nearest class mean by hand."""

from __future__ import annotations

import torch

from duallora.backbone import Backbone
from duallora.methods.base import Encoding, MethodConfig
from duallora.methods.ncm import NCM, TEMPERATURE
from tests_support import infos, learn


def test_scores_are_cosines_and_a_row_without_images_never_answers(backbone: Backbone) -> None:
    method = NCM(backbone, MethodConfig())
    method.begin_task(infos(0, (0, 1, 2), 3), [])
    method.sums[0, 0], method.sums[1, 1] = 2.0, 5.0
    x = torch.zeros(1, backbone.features)
    x[0, 0], x[0, 1] = -3.0, -4.0
    rows = method.decode(Encoding(x)).rows
    torch.testing.assert_close(rows, torch.tensor([[-0.6, -0.8, -torch.inf]]) / TEMPERATURE)


def test_a_class_mean_is_of_features_of_length_one(backbone: Backbone) -> None:
    method, x = NCM(backbone, MethodConfig()), torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x[::2] *= 5  # features of other lengths
    labels = torch.arange(7) % 2
    learn(method, 0, x, (0, 1))
    f = backbone(x).detach().double()
    f = f / f.norm(dim=1, keepdim=True)
    means = torch.stack([f[labels == c].mean(0) for c in (0, 1)])
    expected = f @ (means / means.norm(dim=1, keepdim=True)).T / TEMPERATURE
    torch.testing.assert_close(method(x).rows.double(), expected, atol=1e-4, rtol=1e-4)

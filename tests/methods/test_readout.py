"""Heads times Gaussians, against numpy."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax

from duallora.methods.readout import Readout
from duallora.methods.rows import Rows


def taught() -> tuple[Readout, torch.Tensor]:
    rows, draw = Rows(), torch.Generator().manual_seed(0)
    read = Readout(4, 6, rows)
    for task, classes in enumerate([(0, 1, 2), (3,), (4, 5)]):
        rows.add(task, classes)
        read.begin(classes)
        labels = torch.tensor(classes).repeat(8)
        features = torch.randn(len(labels), 6, generator=draw) + labels.unsqueeze(1)
        read.collect(features, labels)
        read.finish([features], [labels])
    return read, torch.randn(5, 6, generator=draw) + 2


def test_the_product_is_heads_within_a_task_times_a_tempered_posterior() -> None:
    read, x = taught()
    heads, gaussians = (read.scores(x, r).detach().numpy() for r in ("heads", "quadratic"))
    within = np.concatenate([log_softmax(heads[:, part], 1) for part in (slice(0, 3), slice(3, 4), slice(4, 6))], 1)
    expected = within + 0.15 * log_softmax(gaussians, 1)
    np.testing.assert_allclose(read.scores(x, "product").detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_other_heads_may_stand_in() -> None:
    read, x = taught()
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    given = read.scores(x, "product", logits)
    torch.testing.assert_close(
        given - read.rows.within_tasks(logits), read.scores(x, "product") - read.rows.within_tasks(read.heads(x))
    )
    torch.testing.assert_close(read.scores(x, "quadratic", logits), read.scores(x, "quadratic"))

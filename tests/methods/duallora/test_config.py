"""Options that make no difference as the others are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from duallora.backbone import Backbone
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.method import DualLoRA
from tests_support import learn, take_a_step

OTHER = {
    "first_share": 0.25,
    "first_placement": ("proj",),
    "class_rank": 2,
    "class_blocks": "all",
    "class_rate": 0.5,
    "class_smoothing": 0.4,
}


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, {"first_share", "first_placement"}),
        ({"first_rate": 3.0, "orthogonal": False}, {"first_share", "first_placement"}),
        ({"residual": "maps"}, set(OTHER)),
        ({"residual": "none", "first_rate": 3.0}, set(OTHER) - {"first_share", "first_placement"}),
    ],
    ids=str,
)
def test_idle_options_change_nothing_and_others_do(
    options: dict[str, object], idle: set[str], backbones: Callable[..., Backbone]
) -> None:
    config = DualLoRAConfig(**options)
    assert config.idle() == idle
    rows = []
    for changed in ({}, {name: OTHER[name] for name in idle}, {name: OTHER[name] for name in set(OTHER) - idle}):
        method = DualLoRA(backbones(), DualLoRAConfig(**options | changed))
        for t in (0, 1):
            torch.manual_seed(t)
            images = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(t))
            learn(method, t, images, tuple(range(5 * t, 5 * t + 5)), take_a_step)
        rows.append(method(images).rows)
    assert torch.equal(rows[0], rows[1])
    assert set(OTHER) == idle or not torch.equal(rows[0], rows[2])

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
    "gate": "off",
    "residual_basis": "all",
    "residual_rank": 3,
    "rank": 3,
    "first_rank": 5,
    "first_rate": 2.0,
    "orthogonal_rate": 0.4,
    "carry": False,
}
SESSION = {"first_share", "first_placement"}
CLASS = {"class_rank", "class_blocks", "class_rate", "class_smoothing"}
MAPS = {"gate", "residual_basis", "residual_rank"}
ADAPTER = {"rank", "first_rank", "first_rate"}


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, MAPS),
        ({"first_rate": None}, SESSION | MAPS),
        ({"orthogonal": False}, SESSION | MAPS | ADAPTER | {"orthogonal_rate", "carry"}),
        ({"residual": "maps", "first_rate": None}, SESSION | CLASS),
        ({"residual": "none"}, CLASS | MAPS),
        ({"residual": "both", "orthogonal": False}, SESSION | ADAPTER),
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

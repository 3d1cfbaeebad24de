"""The first session: the network goes part of the way to the first task's images, then stands still."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.method import DualLoRA
from duallora.migrations import MIGRATIONS
from tests_support import learn, take_a_step


def made(backbone: Backbone, **options: object) -> DualLoRA:
    torch.manual_seed(0)
    return DualLoRA(backbone, DualLoRAConfig(**({"first_rate": 3.0, "first_share": 0.5} | options)))


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def qkv(method: DualLoRA) -> list[Tensor]:
    return [site.base.weight.detach().clone() for site in method.sites]


def names(method: DualLoRA) -> set[str]:
    return {name for name, parameter in method.named_parameters() if parameter.requires_grad}


def test_the_network_learns_first_and_stands_still_then(backbones: Callable[..., Backbone]) -> None:
    method = made(backbones())
    start, seen = qkv(method), []

    def training(m: DualLoRA) -> None:
        seen.append((names(m), qkv(m)))
        take_a_step(m)

    learn(method, 0, images(8), (0, 1), training)
    (first, before), (second, settled) = seen
    assert any("orthogonal.query" in name for name in first)
    assert not any("residuals" in name for name in first)
    assert not any("orthogonal" in name for name in second)
    assert any("residuals" in name for name in second)
    assert all(torch.equal(a, b) for a, b in zip(start, before, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(start, settled, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(settled, qkv(method), strict=True))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_it_goes_so_much_of_the_way(share: float, backbones: Callable[..., Backbone]) -> None:
    method = made(backbones(), first_share=share)
    start, updates = qkv(method), []

    def training(m: DualLoRA) -> None:
        take_a_step(m)
        if not updates:
            for site in m.sites:
                parts = [site.orthogonal[name].factors() for name in ("query", "key", "value")]
                updates.append(torch.cat([B @ A for A, B in parts]))

    learn(method, 0, images(8), (0, 1), training)
    for before, update, after in zip(start, updates, qkv(method), strict=True):
        assert update.abs().max() > 0
        torch.testing.assert_close(after, before + share * update)


def test_the_head_keeps_pace_with_the_network_that_learns(backbone: Backbone) -> None:
    method = made(backbone)
    seen: list[list[float]] = []
    for t in range(2):
        learn(
            method,
            t,
            images(8, t),
            (2 * t, 2 * t + 1),
            lambda m: seen.append([group.rate for group in m.groups() if group.parameters]),
        )
    assert seen == [[3.0, 3.0], [1.0, 3.0], [0.1, 1.0, 3.0]]  # network, head, residual


def test_later_tasks_have_one_stage_and_the_usual_maps(backbone: Backbone) -> None:
    method = made(backbone)
    stages = []
    for t in range(2):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), lambda m: stages.append((m.stages, names(m))))
    assert [count for count, _ in stages] == [2, 2, 1]
    assert not any("query" in name for name in stages[2][1])
    assert any("orthogonal.value" in name for name in stages[2][1])
    assert any("residuals" in name for name in stages[2][1])


@pytest.mark.parametrize("maps", [("query", "key", "value"), ("query",), ("value", "proj")])
def test_a_saved_state_has_the_same_weights_and_learns_on_the_same(
    maps: tuple[str, ...], backbones: Callable[..., Backbone]
) -> None:
    method, other = (made(backbones(), first_placement=maps) for _ in range(2))
    for t in range(2):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), take_a_step)
    other.load_state({k: v.clone() for k, v in method.state().items()})
    assert all(torch.equal(a, b) for a, b in zip(qkv(method), qkv(other), strict=True))
    x = images(3, 9)
    assert torch.equal(method(x).rows, other(x).rows)
    for m in (method, other):
        torch.manual_seed(5)
        learn(m, 2, images(8, 2), (4, 5), take_a_step)
    assert torch.equal(method(x).rows, other(x).rows)


def test_without_an_orthogonal_adapter_there_is_none(backbone: Backbone) -> None:
    method = made(backbone, orthogonal=False)
    start, stages = qkv(method), []
    learn(method, 0, images(8), (0, 1), lambda m: stages.append(m.stages))
    assert stages == [1]
    assert all(torch.equal(a, b) for a, b in zip(start, qkv(method), strict=True))


@pytest.mark.parametrize("residual", ["none", "maps", "both"])
def test_it_serves_other_residuals_too(residual: str, backbone: Backbone) -> None:
    method = made(backbone, residual=residual)
    for t in range(3):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), take_a_step)
    assert torch.isfinite(method(images(3, 9)).rows).all()


def migrated(step: int, options: dict[str, object]) -> dict[str, object]:
    _, manifest = MIGRATIONS[step]({}, {"method": {"name": "duallora", "options": options}})
    return manifest["method"]["options"]


def test_a_model_from_before_it_had_maps_of_its_own_keeps_those_of_the_other_tasks() -> None:
    old = {"first_rate": 2.0, "placement": ["value", "proj"]}
    assert migrated(4, old) == old | {"first_placement": ["value", "proj"]}
    assert migrated(4, {"first_rate": 2.0}) == {"first_rate": 2.0, "first_placement": ["value"]}
    assert migrated(4, {"first_rate": None}) == {"first_rate": None}
    config = DualLoRAConfig(**migrated(4, old))
    assert config.adapts(True) == config.adapts(False)


def test_a_model_from_before_it_was_the_default_has_none() -> None:
    assert migrated(6, {"rank": 3}) == {"rank": 3, "first_rate": None}
    assert migrated(6, {"first_rate": 2.0}) == {"first_rate": 2.0}
    assert DualLoRAConfig().has_first_session and not DualLoRAConfig(**migrated(6, {})).has_first_session


def test_a_state_that_lacks_its_update_is_refused(backbones: Callable[..., Backbone]) -> None:
    method, other = (made(backbones()) for _ in range(2))
    learn(method, 0, images(8), (0, 1), take_a_step)
    state = {k: v for k, v in method.state().items() if not k.endswith("orthogonal.value.0.A")}
    with pytest.raises((DualLoRAError, KeyError)):
        other.load_state(state)

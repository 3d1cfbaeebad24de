"""O-LoRA: its penalty against explicit loops, and the sum over tasks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.methods.base import Method
from duallora.methods.olora import OLoRA, OLoRAConfig
from tests_support import infos, learn, take_a_step


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("penalty", ["absolute", "squared"])
def test_the_penalty_is_that_of_every_pair_of_rows_old_and_new(backbone: Backbone, penalty: str) -> None:
    method = OLoRA(backbone, OLoRAConfig(rank=2, penalty=penalty, orthogonality=0.25))
    old: dict[str, list[Tensor]] = {name: [] for name in method.updates()}

    def remember(m: Method) -> None:
        take_a_step(m)
        for name, update in m.updates().items():
            old[name] += list(update.A.detach().clone())

    for t in range(2):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), remember)
    method.begin_task(infos(2, (4, 5), 8), [])
    expected = 0.0
    for name, update in method.updates().items():
        assert len(old[name]) == 4
        for earlier in old[name]:
            for row in update.A.detach():
                inner = sum(float(p) * float(q) for p, q in zip(earlier, row, strict=True))
                expected += abs(inner) if penalty == "absolute" else inner * inner
    assert method.overlap().item() == pytest.approx(expected, rel=1e-4)
    x, y = images(4, 9), torch.tensor([4, 5, 4, 5])
    plain = torch.nn.functional.cross_entropy(method.read.heads.newest(method.encode(x).features), y - 4)
    assert (method.loss(x, y) - plain).item() == pytest.approx(0.25 * expected, rel=1e-3)


def test_the_first_task_has_no_penalty_and_descending_it_makes_rows_orthogonal(backbone: Backbone) -> None:
    method = OLoRA(backbone, OLoRAConfig(rank=2, penalty="squared"))
    method.begin_task(infos(0, (0, 1), 8), [])
    assert method.overlap().item() == 0
    learn(method, 1, images(8, 0), (2, 3), take_a_step)
    method.begin_task(infos(2, (4, 5), 8), [])
    step = torch.optim.SGD([u.A for u in method.updates().values()], lr=0.3)
    before = method.overlap().item()
    for _ in range(60):
        step.zero_grad()
        method.overlap().backward()
        step.step()
    assert method.overlap().item() < 1e-4 * before
    assert all(u.A.norm() > 0.1 for u in method.updates().values())  # turned, not shrunk


def test_every_task_adds_to_the_map_and_stays(backbone: Backbone) -> None:
    method = OLoRA(backbone, OLoRAConfig(rank=2, scale=0.5, placement=("value",)))
    base, seen = backbone.attention[0].qkv.weight[-backbone.dim :].clone(), []

    def remember(m: Method) -> None:
        take_a_step(m)
        seen.append(0.5 * m.updates()["0.value"].matrix())
        m.before = m.encode(images(3, 9)).features

    for t in range(3):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), remember)
        torch.testing.assert_close(method.encode(images(3, 9)).features, method.before)
    assert all(change.any() for change in seen)
    moved = backbone.attention[0].qkv.weight[-backbone.dim :] - base
    torch.testing.assert_close(moved, sum(seen), atol=1e-6, rtol=1e-4)

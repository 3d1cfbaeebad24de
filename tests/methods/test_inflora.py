"""InfLoRA: the designed side recomputed in numpy, and what it promises to earlier tasks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.lowrank.dualgpm import DualGPM
from duallora.methods.inflora import BranchedLinear, InfLoRA, InfLoRAConfig
from tests_support import infos, learn, take_a_step


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def made(backbone: Backbone, **options: object) -> InfLoRA:
    torch.manual_seed(0)
    return InfLoRA(backbone, InfLoRAConfig(**options))


def inputs(backbone: Backbone, x: Tensor, block: int = 0) -> Tensor:
    """Tokens (n, d) that enter a block's qkv map; nothing that trains lies below that of the first."""
    seen = []
    handle = backbone.attention[block].qkv.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        backbone(x)
    handle.remove()
    return seen[0]


def second_moment(backbone: Backbone, x: Tensor, block: int = 0) -> np.ndarray:
    tokens = inputs(backbone, x, block).double().numpy()
    return tokens.T @ tokens / len(tokens)


def first_site(method: InfLoRA) -> BranchedLinear:
    site = method.sites[0]
    assert isinstance(site, BranchedLinear)
    return site


def agree(A: Tensor | None, U: np.ndarray) -> bool:
    """Rows of A are the columns of U over sqrt(3), up to sign."""
    assert A is not None
    return np.allclose(np.abs((A.double().numpy() @ U).diagonal()) * math.sqrt(3), 1, atol=1e-4)


def test_the_down_projection_is_designed_from_the_projected_moment(backbones: Callable[..., Backbone]) -> None:
    plain = backbones()
    method = made(backbones(), rank=3, lamb=0.9)
    first, second = images(12, 0), images(12, 1)
    learn(method, 0, first, (0, 1), take_a_step)
    C = second_moment(plain, first)
    U, S, _ = np.linalg.svd(C)
    F = U[:, : max(int((np.cumsum(S**2) / (S**2).sum() < 0.9).sum()), 1)]
    assert agree(method.state()["site.0.branch.0.A"], U[:, :3])
    assert first_site(method).space.used == F.shape[1]

    method.begin_task(infos(1, (2, 3), 12), [(second, torch.arange(12) % 2 + 2)])
    C = second_moment(plain, second)
    assert agree(first_site(method).A, np.linalg.svd(C - F @ F.T @ C)[0][:, :3])


def moved(method: InfLoRA) -> None:
    """In the place of training: updates that change what later blocks are fed."""
    for site in method.sites:
        assert isinstance(site, BranchedLinear)
        for B in site.B.values():
            torch.nn.init.normal_(B, std=2.0, generator=torch.Generator().manual_seed(0))


def test_the_space_grows_by_what_the_trained_network_feeds_a_later_block(backbones: Callable[..., Backbone]) -> None:
    x = images(12, 0)
    method = made(backbones(), rank=3, lamb=0.9)
    learn(method, 0, x, (0, 1), moved)
    fresh, trained = backbones(), method.backbone
    spaces = []
    for network in (trained, fresh):
        C = second_moment(network, x, block=1)
        U, S, _ = np.linalg.svd(C)
        spaces.append(U[:, : max(int((np.cumsum(S**2) / (S**2).sum() < 0.9).sum()), 1)])
    site = method.sites[1]
    assert isinstance(site, BranchedLinear)
    own = site.space.basis.double().numpy()
    overlap = [float(np.linalg.norm(own.T @ U) ** 2) / own.shape[1] for U in spaces]
    assert overlap[0] == pytest.approx(1, abs=1e-3)
    assert overlap[1] < 0.99  # training has moved what the block is fed: the moment from before it would not do


def test_one_pass_before_and_one_after(backbone: Backbone) -> None:
    method = made(backbone, rank=2)
    passes = []

    class Counted(list[tuple[Tensor, Tensor]]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            passes.append(1)
            return super().__iter__()

    batches = Counted([(images(4, 0), torch.tensor([0, 1, 0, 1]))])
    method.begin_task(infos(0, (0, 1), 4), batches)
    assert len(passes) == 1
    method.end_task(batches)
    assert len(passes) == 2


def test_a_new_branch_does_not_touch_what_earlier_tasks_feed_in(backbone: Backbone) -> None:
    old, new = images(5, 0), images(5, 1)
    method = made(backbone, rank=4, lamb=1.0)
    learn(method, 0, old, (0, 1), take_a_step)
    learn(method, 1, old, (2, 3), take_a_step)  # a first task stays just below the threshold, a second reaches it
    assert first_site(method).space.retain
    method.begin_task(infos(2, (4, 5), 5), [(new, torch.tensor([4, 5, 4, 5, 4]))])
    site = first_site(method)
    before = [site(inputs(backbone, x)).detach() for x in (old, new)]
    for B in site.B.values():
        torch.nn.init.normal_(B)
    after = [site(inputs(backbone, x)).detach() for x in (old, new)]
    assert (after[0] - before[0]).abs().max() < 1e-3
    assert (after[1] - before[1]).abs().max() > 0.1


def test_keys_and_values_share_what_they_read_and_only_b_and_the_head_train(backbone: Backbone) -> None:
    weight = backbone.attention[0].qkv.weight.clone().numpy()
    method = made(backbone, rank=2)
    for t, classes in enumerate([(0, 1), (2, 3)]):
        learn(method, t, images(8, t), classes, take_a_step)
    state = method.state()
    sums = {name: sum(state[f"site.0.branch.{t}.{name}"].numpy() @ state[f"site.0.branch.{t}.A"].numpy()
                      for t in range(2)) for name in ("key", "value")}  # fmt: skip
    now, d = backbone.attention[0].qkv.weight.numpy(), backbone.dim
    assert np.array_equal(now[:d], weight[:d])
    assert np.allclose(now[d : 2 * d], weight[d : 2 * d] + sums["key"], atol=1e-6)
    assert np.allclose(now[2 * d :], weight[2 * d :] + sums["value"], atol=1e-6)
    assert np.abs(sums["key"]).max() > 0

    method.begin_task(infos(2, (4, 5), 8), [(images(8, 2), torch.arange(8) % 2 + 4)])
    trained = sum(p.numel() for p in method.trainable())
    assert trained == backbone.depth * 2 * d * 2 + 2 * d + 2  # B of keys and values in each block; weight and bias


def test_the_head_may_learn_at_a_rate_of_its_own(backbone: Backbone) -> None:
    method = InfLoRA(backbone, InfLoRAConfig(head_rate=2.0))
    seen = []
    learn(method, 0, torch.randn(8, 3, 16, 16), (0, 1), lambda m: seen.append(m.groups()))
    branches, heads = seen[0]
    assert (branches.rate, heads.rate) == (1.0, 2.0)
    assert [tuple(p.shape) for p in heads.parameters] == [(2, backbone.dim), (2,)]
    assert len(branches.parameters) == 2 * len(method.sites)


def test_the_threshold_rises_with_the_tasks_where_their_number_is_known(backbones: Callable[..., Backbone]) -> None:
    assert InfLoRAConfig(lamb=0.9).threshold(7) == 0.9
    assert math.isclose(InfLoRAConfig(lamb=0.95, tasks=10).threshold(4), 0.95 + 0.05 * 4 / 10)
    used = []
    for tasks in (None, 2):
        method = made(backbones(), rank=2, lamb=0.5, tasks=tasks)
        for t, classes in enumerate([(0, 1), (2, 3)]):
            learn(method, t, images(8, t), classes)
        used.append(sum(method.capacity))
    assert used[0] < used[1]


def test_task_t_of_ten_has_the_threshold_of_the_public_code(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """eps_t = lamb + (lame - lamb) t / T with t counted from 0: the first task's is lamb itself."""
    given = []
    update = DualGPM.update
    monkeypatch.setattr(DualGPM, "update", lambda self, C, eps: (given.append(round(eps, 6)), update(self, C, eps))[1])
    method = made(backbone, rank=2, lamb=0.9, lame=1.0, tasks=10)
    for t in range(3):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1))
    sites = len(method.sites)
    assert given == [0.9] * sites + [0.91] * sites + [0.92] * sites


def test_directions_that_run_out_are_told(backbone: Backbone) -> None:
    method, task = made(backbone, rank=4, lamb=1.0), images(32, 0)
    learn(method, 0, task, (0, 1))
    assert not method.log.notes
    learn(method, 1, task, (2, 3), take_a_step)  # the same images: the first task has taken all there is
    # The first task takes all but the direction with which the share reaches 1, itself rounding on some processors.
    assert re.search(r"reach [01] directions", method.log.notes[0])
    assert torch.isfinite(method(task).rows).all()

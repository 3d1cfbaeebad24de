"""Residuals of the class token: their equations, that nothing is forgotten, that nothing flows back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.methods.duallora.class_residual import ClassResiduals
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.method import DualLoRA
from tests_support import infos, learn


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def disturbed(method: Any) -> None:
    """In the place of training: every parameter that would train gets some noise."""
    with torch.no_grad():
        for parameter in method.trainable():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


def finished(
    backbone: Backbone, tasks: int = 2, rank: int = 3, blocks: tuple[int, ...] | None = None
) -> ClassResiduals:
    """Residuals of some tasks of two classes, with random factors."""
    residuals = ClassResiduals(backbone, rank, blocks)
    for t in range(tasks):
        torch.manual_seed(t)
        residuals.begin(2)
        disturbed(Trains(residuals))
        residuals.end()
    return residuals


class Trains:
    def __init__(self, residuals: ClassResiduals) -> None:
        self.residuals = residuals

    def trainable(self) -> list[torch.nn.Parameter]:
        return [p for p in self.residuals.parameters() if p.requires_grad]


def features(residuals: ClassResiduals, backbone: Backbone, x: torch.Tensor) -> torch.Tensor:
    residuals.listen(True)
    return residuals.features(backbone(x))


def in_numpy(
    residuals: ClassResiduals, backbone: Backbone, x: torch.Tensor, task: int, blocks: tuple[int, ...]
) -> np.ndarray:
    """f + delta_t as the docstring has it, head by head, from the inputs and outputs of the qkv maps of some blocks."""
    read: list[tuple[np.ndarray, np.ndarray]] = []
    chosen = [backbone.attention[b] for b in blocks]
    hooks = [a.qkv.register_forward_hook(lambda m, i, o: read.append((i[0].numpy(), o.numpy()))) for a in chosen]
    f = backbone(x).numpy()[:, : backbone.dim]
    for hook in hooks:
        hook.remove()
    d, heads = backbone.dim, backbone.num_heads
    c = d // heads
    A, B = residuals.A[task].numpy(), residuals.B[task].numpy()
    result = []
    for image in range(len(x)):
        delta = np.zeros(d)
        for block, ((inputs, qkv), a) in enumerate(zip(read, chosen, strict=True)):
            h, own = inputs[image], qkv[image]
            q, K, V = own[:, :d], own[:, d : 2 * d], own[:, 2 * d :]
            place = (lambda rows: rows[0]) if backbone.has_class_token else (lambda rows: rows.mean(0))
            asked = place(q) + B[2 * block] @ A[2 * block] @ (place(h) + delta)
            o = np.zeros(d)
            for head in range(heads):
                part = slice(head * c, (head + 1) * c)
                pairs = ((a.q_norm, asked), (a.k_norm, K))
                question, keys = (norm(torch.tensor(t[..., part]).float()).detach().numpy() for norm, t in pairs)
                e = np.exp(keys @ question / np.sqrt(c))
                o[part] = (e / e.sum()) @ V[:, part]
            delta = delta + B[2 * block + 1] @ A[2 * block + 1] @ o
        result.append(f[image] + delta)
    return np.stack(result)


@pytest.mark.parametrize("blocks", [(0, 1, 2), (1, 2), (0,)])
@pytest.mark.parametrize("kind", [{}, {"class_token": False}, {"reg_tokens": 2}, {"qk_norm": True}])
@pytest.mark.parametrize("training", [False, True])  # with gradients attention is computed otherwise
def test_the_residual_is_what_its_equations_say(
    backbones: Callable[..., Backbone], kind: dict[str, Any], blocks: tuple[int, ...], training: bool
) -> None:
    backbone = backbones(depth=3, **kind)
    residuals, x = finished(backbone, blocks=blocks), images(4)
    with torch.set_grad_enabled(training):
        ours = features(residuals, backbone, x)
        for task in range(2):
            reference = in_numpy(residuals, backbone, x, task, blocks)
            np.testing.assert_allclose(ours[:, task].numpy(), reference, rtol=1e-4, atol=1e-4)
    assert float((ours[:, 0] - ours[:, 1]).abs().max()) > 0.1


@pytest.mark.parametrize("kind", [{}, {"class_token": False}, {"qk_norm": True}])
def test_in_low_precision_it_is_the_same_but_for_rounding(
    backbones: Callable[..., Backbone], kind: dict[str, Any]
) -> None:
    backbone = backbones(depth=3, **kind)
    residuals, x = finished(backbone), images(4)
    autocast: list[bool] = []
    for attention in backbone.attention:  # norms of q and k are the network's: accelerators refuse mixed types in them
        for norm in (attention.q_norm, attention.k_norm):
            norm.register_forward_hook(lambda m, i, o: autocast.append(torch.is_autocast_enabled("cpu")))
    with torch.no_grad():
        exact = features(residuals, backbone, x)
        autocast.clear()
        with torch.autocast("cpu", torch.bfloat16):
            ours = features(residuals, backbone, x)
    assert len(autocast) == 12  # of the block itself and of the questions to it
    assert all(autocast)
    assert ours.dtype == torch.float32
    error = (ours - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert float(error) < 0.05


def test_a_new_residual_is_zero_and_trains_alone(backbone: Backbone) -> None:
    residuals, x = finished(backbone), images(4)
    old = features(residuals, backbone, x)
    residuals.begin(3)
    backbone.requires_grad_(True)
    new = features(residuals, backbone, x)
    assert new.shape == (4, 1, backbone.dim)
    torch.testing.assert_close(new[:, 0], backbone(x).detach()[:, : backbone.dim])
    residuals.logits(new).logsumexp(1).sum().backward()
    assert residuals.B_new is not None
    assert residuals.B_new.grad is not None
    assert residuals.B_new.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.parameters())  # the network is none of its business
    residuals.end()
    torch.testing.assert_close(features(residuals, backbone, x)[:, :2], old)


def test_on_a_network_that_stands_still_nothing_is_forgotten(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(orthogonal=False))
    x, seen = images(6, 9), []
    for t in range(3):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), disturbed)
        logits = method.encode(x).logits
        assert logits is not None
        seen.append(logits)
        assert method.residuals is not None
        assert method.residuals._delta is None  # nothing of a pass outlives it
        assert method.residuals._coordinates is None
    torch.testing.assert_close(seen[0], seen[1][:, :2])  # to rounding: products are taken of all tasks at once
    torch.testing.assert_close(seen[1], seen[2][:, :4])
    assert float((seen[2][:, :2] - seen[2][:, 2:4]).abs().max()) > 1e-2


def test_logits_are_of_each_tasks_own_feature(backbone: Backbone) -> None:
    residuals = finished(backbone)
    f = torch.randn(5, 2, backbone.dim, generator=torch.Generator().manual_seed(2))
    logits = residuals.logits(f)
    for t in range(2):
        expected = f[:, t] @ residuals.heads.weights[t].T + residuals.heads.biases[t]
        torch.testing.assert_close(logits[:, 2 * t : 2 * t + 2], expected)


def test_residuals_train_at_their_own_rate(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(class_rate=5.0))
    method.begin_task(infos(0, (0, 1), 4), [(images(4), torch.tensor([0, 1, 0, 1]))])
    method.begin_stage(0, [])
    rates = {g.rate: sum(p.numel() for p in g.parameters) for g in method.groups()}
    d = backbone.dim
    assert rates[1.0] == 2 * d + 2  # the network's own head
    asked = -(-backbone.depth // 3)  # the last third
    assert rates[5.0] == asked * 2 * 2 * 16 * d + 2 * d + 2
    assert sum(rates.values()) == sum(p.numel() for p in method.trainable())


@pytest.mark.parametrize(("blocks", "asked"), [("all", 4), ("later", 3), ("last", 2), ((-1, 0), 2), ((3,), 1)])
def test_which_blocks_are_asked(backbones: Callable[..., Backbone], blocks: Any, asked: int) -> None:
    backbone = backbones(depth=4)
    method = DualLoRA(backbone, DualLoRAConfig(class_blocks=blocks))
    assert method.residuals is not None
    assert method.residuals.A.shape[1] == 2 * asked
    assert method.residuals.attention[-1] is backbone.attention[-1]


def test_a_block_that_does_not_exist_is_named(backbones: Callable[..., Backbone]) -> None:
    load = backbones
    with pytest.raises(DualLoRAError, match=r"evidence_blocks \[0\] are none of the adapted blocks \(1,\)"):
        DualLoRA(load(), DualLoRAConfig(evidence_blocks=(0,), blocks=(1,)))
    for option in ("class_blocks", "evidence_blocks"):
        with pytest.raises(DualLoRAError, match=rf"^{option}: 9 does not exist; this backbone has blocks 0 to"):
            DualLoRA(load(), DualLoRAConfig(**{option: (9,)}))
        with pytest.raises(DualLoRAError, match=f"^{option}: none is named"):
            DualLoRA(load(), DualLoRAConfig(**{option: ()}))


def test_the_loss_of_its_head_is_smoothed(backbone: Backbone) -> None:
    x, y = images(4), torch.tensor([0, 1, 0, 1])
    method = DualLoRA(backbone, DualLoRAConfig(orthogonal=False, class_smoothing=0.2))
    method.begin_task(infos(0, (0, 1), 4), [(x, y)])
    method.begin_stage(0, [])
    assert method.residuals is not None
    with torch.no_grad():
        loss = method.loss(x, y)
        f = method._pass(x, evidence=False, residuals=True)[0]
        log_p = torch.log_softmax(method.residuals.logits(method.residuals.features(f)), 1)
        own = -log_p[torch.arange(4), y].mean()
        spread = -log_p.mean()
    expected = method.read.local_loss(f, y) + 0.8 * own + 0.2 * spread
    torch.testing.assert_close(loss, expected)


def test_a_finished_head_is_centred_and_answers_as_before(backbone: Backbone) -> None:
    residuals, x = finished(backbone), images(4)
    residuals.begin(3)
    disturbed(Trains(residuals))
    with torch.no_grad():
        before = residuals.logits(features(residuals, backbone, x))
        residuals.end()
        after = residuals.logits(features(residuals, backbone, x))[:, 4:]
    assert float(before.mean(1).abs().max()) > 1e-2
    torch.testing.assert_close(after, before - before.mean(1, keepdim=True), rtol=1e-4, atol=1e-4)

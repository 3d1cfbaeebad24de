"""DualPrompt: prefixes inside attention, and which task's prefix an image gets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from duallora.backbone import Backbone
from duallora.backbone.bundled import build
from duallora.errors import DualLoRAError
from duallora.lowrank import slots
from duallora.methods.prompts.dualprompt import DualPrompt, DualPromptConfig, default_blocks
from duallora.methods.prompts.prefix import attach, inserted
from tests_support import learn, take_a_step


def images(n: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def taught(backbone: Backbone, tasks: int = 2, **options: object) -> DualPrompt:
    torch.manual_seed(0)
    method = DualPrompt(backbone, DualPromptConfig(**{"general_length": 2, "expert_length": 3} | options))
    for t in range(tasks):
        learn(method, t, images(seed=t), (2 * t, 2 * t + 1), take_a_step)
    return method


def softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("fused", [True, False])
def test_prefix_attention_is_the_explicit_one(backbone: Backbone, fused: bool) -> None:
    attention = backbone.attention[1]
    attention.fused_attn = fused
    sites = attach(backbone.attention, [1])
    x, prefix = torch.randn(2, 4, 32), torch.randn(2, 2, 3, 32)
    with torch.no_grad(), inserted(sites, {1: prefix}):
        found = attention(x).numpy()
    weight, bias = sites[1].base.weight.detach().numpy(), sites[1].base.bias
    W_q, W_k, W_v = np.split(weight, 3)
    b_q, b_k, b_v = np.split(np.zeros(96) if bias is None else bias.detach().numpy(), 3)
    P, b_p = attention.proj.weight.detach().numpy(), attention.proj.bias.detach().numpy()
    for i in range(2):
        h = x[i].numpy()
        q, k, v = h @ W_q.T + b_q, h @ W_k.T + b_k, h @ W_v.T + b_v
        k, v = np.concatenate([prefix[i, 0].numpy(), k]), np.concatenate([prefix[i, 1].numpy(), v])
        heads = []
        for head in (slice(0, 16), slice(16, 32)):
            heads.append(softmax(q[:, head] @ k[:, head].T / 16**0.5) @ v[:, head])
        np.testing.assert_allclose(found[i], np.concatenate(heads, 1) @ P.T + b_p, atol=1e-5)


def test_normalised_keys_are_normalised_in_the_prefix_too() -> None:
    torch.manual_seed(0)
    attention = (
        build({"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "qk_norm": True})
        .blocks[0]
        .attn
    )
    x, prefix = torch.randn(1, 4, 32), torch.randn(1, 2, 3, 32)
    sites = attach([attention], [0])
    with torch.no_grad(), inserted(sites, {0: prefix}):
        found = attention(x)
        prefix[:, 0] *= 10  # of no effect on layer-normalised keys
        torch.testing.assert_close(attention(x), found, atol=1e-4, rtol=1e-4)


def test_training_uses_the_tasks_own_prompt_and_prediction_the_nearest_key(backbone: Backbone) -> None:
    method, x = taught(backbone, key_loss=0.7), images(seed=7)
    q = method.query(x)
    with torch.no_grad():
        method.keys.earlier[0], method.keys.newest[0] = q[0], q[1]
        for run in (method.experts.earlier, method.experts.newest):
            run.normal_()
    cosine = [[float(r @ k / r.norm() / k.norm()) for k in method.keys().detach()] for r in q]
    nearest = [int(np.argmax(c)) for c in cosine]
    assert method.match(q).tolist() == nearest
    assert set(nearest) == {0, 1}
    with torch.no_grad():
        experts = method.experts()
        wanted = torch.cat([method._run(x[i : i + 1], experts[t : t + 1]) for i, t in enumerate(nearest)])
        torch.testing.assert_close(method.encode(x).features, wanted, atol=1e-5, rtol=1e-5)
        own = method._run(x, experts[1:].expand(6, -1, -1, -1, -1))
        labels = torch.tensor([2, 3] * 3)
        pull = np.mean([1 - c[1] for c in cosine])
        wanted_loss = float(method.read.local_loss(own, labels)) + 0.7 * pull
        assert float(method.loss(x, labels)) == pytest.approx(wanted_loss, abs=1e-5)


@pytest.mark.parametrize(("general", "expert"), [((0,), (1,)), ((1,), (0,)), ((0, 1), (1,))])
def test_each_prompt_enters_its_own_blocks(
    general: tuple[int, ...], expert: tuple[int, ...], backbones: Callable[..., Backbone]
) -> None:
    backbone = backbones()
    method, x = taught(backbone, general_blocks=general, expert_blocks=expert), images(seed=8)
    with torch.no_grad():
        method.keys.newest.copy_(method.keys.earlier[:1] * 2 - 1)  # another direction
        for part in (method.general, method.experts.earlier, method.experts.newest):
            part.normal_(generator=torch.Generator().manual_seed(len(part.shape)))
        task = method.match(method.query(x[:1])).item()
        prefixes: dict[int, torch.Tensor] = {}
        for at, block in enumerate(general):
            prefixes[block] = method.general[at : at + 1]  # (1, 2, 2, d)
        for at, block in enumerate(expert):
            own = method.experts()[task, at].unsqueeze(0)  # (1, 2, 3, d)
            prefixes[block] = torch.cat([prefixes[block], own], 2) if block in prefixes else own
        assert {p.shape[2] for p in prefixes.values()} <= {2, 3, 5}
        with inserted(method.sites, prefixes):
            wanted = backbone(x[:1])
        torch.testing.assert_close(method.encode(x[:1]).features, wanted, atol=1e-5, rtol=1e-5)


def test_earlier_prompts_and_keys_stay_and_the_new_one_starts_from_the_last(
    backbones: Callable[..., Backbone],
) -> None:
    method = taught(backbones(), 1)
    first, key = method.experts().detach().clone(), method.keys().detach().clone()
    learn(method, 1, images(seed=1), (2, 3))
    assert torch.equal(method.experts()[1], first[0])
    assert not torch.equal(method.keys()[1], key[0])  # a key of its own from the start
    general = method.general.detach().clone()
    learn(method, 2, images(seed=2), (4, 5), take_a_step)
    assert torch.equal(method.experts()[0], first[0])
    assert torch.equal(method.keys()[0], key[0])
    assert not torch.equal(method.experts()[2], first[0])
    assert not torch.equal(method.general, general)
    fresh = taught(backbones(), 1, expert_start="random")
    learn(fresh, 1, images(seed=1), (2, 3))
    assert not torch.equal(fresh.experts()[1], fresh.experts()[0])


def test_a_prompted_pass_leaves_no_trace(backbones: Callable[..., Backbone]) -> None:
    plain, backbone = backbones()(images()), backbones()
    method = taught(backbone)
    method(images())
    assert torch.equal(method.query(images()), plain)
    with pytest.raises(RuntimeError):
        method._run(images(), method.experts()[:1, :, :, :, :5].expand(6, -1, -1, -1, -1))  # a failing pass
    assert torch.equal(method.query(images()), plain)


def test_an_image_is_judged_without_its_neighbours(backbone: Backbone) -> None:
    method, x = taught(backbone), images(8, seed=9)
    q = method.query(x)
    with torch.no_grad():
        method.keys.earlier[0], method.keys.newest[0] = q[0], q[1]
        method.experts.newest.normal_()
    assert set(method.match(q).tolist()) == {0, 1}
    alone = torch.cat([method(image[None]).rows for image in x])
    torch.testing.assert_close(method(x).rows, alone, atol=1e-4, rtol=1e-4)


def test_blocks_may_overlap_and_must_exist(backbones: Callable[..., Backbone]) -> None:
    assert default_blocks(6) == ((0, 1), (2, 3, 4))
    method = taught(backbones(), 1, general_blocks=(0, 1), expert_blocks=(-1,))
    with torch.no_grad():
        assert torch.isfinite(method(images()).rows).all()
    with pytest.raises(DualLoRAError, match="blocks: 5 does not exist"):
        DualPrompt(backbones(), DualPromptConfig(expert_blocks=(5,)))


def test_other_attention_is_refused(backbones: Callable[..., Backbone]) -> None:
    class AttentionRope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    with pytest.raises(DualLoRAError, match=r"block 0: prefixes cannot enter a AttentionRope.*vit_small"):
        attach([AttentionRope()], [0])
    backbone = backbones()
    taught(backbone, 0)
    with pytest.raises(DualLoRAError, match="load another"):
        slots(backbone.attention, ("query",))


def test_the_true_task_given_its_prompt_is_taken_whatever_the_query_says(backbone: Backbone) -> None:
    method, x = taught(backbone), images(seed=7)
    with torch.no_grad():
        method.experts.earlier.normal_()
    chosen = method.match(method.query(x))
    for task in (0, 1):
        given = method.encode_given(x, task).features
        alike = torch.isclose(given, method.encode(x).features, atol=1e-5).all(1)
        assert torch.equal(alike, chosen == task)

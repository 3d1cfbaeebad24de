"""CODA-Prompt: weights, prompts and penalty against plain numpy; components that stay and that start apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from duallora.backbone import Backbone
from duallora.methods.prompts.codaprompt import CODAPrompt, CODAPromptConfig
from duallora.methods.prompts.components import gram_schmidt, penalty, weights
from tests_support import learn, take_a_step


def images(n: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def taught(backbone: Backbone, tasks: int = 2, **options: object) -> CODAPrompt:
    torch.manual_seed(0)
    method = CODAPrompt(backbone, CODAPromptConfig(**{"components": 3, "length": 4} | options))
    for t in range(tasks):
        learn(method, t, images(seed=t), (2 * t, 2 * t + 1), take_a_step)
    return method


def cosines(q: np.ndarray, A: np.ndarray, K: np.ndarray) -> np.ndarray:
    """cos(q * A_m, K_m), one m at a time."""
    return np.array([(q * a) @ k / np.linalg.norm(q * a) / np.linalg.norm(k) for a, k in zip(A, K, strict=True)])


def test_an_images_prompt_is_the_attention_weighted_sum(backbone: Backbone) -> None:
    method = taught(backbone)
    q = method.query(images(seed=8))
    for _, c in method._blocks():
        P, K, A = (part().detach().numpy() for part in (c.P, c.K, c.A))
        assert P.shape == (6, 4, 32)
        with torch.no_grad():
            found, weighed = c.prefix(q).numpy(), weights(q, c.A(), c.K()).numpy()
        for i, row in enumerate(q.numpy()):
            alpha = cosines(row, A, K)
            np.testing.assert_allclose(weighed[i], alpha, atol=1e-5)
            prompt = sum(a * p for a, p in zip(alpha, P, strict=True))  # (L_p, d)
            np.testing.assert_allclose(found[i, 0], prompt[:2], atol=1e-5)  # keys
            np.testing.assert_allclose(found[i, 1], prompt[2:], atol=1e-5)  # values


def test_the_penalty_is_the_mean_square_off_the_identity() -> None:
    B = np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    wanted = np.mean((B @ B.T - np.eye(2)) ** 2)  # (0 + 4 + 4 + 16) / 4
    assert wanted == 6.0
    assert float(penalty(torch.tensor(B))) == pytest.approx(wanted)
    assert float(penalty(torch.tensor(B).reshape(2, 3, 1))) == pytest.approx(wanted)


def test_the_loss_adds_the_penalties_of_all_blocks(backbone: Backbone) -> None:
    method, x, labels = taught(backbone, orthogonality=0.5), images(seed=1), torch.tensor([2, 3] * 3)
    with torch.no_grad():
        for _, part in method._parts():  # they start orthonormal, where the penalty is zero
            part.newest *= 1.5
        entropy = float(method.read.local_loss(method.encode(x).features, labels))
        kept = 0.0
        for _, c in method._blocks():
            for part in (c.P, c.K, c.A):
                B = part().flatten(1).numpy()
                kept += float(np.mean((B @ B.T - np.eye(len(B))) ** 2))
        assert kept > 1e-3
        assert float(method.loss(x, labels)) == pytest.approx(entropy + 0.5 * kept, rel=1e-4)


def test_new_components_start_orthonormal_to_the_earlier() -> None:
    torch.manual_seed(0)
    earlier = torch.randn(4, 2, 5) * 3  # learned: neither of unit length nor orthogonal
    new = gram_schmidt(earlier, 3)
    assert new.shape == (3, 2, 5)
    np.testing.assert_allclose(new.flatten(1) @ new.flatten(1).T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(earlier.flatten(1) @ new.flatten(1).T, 0, atol=1e-5)
    crowded = gram_schmidt(torch.randn(4, 5), 3)  # one free direction for three
    np.testing.assert_allclose(crowded.norm(dim=1), 1, atol=1e-6)
    assert torch.isfinite(crowded).all()


def test_full_blocks_are_noted(backbone: Backbone) -> None:
    method = taught(backbone, 1, components=20)
    assert not method.log.notes
    learn(method, 1, images(seed=1), (2, 3))
    assert any("40 components K of 32 dimensions" in note for note in method.log.notes)
    assert not any("components P" in note for note in method.log.notes)


def test_earlier_components_stay(backbones: Callable[..., Backbone]) -> None:
    backbone, plain = backbones(), backbones()(images())
    method = taught(backbone, 1)
    before = {name: part().detach().clone() for name, part in method._parts()}
    learn(method, 1, images(seed=1), (2, 3), take_a_step)
    for name, part in method._parts():
        assert torch.equal(part()[:3], before[name])
    state = method.state()
    learn(method, 2, images(seed=2), (4, 5))
    untrained = {name: part().detach().clone() for name, part in method._parts()}
    take_a_step(method)
    for name, part in method._parts():
        assert torch.equal(part()[:6], state[name])
        assert not torch.equal(part()[6:], untrained[name][6:]), name
    assert torch.equal(method.query(images()), plain)


def test_every_block_has_prompts_of_its_own(backbone: Backbone) -> None:
    method, x, seen = taught(backbone), images(seed=8), {}
    for b, attention in enumerate(backbone.attention):
        attention.register_forward_pre_hook(
            lambda *_, b=b: seen.update({b: getattr(method.sites.get(b), "prefix", None)})
        )
    with torch.no_grad():
        q = method.query(x)
        assert all(prefix is None for prefix in seen.values())  # the query sees the frozen network
        method.prompted(x, q)
        wanted = {b: c.prefix(q) for b, c in method._blocks()}
    assert len(wanted) > 1 and not torch.allclose(wanted[0], wanted[1])
    assert set(seen) == set(range(backbone.depth))
    for b, prefix in seen.items():
        assert torch.equal(prefix, wanted[b]) if b in wanted else prefix is None

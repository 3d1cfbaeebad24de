"""L2P: what is chosen, what is pulled, what the prompted pass computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.methods.prompts.l2p import L2P, L2PConfig
from duallora.settings import validated
from tests_support import learn, take_a_step


def made(backbone: Backbone, **options: object) -> L2P:
    torch.manual_seed(0)
    method = L2P(backbone, L2PConfig(**{"pool": 6, "length": 2, "top": 3} | options))
    with torch.no_grad():  # well apart, so that images differ in what they choose
        method.keys.normal_()
        method.prompts.normal_(std=0.5)
    return method


def images(n: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def explicit(backbone: Backbone, x: torch.Tensor, prompts: torch.Tensor, pooled: str) -> torch.Tensor:
    """One image at a time, prompts in front as the paper writes them, layer by layer."""
    vit, rows = backbone.vit, []
    for image, own in zip(x, prompts, strict=True):
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None])))
        out = vit.norm(vit.blocks(torch.cat([own[None], tokens], 1)))
        here = len(own)
        if pooled == "prompts":
            feature = out[:, :here].mean(1)
        else:
            feature = out[:, here] if backbone.has_class_token else out[:, here:].mean(1)
        rows.append(vit.fc_norm(feature))
    return torch.cat(rows)


def test_choice_and_key_loss_are_the_papers(backbone: Backbone) -> None:
    method = made(backbone, key_loss=0.7)
    x, labels = images(), torch.tensor([0, 1, 0, 1, 0])
    learn(method, 0, x, (0, 1))
    q, k = backbone(x).numpy(), method.keys.detach().numpy()
    chosen, pull = [], 0.0
    for row in q:
        cosine = np.array([row @ key / np.linalg.norm(row) / np.linalg.norm(key) for key in k])
        best = np.argsort(-cosine)[:3]
        chosen.append(best)
        pull += sum(1 - cosine[m] for m in best) / len(q)
    assert method.choose(method.query(x))[0].tolist() == np.array(chosen).tolist()
    assert len({tuple(sorted(c)) for c in chosen}) > 1
    with torch.no_grad():
        features = method.encode(x).features
        entropy = method.read.local_loss(features, labels)
        assert method.loss(x, labels) == pytest.approx(float(entropy) + 0.7 * pull, abs=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("pooled", ["prompts", "token"])
def test_the_prompted_pass_is_the_explicit_one(
    backbones: Callable[..., Backbone], pooled: str, class_token: bool
) -> None:
    backbone = backbones(class_token=class_token)
    method, x = made(backbone, pooled=pooled), images()
    chosen = method.choose(method.query(x))[0]
    with torch.no_grad():
        wanted = explicit(backbone, x, method.prompts[chosen].reshape(5, 6, -1), pooled)
        torch.testing.assert_close(method.encode(x).features, wanted, atol=1e-5, rtol=1e-5)


def test_a_prompted_pass_leaves_no_trace(backbones: Callable[..., Backbone]) -> None:
    plain, x = backbones()(images()), images()
    backbone = backbones()
    method = made(backbone)
    learn(method, 0, x, (0, 1), take_a_step)
    assert torch.equal(backbone(x), plain)
    with pytest.raises(RuntimeError):
        method._run(x, torch.zeros(2, 3, dtype=torch.int64))  # a failing pass: prompts of two images for five
    assert torch.equal(method.query(x), plain)


def test_an_image_is_judged_without_its_neighbours(backbone: Backbone) -> None:
    method, x = made(backbone), images(8)
    learn(method, 0, x, (0, 1))
    alone = torch.cat([method(image[None]).rows for image in x])
    torch.testing.assert_close(method(x).rows, alone, atol=1e-4, rtol=1e-4)


def test_keys_move_by_the_key_loss_alone_and_only_where_chosen(backbone: Backbone) -> None:
    method, x = made(backbone, top=1), images(2)
    learn(method, 0, x, (0, 1))
    method.loss(x, torch.tensor([0, 1])).backward()
    chosen = set(method.choose(method.query(x))[0].flatten().tolist())
    assert {m for m in range(6) if method.keys.grad[m].any()} == chosen
    assert {m for m in range(6) if method.prompts.grad[m].any()} == chosen
    still = made(backbone, key_loss=0.0)
    learn(still, 0, x, (0, 1))
    still.loss(x, torch.tensor([0, 1])).backward()
    assert not still.keys.grad.any()


def test_bad_options_and_backbones_are_told() -> None:
    with pytest.raises(DualLoRAError, match=r"top = 7 .* pool of 6"):
        validated(L2PConfig, {"pool": 6, "top": 7}, "method l2p")

    class Other:
        dim, features, depth, has_class_token = 8, 8, 2, True

    with pytest.raises(DualLoRAError, match="load_backbone"):
        L2P(Other(), L2PConfig())

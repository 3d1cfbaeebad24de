"""One contract for every registered method."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from duallora.backbone import Backbone
from duallora.methods import Method, get_method, list_methods
from tests_support import infos, learn, take_a_step

METHODS = list_methods()


def made(name: str, backbone: Backbone) -> Method:
    kind = get_method(name)
    torch.manual_seed(0)
    return kind(backbone, kind.Config())


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


TASKS = [(0, 1), (2,), (3, 4, 5), (1, 6)]  # uneven, a task of one class, a class that comes again


def taught(name: str, backbone: Backbone, count: int = len(TASKS)) -> Method:
    method = made(name, backbone)
    for t, classes in enumerate(TASKS[:count]):
        learn(method, t, images(4 * len(classes), t), classes, take_a_step, members=tuple(TASKS[: t + 1]))
    return method


@pytest.mark.parametrize("name", METHODS)
def test_it_answers_for_every_class_so_far(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone)
    output = method(images(3, 99))
    assert output.rows.shape == (3, len(method.rows))
    scores = method.rows.class_scores(output.rows)
    assert scores.shape == (3, 7)
    assert torch.isfinite(scores).all()
    assert method.rows.members == TASKS


@pytest.mark.parametrize("name", METHODS)
def test_every_readout_can_be_decoded(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 2)
    encoding = method.encode_for(images(3, 98), method.readouts)
    shown = set()
    for readout in method.readouts:
        assert method.decode(encoding, readout).rows.shape == (3, 3)
        shown.add(method.displayed(readout))
    assert len(shown) == len(method.readouts)
    assert name in shown


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_predicts_the_same_and_learns_on_the_same(name: str, backbones: Callable[..., Backbone]) -> None:
    """Invariant 7."""
    method = taught(name, backbones(), 2)
    other = made(name, backbones())
    other.load_state({k: v.clone() for k, v in method.state().items()})
    x = images(5, 97)
    assert torch.equal(method(x).rows, other(x).rows)
    for m in (method, other):
        torch.manual_seed(5)
        learn(m, 2, images(12, 2), TASKS[2], take_a_step, members=tuple(TASKS[:3]))
    torch.testing.assert_close(method(x).rows, other(x).rows, atol=0, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_state_is_tensors_and_cost_is_their_size(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 2)
    state = method.state()
    assert all(isinstance(v, torch.Tensor) and not v.requires_grad for v in state.values())
    assert method.cost().bytes_kept == sum(v.numel() * v.element_size() for v in state.values())
    assert (method.cost().images_kept > 0) == method.cumulative  # only the upper bound keeps images


@pytest.mark.parametrize("name", METHODS)
def test_passes_per_image_are_those_that_the_first_block_sees(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 2)
    seen = []
    handle = backbone.vit.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    method(images(4, 94))
    handle.remove()
    assert method.cost().passes_per_image == sum(seen) / 4


@pytest.mark.parametrize("name", METHODS)
def test_nothing_kept_grows_with_the_number_of_images(name: str, backbones: Callable[..., Backbone]) -> None:
    sizes = []
    for n in (8, 40):
        method = made(name, backbones())
        # the same few images again and again: their span, and with it the bases, is the same
        learn(method, 0, images(8, 0).repeat(n // 8, 1, 1, 1), (0, 1), members=((0, 1),))
        sizes.append(method.cost().bytes_kept)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", [m for m in METHODS if get_method(m).frozen])
def test_the_backbone_stays_frozen(name: str, backbone: Backbone) -> None:
    method = made(name, backbone)
    method.begin_task(infos(0, (0, 1), 8, ((0, 1),)), [])
    inner = {id(p) for n, p in method.named_parameters() if ".base." in n or "patch_embed" in n or ".mlp." in n}
    assert not inner & {id(p) for p in method.trainable()}
    assert all(p.requires_grad for p in method.trainable())


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_gives_finite_scores(name: str, backbone: Backbone) -> None:
    method = made(name, backbone)
    with torch.autocast("cpu", torch.bfloat16):
        for t, classes in enumerate(TASKS[:2]):
            learn(method, t, images(4 * len(classes), t), classes, take_a_step, members=tuple(TASKS[: t + 1]))
        assert torch.isfinite(method(images(3, 96)).rows).all()


@pytest.mark.parametrize("name", [m for m in METHODS if get_method(m).readouts != ("default",)])
def test_distance_tells_noise_from_what_was_learned(name: str, backbone: Backbone) -> None:
    method = made(name, backbone)
    x = images(1, 0) + 0.05 * images(64, 1)
    learn(method, 0, x, (0, 1), members=((0, 1),))
    near, far = method(x).distance, method(images(16, 95) * 5).distance
    assert (near <= 1).float().mean() > 0.9
    assert far.min() > near.median()

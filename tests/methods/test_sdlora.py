"""SD-LoRA: normalised directions, the gradient of their magnitudes, and its variants, by numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from duallora.backbone import Backbone
from duallora.lowrank.directed import DirectedLinear
from duallora.lowrank.directions import combination, gram, lengths
from duallora.methods.sdlora import SDLoRA, SDLoRAConfig
from tests_support import infos, learn, take_a_step

CODE = {"norm": "factors", "current": "plain", "magnitude": 0.8, "restart": True}


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def made(backbone: Backbone, **options: object) -> SDLoRA:
    torch.manual_seed(0)
    return SDLoRA(backbone, SDLoRAConfig(**options))


def taught(backbone: Backbone, tasks: int, **options: object) -> SDLoRA:
    method = made(backbone, **options)
    for t in range(tasks):
        learn(method, t, images(8, t), (2 * t, 2 * t + 1), take_a_step)
    return method


def begin(method: SDLoRA, t: int) -> DirectedLinear:
    method.begin_task(infos(t, (2 * t, 2 * t + 1), 8), [])
    site = method.sites[0]
    assert isinstance(site, DirectedLinear)
    return site


def products(state: dict[str, Tensor], name: str, rank: int) -> list[np.ndarray]:
    """B_k A_k of the first block, as saved."""
    A, B = state[f"site.0.{name}.A"].double().numpy(), state[f"site.0.{name}.B"].double().numpy()
    return [B[:, i : i + rank] @ A[i : i + rank] for i in range(0, len(A), rank)]


def test_the_weight_is_the_sum_of_directions_of_length_one(backbone: Backbone) -> None:
    weight, d = backbone.attention[0].qkv.weight.clone().double().numpy(), backbone.dim
    method = taught(backbone, 3, rank=2)
    alpha = method.magnitudes.double().numpy()
    assert len(alpha) == 3
    assert np.abs(alpha - 1).min() > 0  # all of them train
    now = backbone.attention[0].qkv.weight.double().numpy()
    for name, rows in (("query", slice(0, d)), ("value", slice(2 * d, 3 * d))):
        D = [P / np.linalg.norm(P) for P in products(method.state(), name, 2)]
        wanted = weight[rows] + sum(a * Dk for a, Dk in zip(alpha, D, strict=True))
        assert np.allclose(now[rows], wanted, atol=1e-6)
    assert np.array_equal(now[d : 2 * d], weight[d : 2 * d])


@pytest.mark.parametrize("norm", ["product", "factors"])
def test_gradients_of_magnitudes_and_of_a_direction(backbone: Backbone, norm: str) -> None:
    """dL/d alpha_k = <G, D_k> with G = dL/dW; a direction's own gradient is that of its normalised form."""
    method = taught(backbone, 2, rank=2, norm=norm)
    site, d = begin(method, 2), backbone.dim
    x, c = torch.randn(5, d), torch.randn(5, 3 * d)
    (site(x.unsqueeze(0)).squeeze(0) * c).sum().backward()
    slopes, numeric = np.zeros(3), []
    for name, rows in (("query", slice(0, d)), ("value", slice(2 * d, 3 * d))):
        G = (c[:, rows].T @ x).double().numpy()
        A, B = (f.detach().double().numpy() for f in site.acting(name))
        old, live = site.factors[name], site.live[name]
        for k in range(2):
            Ak, Bk = (f.double().numpy() for f in (old[0][2 * k : 2 * k + 2], old[1][:, 2 * k : 2 * k + 2]))
            length = np.linalg.norm(Bk @ Ak) if norm == "product" else np.linalg.norm(Bk) * np.linalg.norm(Ak)
            assert np.isclose(length, 1, atol=1e-5)
        slopes += [(G * (B[:, 2 * k : 2 * k + 2] @ A[2 * k : 2 * k + 2])).sum() for k in range(3)]

        def value(A: np.ndarray, B: np.ndarray, G: np.ndarray = G) -> float:
            length = np.linalg.norm(B @ A) if norm == "product" else np.linalg.norm(B) * np.linalg.norm(A)
            return float((G * (B @ A)).sum() / length)

        A, B = live.A.detach().double().numpy(), live.B.detach().double().numpy()
        step = np.zeros_like(A)
        step[1, 3] = 1e-5
        numeric.append((value(A + step, B) - value(A - step, B)) / 2e-5)
        assert np.isclose(float(live.A.grad[1, 3]), numeric[-1], rtol=1e-3, atol=1e-4)
    assert method.magnitudes.grad is not None
    assert np.allclose(method.magnitudes.grad.numpy(), slopes, rtol=1e-4, atol=1e-4)
    assert max(map(abs, numeric)) > 1e-3


def test_as_in_the_code_the_current_direction_is_plain_and_magnitudes_start_again(backbone: Backbone) -> None:
    weight, d = backbone.attention[0].qkv.weight.clone().double().numpy(), backbone.dim
    method = made(backbone, rank=2, **CODE)
    site = begin(method, 0)
    x = images(3, 9)
    assert all(not site.live[name].B.any() for name in site.live)  # B = 0: nothing changes when a task begins
    learn(method := made_again(method), 1, images(8, 1), (2, 3), take_a_step)
    first = products(method.state(), "value", 2)
    now = backbone.attention[0].qkv.weight.double().numpy()[2 * d :]
    alpha = method.magnitudes.double().numpy()
    assert np.allclose(now, weight[2 * d :] + alpha[0] * first[0] + alpha[1] * first[1], atol=1e-6)
    lengths_ = [np.linalg.norm(P) for P in first]
    assert lengths_[0] < 1  # by the product of norms, which is more than the norm of the product
    site = begin(method, 2)
    assert torch.allclose(method.magnitudes, torch.full((3,), 0.8))
    for A, B in site.factors.values():
        for k in range(2):
            a, b = A[2 * k : 2 * k + 2], B[:, 2 * k : 2 * k + 2]
            assert torch.isclose(a.norm() * b.norm(), torch.tensor(1.0), atol=1e-5)
    assert torch.isfinite(method(x).rows).all()


def made_again(method: SDLoRA) -> SDLoRA:
    """The method after a task 0 that was begun by hand."""
    method.batch = (images(8, 0), torch.arange(8) % 2)  # type: ignore[assignment]
    take_a_step(method)
    method.end_task([method.batch])  # type: ignore[list-item]
    return method


def test_between_tasks_the_sum_is_folded_and_taken_out_bit_by_bit(backbone: Backbone) -> None:
    weight = backbone.attention[0].qkv.weight.clone()
    method = taught(backbone, 2, rank=2)
    assert not torch.equal(backbone.attention[0].qkv.weight, weight)
    x = images(4, 7)
    before = method.encode(x).features
    site = begin(method, 2)
    assert torch.equal(backbone.attention[0].qkv.weight, weight)
    with torch.no_grad():
        method.magnitudes[-1] = 0  # without the new direction the function is what it was
    torch.testing.assert_close(method.encode(x).features, before, atol=1e-4, rtol=1e-4)
    assert site.weight.shape == weight.shape


def test_fewer_ranks_for_later_tasks(backbone: Backbone) -> None:
    method = taught(backbone, 3, rank=4, reduced=((3, 1), (2, 2)))
    assert torch.bincount(method.sites[0].owner).tolist() == [4, 2, 1]
    assert method.state()["site.1.query.A"].shape == (7, backbone.dim)


def test_a_direction_that_earlier_ones_express_is_absorbed(backbone: Backbone) -> None:
    method = taught(backbone, 2, rank=2, absorb=1e-3)
    assert len(method.magnitudes) == 2  # two random directions: nothing to absorb
    begin(method, 2)
    with torch.no_grad():
        method.magnitudes.copy_(torch.tensor([1.0, 2.0, 0.5]))
        for site in method.sites:
            for name, new in site.live.items():
                A, B = site.factors[name]
                new.A.copy_(A[:2])
                new.B.copy_(-3 * B[:, :2])  # minus the first direction
    method.end_task([(images(8, 2), torch.arange(8) % 2 + 4)])
    torch.testing.assert_close(method.magnitudes.detach(), torch.tensor([0.5, 2.0]), atol=1e-4, rtol=0)
    assert method.state()["site.0.query.A"].shape == (4, backbone.dim)
    assert "absorbed" in method.log.notes[0]
    learn(method, 3, images(8, 3), (6, 7), take_a_step)
    assert len(method.magnitudes) == 3


CODED: dict[str, object] = {"norm": "factors", "current": "plain", "magnitude": 0.8, "restart": True}


@pytest.mark.parametrize("options", [{}, CODED], ids=["paper", "code"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_task_of_one_class_leaves_no_random_direction(
    backbones: Callable[..., Backbone], before: int, options: dict[str, object]
) -> None:
    """Its loss is zero: the direction is as it was drawn, which at length one would act like any other.

    In the code's way it is zero, and divided by its length in each task to come it would be infinite in the end.
    """
    method, other = taught(backbones(), before, **options), made(backbones(), **options)
    weight = [site.weight.clone() for site in method.sites]
    learn(method, before, images(8, 9), (2 * before,), take_a_step)
    assert len(method.magnitudes) == before
    for site, old in zip(method.sites, weight, strict=True):
        if not (options and before):  # the code's way starts the magnitudes of earlier directions again in any task
            torch.testing.assert_close(site.weight, old)
    assert "no direction is kept" in method.log.notes[0]
    other.load_state(method.state())
    for m in (method, other):
        torch.manual_seed(1)
        learn(m, before + 1, images(8, 10), (2 * before + 1, 2 * before + 2), take_a_step)
        assert len(m.magnitudes) == before + 1 and not m.log.notes
    assert torch.equal(method.sites[0].weight, other.sites[0].weight)
    assert not torch.allclose(method.sites[0].weight, weight[0])


def test_absorbing_what_a_restart_forgets_is_refused() -> None:
    with pytest.raises(ValidationError, match="restart"):
        SDLoRAConfig(absorb=1e-3, restart=True)


@pytest.mark.parametrize("options", [CODE, {"absorb": 10.0}, {"reduced": ((2, 3),)}])
def test_variants_survive_a_save(backbones: Callable[..., Backbone], options: dict[str, object]) -> None:
    method = taught(backbones(), 2, rank=4, **options)
    other = made(backbones(), rank=4, **options)
    other.load_state({k: v.clone().contiguous() for k, v in method.state().items()})
    x = images(4, 8)
    assert torch.equal(method(x).rows, other(x).rows)
    for m in (method, other):
        torch.manual_seed(3)
        learn(m, 2, images(8, 2), (4, 5), take_a_step)
    assert torch.equal(method(x).rows, other(x).rows)


def test_lengths_and_angles_without_the_matrices() -> None:
    g = torch.Generator().manual_seed(0)
    A, B = torch.randn(6, 9, generator=g).double(), torch.randn(7, 6, generator=g).double()
    owner = torch.tensor([0, 0, 1, 1, 1, 2])
    P = [(B[:, owner == k] @ A[owner == k]).flatten() for k in range(3)]
    G = torch.stack([torch.stack([p @ q for q in P]) for p in P])
    torch.testing.assert_close(gram(A, B, owner, 3), G)
    torch.testing.assert_close(lengths(A, B, owner, 3, "product"), G.diagonal().sqrt())
    factors = torch.stack([A[owner == k].norm() * B[:, owner == k].norm() for k in range(3)])
    torch.testing.assert_close(lengths(A, B, owner, 3, "factors"), factors)
    c, rest = combination(G)
    X, y = torch.stack(P[:2], 1).numpy(), P[2].numpy()
    wanted, *_ = np.linalg.lstsq(X, y, rcond=None)
    assert np.allclose(c.numpy(), wanted)
    assert np.isclose(rest, np.square(y - X @ wanted).sum() / np.square(y).sum())

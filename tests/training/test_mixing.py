"""Blended images and the shares of their labels."""

from __future__ import annotations

import pytest
import torch

from duallora.training.mixing import Mix, Mixing, Smoothing


def constant_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Each image has one value everywhere, its own: what is in a blend can be read off its pixels."""
    values = torch.tensor([0.0, 1.0, 10.0, 100.0])
    return values.view(4, 1, 1, 1).expand(4, 3, 16, 16).clone(), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "both"])
def test_labels_are_blended_in_the_shares_of_the_pixels(kind: Mix) -> None:
    images, labels = constant_images()
    values = torch.tensor([0.0, 1.0, 10.0, 100.0, 0.0])
    for step in range(20):
        mixed, shares = Mixing(kind, classes=5, seed=1)(images, labels, step)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ values, rtol=1e-4, atol=1e-4)
        assert shares.dtype == torch.float32


def test_mixup_blends_everywhere_and_cutmix_pastes_a_box() -> None:
    images, labels = constant_images()
    mixup, _ = Mixing("mixup", classes=4, seed=1)(images, labels, 3)
    cutmix, _ = Mixing("cutmix", classes=4, seed=1)(images, labels, 3)
    assert all(len(image.unique()) == 1 for image in mixup)
    assert all(set(image.unique().tolist()) <= {0.0, 1.0, 10.0, 100.0} for image in cutmix)
    assert any(len(image.unique()) == 2 for image in cutmix)


def test_it_depends_on_seed_and_step_alone_and_leaves_the_generator_alone() -> None:
    images, labels = constant_images()
    torch.manual_seed(0)
    first, _ = Mixing("both", classes=4, seed=1)(images, labels, 7)
    after = torch.rand(3)
    second, _ = Mixing("both", classes=4, seed=1)(images, labels, 7)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(first, second)
    others = [Mixing("both", classes=4, seed=s)(images, labels, n)[0] for s, n in ((1, 8), (2, 7))]
    assert not any(torch.equal(first, other) for other in others)


def test_both_takes_either() -> None:
    images, labels = constant_images()
    mixing = Mixing("both", classes=4, seed=0)
    boxed = [any(len(i.unique()) > 1 for i in mixing(images, labels, step)[0]) for step in range(30)]
    assert any(boxed) and not all(boxed)


def test_smoothed_labels_are_those_of_torch() -> None:
    logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([5, 0, 2])  # of a task with the classes 5, 0 and 2
    local = torch.tensor([0, 1, 2, 2, 1, 0])
    shares = Smoothing(0.3, own)(own[local])
    assert shares.shape == (6, 6)
    expected = torch.nn.functional.cross_entropy(logits[:, own], local, label_smoothing=0.3)
    found = torch.nn.functional.cross_entropy(logits[:, own], shares[:, own])
    torch.testing.assert_close(found, expected)
    assert not shares[:, [1, 3, 4]].any()  # classes of other tasks take no part
    blended = 0.5 * shares + 0.5 * Smoothing(0.0, own)(own[local.flip(0)])
    torch.testing.assert_close(Smoothing(0.3, own)(blended).sum(1), torch.ones(6))

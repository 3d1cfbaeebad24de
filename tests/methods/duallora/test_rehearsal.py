"""The rehearsal of a first session: half of the classes train, the other half says how far to go."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from duallora.backbone import Backbone
from duallora.methods.duallora import rehearsal
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.method import DualLoRA
from duallora.methods.duallora.rehearsal import FOLDS, SHARES, Rehearsal, surpasses, told
from tests_support import features_of_classes, learn, take_a_step

FIVE = (0, 1, 2, 3, 4)


def made(backbone: Backbone, **options: object) -> DualLoRA:
    torch.manual_seed(0)
    return DualLoRA(backbone, DualLoRAConfig(**options))  # type: ignore[arg-type]


def images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def rates(method: DualLoRA) -> list[float]:
    return [group.rate for group in method.groups() if group.parameters]


def weights(method: DualLoRA) -> list[Tensor]:
    return [site.base.weight.detach().clone() for site in method.sites]


def rehearsing(method: DualLoRA) -> Rehearsal | None:
    return method.session and method.session.rehearsal


def trained(method: DualLoRA) -> list[Tensor]:
    return [p.detach().clone() for site in method.sites for p in site.orthogonal.parameters()]


def results(monkeypatch: pytest.MonkeyPatch, *right: int) -> None:
    """How many images of each of the two turns `told` is to find right, share by share: the first ones of ten."""
    answers = iter(2 * [torch.arange(10) < n for n in right])
    monkeypatch.setattr(rehearsal, "told", lambda x, y, out, classes, shrinkage: next(answers))


def test_told_rightly_as_worked_out_in_numpy() -> None:
    x, y = features_of_classes((7, 8, 9, 6), d=4)
    x = x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))  # so that some are wrong
    out = y % 2 == 1
    right = np.zeros(len(y), bool)
    a, b = x.double().numpy(), y.numpy()
    fold = np.array([(b[:i] == b[i]).sum() % FOLDS if out[i] else -1 for i in range(len(b))])
    for f in range(FOLDS):
        rest = fold != f
        mu = np.stack([a[rest & (b == c)].mean(0) for c in range(4)])
        within = a[rest] - mu[b[rest]]
        sigma = within.T @ within / (rest.sum() - 4)
        n, d = rest.sum() - 4, 4
        square, trace = (sigma**2).sum(), np.trace(sigma)
        alpha = min(1, ((1 - 2 / d) * square + trace**2) / ((n + 1 - 2 / d) * (square - trace**2 / d)))
        sigma = (1 - alpha) * sigma + alpha * trace / d * np.eye(d)
        scores = a @ np.linalg.solve(sigma, mu.T) - 0.5 * (mu.T * np.linalg.solve(sigma, mu.T)).sum(0)
        right[fold == f] = (scores.argmax(1) == b)[fold == f]
    assert 0 < right.sum() < int(out.sum())
    assert told(x, y, out, 4).tolist() == right[out.numpy()].tolist()


def test_classes_left_out_do_not_train(backbone: Backbone) -> None:
    method = made(backbone)
    x, y = images(10), torch.arange(10) % 5
    grads = []

    def training(m: DualLoRA) -> None:
        if rehearsing(m):
            for changed in (x, torch.where((y % 2 != rehearsing(m).turn)[:, None, None, None], images(10, 7), x)):
                m.zero_grad()
                m.loss(changed, y).backward()
                grads.append([p.grad.clone() for p in m.parameters() if p.grad is not None])

    learn(method, 0, x, FIVE, training)
    assert len(grads) == 4
    for same, other in (grads[:2], grads[2:]):
        assert any(g.abs().max() > 0 for g in same)
        for a, b in zip(same, other, strict=True):
            torch.testing.assert_close(a, b)
    assert grads[0][-1].shape != grads[2][-1].shape or not torch.equal(grads[0][-1], grads[2][-1])


def test_both_turns_and_the_session_start_alike_and_the_network_has_not_moved(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    results(monkeypatch, 1, 2, 5, 4, 3)
    method = made(backbone)
    before, starts, moved, rates = weights(method), [], [], []

    def training(m: DualLoRA) -> None:
        starts.append(trained(m))
        take_a_step(m)
        moved.append(trained(m))
        rates.append([group.rate for group in m.groups() if group.parameters])

    learn(method, 0, images(20), FIVE, training)
    for i in (0, 1, 2):
        assert any(not torch.equal(a, b) for a, b in zip(starts[i], moved[i], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(starts[0], starts[i], strict=True))
    assert starts[3] == []  # settled
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(method), strict=True))
    assert rates == [[3.0, 3.0, 3.0], [3.0, 3.0, 3.0], [3.0, 3.0], [1.0, 3.0]]  # network, head, rehearsal's or residual


def test_each_share_is_measured_with_the_network_there_and_by_all_features(
    backbones: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, seen = backbones(levels=2), []
    monkeypatch.setattr(rehearsal, "told", lambda x, y, out, classes, shrinkage: seen.append(x) or y[out] < 0)
    method = made(backbone)
    x, expected = images(20), []

    def training(m: DualLoRA) -> None:
        take_a_step(m)
        if rehearsing(m) and not expected:
            kept = [adapter.B.detach().clone() for adapter in rehearsing(m).adapters]
            for share in SHARES:
                with torch.no_grad():
                    for adapter, B in zip(rehearsing(m).adapters, kept, strict=True):
                        adapter.B.copy_(share * B)
                    expected.append(m._pass(x, evidence=False)[0])
            with torch.no_grad():
                for adapter, B in zip(rehearsing(m).adapters, kept, strict=True):
                    adapter.B.copy_(B)

    learn(method, 0, x, FIVE, training)
    assert len(seen) == 2 * len(SHARES)
    assert not torch.allclose(seen[0], seen[4])
    for found, features in zip(seen, expected, strict=False):
        assert found.shape[1] == backbone.features
        torch.testing.assert_close(found, features)


def test_what_ran_away_is_no_way_to_go() -> None:
    x, y = features_of_classes((4, 4), d=3)
    x[0, 0] = torch.nan
    assert told(x, y, y == 1, 2).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("right", "share"), [((1, 2, 5, 4, 3), 0.5), ((1, 2, 3, 4, 5), 1.0), ((1, 5, 2, 5, 4), 0.25)], ids=str
)
def test_it_goes_as_far_as_was_best(
    right: tuple[int, ...], share: float, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    results(monkeypatch, *right)
    method = made(backbone)
    before, updates, counts = weights(method), [], []

    def training(m: DualLoRA) -> None:
        counts.append(m.stages)
        take_a_step(m)
        if len(counts) == 3:
            for site in m.sites:
                parts = [site.orthogonal[name].factors() for name in ("query", "key", "value")]
                updates.append(torch.cat([B @ A for A, B in parts]))

    learn(method, 0, images(20), FIVE, training)
    assert counts == [4, 4, 4, 4]
    for old, update, new in zip(before, updates, weights(method), strict=True):
        assert update.abs().max() > 0
        torch.testing.assert_close(new, old + share * update)
    assert f"first session: {share:.0%} of the way" in method.log.notes[0]


def test_the_best_of_those_beyond_chance_is_taken(backbone: Backbone) -> None:
    """Half of the way tells most, but here and there other images; a quarter tells three more and loses none."""
    one = a_turn(backbone)
    none = torch.arange(100) < 50
    one.right = [none, torch.arange(100) < 53, (torch.arange(100) + 20) % 100 < 54, none, none]
    assert one.counts == [50, 53, 54, 50, 50]
    assert one.finish() == 0.25


@pytest.mark.parametrize(
    ("one_way", "other_way", "more"),
    [(0, 0, False), (1, 0, False), (2, 0, True), (5, 2, True), (5, 3, False), (40, 31, True), (40, 32, False)],
)
def test_more_than_chance_is_more_than_a_standard_error(one_way: int, other_way: int, more: bool) -> None:
    """Beside images that both tell rightly, or neither."""
    ours = torch.tensor([True] * one_way + [False] * other_way + [True] * 9 + [False] * 7)
    theirs = torch.tensor([False] * one_way + [True] * other_way + [True] * 9 + [False] * 7)
    assert surpasses(ours, theirs) is more
    assert not (more and surpasses(theirs, ours))


def test_what_is_ahead_by_chance_alone_is_told(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "surpasses", lambda ours, theirs: False)
    results(monkeypatch, 3, 5, 4, 4, 4)
    method = made(backbone)
    learn(method, 0, images(20), FIVE, take_a_step)
    assert method.log.notes[0].endswith(
        "0% of the way, by classes left out in rehearsal, of whose 20 images it got right 30.0% at 0%, 50.0% at 25%, "
        "40.0% at 50%, 40.0% at 75%, 40.0% at 100%: none beyond chance ahead of 0%"
    )


@pytest.mark.parametrize("right", [(3, 3, 2, 1, 0), (8, 8, 8, 8, 8)], ids=str)
def test_where_it_does_not_help_there_is_none(
    right: tuple[int, ...], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    results(monkeypatch, *right)
    method = made(backbone)
    before, counts = weights(method), []
    learn(method, 0, images(20), FIVE, lambda m: counts.append(m.stages) or take_a_step(m))
    assert counts == [4, 4, 3]  # the session itself is left out
    assert all(torch.equal(a, b) for a, b in zip(before, weights(method), strict=True))
    assert torch.isfinite(method(images(3)).rows).all()


def test_too_few_classes_to_rehearse_with_are_learned_as_every_other_task(backbones: Callable[..., Backbone]) -> None:
    method, plain = made(backbones()), made(backbones(), first_rate=None)
    seen: list[list[float]] = []

    def training(m: DualLoRA) -> None:
        seen.append(rates(m))
        take_a_step(m)

    for m in (method, plain):
        for t in (0, 1):
            torch.manual_seed(t)
            learn(m, t, images(9, t), (3 * t, 3 * t + 1, 3 * t + 2), training)
    assert seen == [[0.1, 1.0, 3.0]] * 4  # network, head, residual
    assert torch.equal(method(images(3)).rows, plain(images(3)).rows)
    fresh = made(backbones())
    fresh.load_state({k: v.clone() for k, v in method.state().items()})
    assert all(torch.equal(a, b) for a, b in zip(weights(method), weights(fresh), strict=True))


def test_that_they_are_too_few_is_told(backbone: Backbone) -> None:
    method = made(backbone)
    learn(method, 0, images(9), (0, 1, 2), take_a_step)
    assert method.log.notes == ["first session: none; its rehearsal takes 4 classes, the task has 3"]


def test_a_saved_state_learns_on_the_same(backbones: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    results(monkeypatch, 1, 2, 5, 4, 3)
    method, other = made(backbones()), made(backbones())
    learn(method, 0, images(20), FIVE, take_a_step)
    other.load_state({k: v.clone() for k, v in method.state().items()})
    for m in (method, other):
        torch.manual_seed(5)
        learn(m, 1, images(8, 2), (5, 6), take_a_step)
    assert torch.equal(method(images(3)).rows, other(images(3)).rows)


def a_turn(backbone: Backbone, turn: int = 0) -> Rehearsal:
    method = made(backbone)
    found: list[Rehearsal] = []
    learn(method, 0, images(20), FIVE, lambda m: found.append(rehearsing(m)) if rehearsing(m) else None)
    found[0].start(turn)
    return found[0]


def test_a_batch_of_classes_left_out_alone_costs_nothing(backbone: Backbone) -> None:
    loss = a_turn(backbone).loss(torch.zeros(0, backbone.dim), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0


def test_blended_images_count_where_all_of_them_is_in_training(backbone: Backbone) -> None:
    one = a_turn(backbone, turn=1)
    shares = torch.tensor([[0, 0.5, 0, 0.5, 0], [0.1, 0.9, 0, 0, 0], [0, 1, 0, 0, 0]])
    assert one.inside(shares).tolist() == [True, False, True]
    features = torch.randn(2, backbone.dim, generator=torch.Generator().manual_seed(0))
    assert one.head is not None
    log_p = torch.log_softmax(one.head(features), 1)
    expected = -(0.5 * log_p[0, 0] + 0.5 * log_p[0, 1] + log_p[1, 0]) / 2
    torch.testing.assert_close(one.loss(features, shares[one.inside(shares)]), expected)


@pytest.mark.parametrize(("name", "most", "looked_at"), [("MOST", 7, 7), ("IN_ALL", 35, 7), ("IN_ALL", 5, 2 * FOLDS)])
def test_only_so_many_images_of_a_class_are_looked_at(
    name: str, most: int, looked_at: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, name, most)
    one, looked = a_turn(backbone), []

    def features(x: Tensor) -> Tensor:
        looked.append(len(x))
        return x.flatten(1)[:, : backbone.dim]

    y = torch.arange(40) % 5
    before = one.seen
    one.measure(features, lambda labels: labels, [(images(40)[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)])
    assert sum(looked) == len(SHARES) * 5 * looked_at
    assert one.seen - before == 2 * looked_at  # two classes are left out of turn 0
    with pytest.raises(RuntimeError, match="no turn has started"):
        one.loss(torch.zeros(1, backbone.dim), torch.zeros(1, dtype=torch.int64))

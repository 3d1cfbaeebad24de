"""Heads times Gaussians, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import multivariate_normal

from duallora.methods.readout import Readout, Sample
from duallora.methods.rows import Rows


def taught() -> tuple[Readout, torch.Tensor]:
    rows, draw = Rows(), torch.Generator().manual_seed(0)
    read = Readout(4, 6, rows, tasks=True)
    for task, classes in enumerate([(0, 1, 2), (3,), (4, 5)]):
        rows.add(task, classes)
        read.begin(classes)
        labels = torch.tensor(classes).repeat(8)
        features = torch.randn(len(labels), 6, generator=draw) + labels.unsqueeze(1)
        read.collect(features, labels)
        read.finish([features], [labels])
    return read, torch.randn(5, 6, generator=draw) + 2


def test_the_product_is_heads_within_a_task_times_a_tempered_posterior() -> None:
    read, x = taught()
    heads, gaussians = (read.scores(x, r).detach().numpy() for r in ("heads", "quadratic"))
    within = np.concatenate([log_softmax(heads[:, part], 1) for part in (slice(0, 3), slice(3, 4), slice(4, 6))], 1)
    expected = within + 0.15 * log_softmax(gaussians, 1)
    np.testing.assert_allclose(read.scores(x, "product").detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_tasks_are_told_by_one_gaussian_each() -> None:
    rows, draw = Rows(), np.random.default_rng(0)
    read, seen = Readout(4, 6, rows, tasks=True), []
    for task, classes in enumerate([(0, 1, 2), (3,), (4, 5)]):
        rows.add(task, classes)
        read.begin(classes)
        labels = torch.tensor(classes).repeat(12)
        stretch = draw.normal(size=(6, 6))  # each task spreads in its own way
        features = torch.tensor(draw.normal(size=(len(labels), 6)) @ stretch + labels.numpy()[:, None]).float()
        for half in (slice(None, 9), slice(9, None)):
            read.collect(features[half], labels[half])
        read.finish([features], [labels])
        seen.append(features.double().numpy())
    x = torch.tensor(draw.normal(size=(7, 6)) * 2 + 2).float()
    sigma = read.gaussians.merged(rows.task_index()).covariance().numpy()
    within = sum((s - s.mean(0)).T @ (s - s.mean(0)) for s in seen) / (sum(map(len, seen)) - 3)
    off = ~np.eye(6, dtype=bool)
    shrunk = sigma[off] / within[off]  # one share of the spread within tasks is left, what is taken is made round
    np.testing.assert_allclose(shrunk, shrunk[0], rtol=1e-4)
    assert np.trace(sigma) == pytest.approx(np.trace(within), rel=1e-5)
    logs = []
    kept = zip(read.task_spreads.factors.double().numpy(), read.task_spreads.rest.double().numpy(), strict=True)
    for own, (C, rho) in zip(seen, kept, strict=True):
        w, spread = (len(own) - 1) / (4 * 6 + len(own) - 1), C.T @ C + rho * sigma
        density = multivariate_normal(own.mean(0), (1 - w) * sigma + w * spread)
        logs.append(density.logpdf(x.double().numpy()))
    np.testing.assert_allclose(spread, np.cov(own.T), rtol=1e-3, atol=1e-4)  # exact for the newest, close before
    evidence = log_softmax(np.stack(logs, 1), 1)
    np.testing.assert_allclose(torch.log_softmax(read.task_scores(x), 1).numpy(), evidence, rtol=2e-3, atol=2e-3)
    logits = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    expected = logits.numpy() + 0.15 * evidence[:, [0, 0, 0, 1, 2, 2]]
    np.testing.assert_allclose(read.scores(x, "tasks", logits).numpy(), expected, rtol=1e-3, atol=1e-3)
    own = read.scores(x, "tasks") - read.scores(x, "heads")
    np.testing.assert_allclose(own.detach().numpy(), expected - logits.numpy(), rtol=1e-3, atol=1e-3)


def test_other_heads_may_stand_in() -> None:
    read, x = taught()
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    given = read.scores(x, "product", logits)
    torch.testing.assert_close(
        given - read.rows.within_tasks(logits), read.scores(x, "product") - read.rows.within_tasks(read.heads(x))
    )
    torch.testing.assert_close(read.scores(x, "quadratic", logits), read.scores(x, "quadratic"))


def test_a_task_of_single_images_leaves_what_is_known_as_it_was() -> None:
    read, _ = taught()
    before = read.limit[-1]
    for classes, twice in (((6, 7), 1), ((8,), 3)):  # one image per class; copies of one
        read.rows.add(len(read.rows.members), classes)
        read.begin(classes)
        labels = torch.tensor(classes).repeat(twice)
        features = torch.full((len(labels), 6), 9.0) + labels.unsqueeze(1)
        read.collect(features, labels)
        read.finish([features], [labels])
        assert read.limit[-1] == before
    assert (read.distance(torch.full((1, 6), 2.0)) <= 1).all()


def test_where_nothing_tells_what_is_known_all_is() -> None:
    read = Readout(4, 6, Rows())
    read.rows.add(0, (0, 1))
    read.begin((0, 1))
    features, labels = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    read.collect(features, labels)
    read.finish([features], [labels])
    assert (read.distance(10 * features) <= 1).all()


@pytest.mark.parametrize("copies", ["all", "most", "none"])
def test_images_that_were_learned_before_count_once_for_what_is_known(copies: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x, fresh = (torch.randn(30, 40, generator=draw) for _ in range(2))
    y = torch.arange(30) % 2
    read = Readout(4, 40, Rows())
    again = {"all": x, "most": torch.cat([x[:24], fresh[24:]]), "none": fresh}[copies]
    for t, features in enumerate((x, again)):
        read.rows.add(t, (0, 1))
        read.begin((0, 1))
        read.collect(features, y)
        read.finish([features], [y])
    asked = torch.randn(100, 40, generator=draw)
    assert (read.distance(asked) <= 1).float().mean() > 0.85
    assert read._copies().tolist() == [1, 1, *([1, 1] if copies == "none" else [2, 2])]


def test_the_sample_is_of_the_whole_pass() -> None:
    sample, alike, state = Sample(100), Sample(100), torch.random.get_rng_state()
    for at in range(0, 1000, 30):
        labels = torch.arange(at, min(at + 30, 1000))
        sample.add(labels.unsqueeze(1).float(), labels)
        alike.add(-labels.unsqueeze(1).float())
    labels = torch.cat(sample.labels)
    assert torch.equal(torch.cat(alike.features)[:, 0], -labels.float()) and not alike.labels
    assert len(labels) == 100 == len(labels.unique())
    assert torch.equal(torch.cat(sample.features)[:, 0], labels.float())
    assert labels.diff().min() > 0 and 420 < labels.float().mean() < 580
    assert torch.equal(torch.random.get_rng_state(), state)


def test_blended_labels_bear_a_class_without_images() -> None:
    read, x = taught()
    read.gaussians.counts[1] = 0
    read.rows.add(3, (6, 7))
    read.begin((6, 7))
    hard = torch.tensor([6, 7, 7, 6, 6])
    shares = torch.nn.functional.one_hot(hard, 8).float()
    loss = read.seen_loss(x, shares)
    assert loss.isfinite()
    torch.testing.assert_close(loss, read.seen_loss(x, hard))

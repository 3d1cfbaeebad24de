"""Taking a method through a task without a loop."""

from __future__ import annotations

import signal
from collections.abc import Callable

import torch
from torch import Tensor

from duallora.methods.base import Method, TaskInfo, begin_stages
from duallora.methods.covariances import ClassCovariances
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.spreads import ClassSpreads


def heeds_ctrl_c() -> None:
    """For a child before it starts: tests that run in the background (nohup, &) have it ignore the signal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def infos(index: int, classes: tuple[int, ...], count: int, members: tuple[tuple[int, ...], ...] = ()) -> TaskInfo:
    """What a method is told of a task."""
    return TaskInfo(index, classes, count, members)


def learn(
    method: Method,
    index: int,
    images: Tensor,
    classes: tuple[int, ...],
    training: Callable[[Method], object] = lambda m: None,
    members: tuple[tuple[int, ...], ...] = (),
) -> None:
    """begin_task, `training` in each stage, end_task, on images whose labels go round the classes.

    They go round those of all tasks, if the method is cumulative.
    """
    held = range(sum(map(len, members))) if method.cumulative and members else classes
    labels = torch.tensor([held[i % len(held)] for i in range(len(images))])
    batches = [(images[i : i + 5], labels[i : i + 5]) for i in range(0, len(images), 5)]
    method.begin_task(infos(index, classes, len(images), members), batches)
    method.batch = batches[0]
    for _ in begin_stages(method, batches):
        training(method)
    method.end_task(batches)


def take_a_step(method: Method) -> None:
    """Two steps of SGD on the first batch."""
    parameters = method.trainable()
    if not parameters:
        return
    step = torch.optim.SGD(parameters, lr=0.1)
    images, labels = method.batch
    x = method.encode(images).features.detach() if method.cached else images
    for _ in range(2):
        step.zero_grad()
        method.loss(x, labels).backward()
        step.step()
        method.after_step()


def features_of_classes(counts: tuple[int, ...], d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (n, d) of as many classes as counts, each of a mean and a covariance of its own, and their classes."""
    g = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + 3 * r for r, n in enumerate(counts)]
    return torch.cat(parts), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def feed(kept: ClassSpreads | ClassCovariances, x: Tensor, y: Tensor) -> ClassGaussians:
    """One task of features (n, D) and rows (n,), batch by batch; the Gaussians that learned them too."""
    gaussians = ClassGaussians(x.shape[1], 0.1)
    for each in (kept, gaussians):
        each.grow(int(y.max()) + 1)
        for a, b in zip(x.split(7), y.split(7), strict=True):
            each.update(a, b)
    kept.seal(gaussians)
    return gaussians

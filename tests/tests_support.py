"""Taking a method through a task without a loop."""

from __future__ import annotations

import signal
from collections.abc import Callable

import torch
from torch import Tensor

from duallora.methods.base import Method, TaskInfo


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
    """begin_task, `training`, end_task, on images whose labels go round the classes."""
    held = tuple(dict.fromkeys(c for m in members for c in m)) if method.cumulative and members else classes
    labels = torch.tensor([held[i % len(held)] for i in range(len(images))])
    batches = [(images[i : i + 5], labels[i : i + 5]) for i in range(0, len(images), 5)]
    method.begin_task(infos(index, classes, len(images), members), batches)
    method.batch = batches[0]
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

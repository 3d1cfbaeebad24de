"""One pass, all figures: against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from duallora.evaluation.scoring import score_images, score_step
from duallora.methods.base import Encoding, Method, MethodConfig, Output


class Told(Method):
    """A method that answers what it is told: the first pixels of an image are its scores."""

    name = "told"
    readouts = ("plain", "turned")

    def begin_task(self, task: object, batches: object) -> None: ...

    def end_task(self, batches: object) -> None: ...

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def encode(self, images: Tensor) -> Encoding:
        self.passes = getattr(self, "passes", 0) + len(images)
        return Encoding(images[:, 0, 0, : len(self.rows)])

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        return Output(-encoding.features if readout == "turned" else encoding.features)


def told() -> Told:
    method = Told(lambda images: images, MethodConfig())
    method.rows.add(0, (0, 1))
    method.rows.add(1, (2, 3))
    return method


def image(*scores: float) -> Tensor:
    x = torch.zeros(3, 2, 4)
    x[0, 0] = torch.tensor(scores)
    return x


FIRST = (torch.stack([image(9, 0, 1, 0), image(0, 1, 9, 0), image(3, 2, 0, 0)]), torch.tensor([0, 1, 1]))
SECOND = (torch.stack([image(0, 0, 0, 9), image(5, 0, 4, 0)]), torch.tensor([3, 2]))


def test_every_figure_of_a_step() -> None:
    method = told()
    scores = score_step(method, [[FIRST], [SECOND]], ["plain", "turned"])
    plain = scores["plain"]
    assert plain.accuracy == [pytest.approx(1 / 3), 0.5]  # right, other task, other class | right, other task
    assert plain.task_il == [pytest.approx(2 / 3), 1.0]  # the second image is right once its task is known
    assert plain.task_id == pytest.approx(3 / 5)
    assert method.passes == 5  # one pass for both read-outs
    assert scores["turned"].accuracy[0] == 0.0


def test_a_task_without_test_images_has_no_accuracy() -> None:
    scores = score_step(told(), [[FIRST], []], ["plain"])["plain"]
    assert scores.accuracy == [pytest.approx(1 / 3), None] and scores.task_il[1] is None
    assert scores.task_id == pytest.approx(2 / 3)
    none = score_step(told(), [[]], ["plain"])["plain"]
    assert none.accuracy == [None] and none.calibration is None


def test_figures_on_images_of_any_classes() -> None:
    x, y = torch.cat([FIRST[0], SECOND[0]]), torch.cat([FIRST[1], SECOND[1]])
    scores = score_images(told(), [(x[:2], y[:2]), (x[2:], y[2:])])
    assert scores.accuracy == pytest.approx(2 / 5)
    assert scores.task_il == pytest.approx(4 / 5)
    assert scores.task_id == pytest.approx(3 / 5)
    assert scores.per_class == {0: 1.0, 1: 0.0, 2: 0.0, 3: 1.0}


class Choosing(Told):
    """As it is told, but where the true task is given it always answers by the first class of that."""

    def encode_given(self, images: Tensor, task: int) -> Encoding:
        shown = images[:, 0, 0, : len(self.rows)].clone()
        shown[:, 2 * task] = 10
        return Encoding(shown)


def test_a_task_that_chooses_the_network_is_given_to_it() -> None:
    """By both ways of scoring: the right answers with the task given are those of the images of classes 0 and 2."""
    method = Choosing(lambda images: images, MethodConfig())
    method.rows.add(0, (0, 1))
    method.rows.add(1, (2, 3))
    x, y = torch.cat([FIRST[0], SECOND[0]]), torch.cat([FIRST[1], SECOND[1]])
    assert score_images(method, [(x, y)]).task_il == pytest.approx(2 / 5)
    step = score_step(method, [[FIRST], [SECOND]], ["plain"])["plain"]
    assert step.task_il == [pytest.approx(1 / 3), 1 / 2]
    assert score_images(method, [(x, y)]).accuracy == pytest.approx(2 / 5)  # as without


def test_no_task_figures_where_a_class_has_several_tasks() -> None:
    method = told()
    method.rows.add(2, (1,))
    wide = torch.zeros(1, 3, 2, 5)
    wide[0, 0, 0] = torch.tensor([0.0, 3.0, 1.0, 0.0, 2.0])
    scores = score_images(method, [(wide, torch.tensor([1]))])
    assert scores.accuracy == 1.0
    assert scores.task_il is None
    assert scores.task_id is None
    other = score_images(method, [(wide, torch.tensor([0]))])  # of images whose classes have one task there are some
    assert other.task_il is not None
    assert other.task_id is not None

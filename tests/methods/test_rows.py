"""Rows, classes and tasks."""

from __future__ import annotations

import torch

from duallora.methods.rows import Rows


def table() -> Rows:
    rows = Rows()
    rows.add(0, (0, 1))
    rows.add(1, (2,))
    rows.add(2, (1, 3))
    return rows


def test_a_class_that_comes_again_scores_by_its_best_row() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 5.0, 4.0]])
    assert table().class_scores(scores).tolist() == [[1.0, 5.0, 3.0, 4.0]]


def test_rows_that_may_answer_when_the_task_is_known() -> None:
    assert table().of_task(2).tolist() == [False, False, False, True, True]
    assert table().task_scores(torch.tensor([[1.0, 2.0, 3.0, 5.0, 4.0]])).tolist() == [[2.0, 3.0, 5.0]]


def test_cleared_rows_are_as_new() -> None:
    rows = table()
    rows.clear()
    assert (len(rows), rows.members, rows.class_count) == (0, [], 0)


def test_state_round_trip() -> None:
    rows, other = table(), Rows()
    other.load_state(rows.state())
    assert (other.tasks, other.classes, other.members) == (rows.tasks, rows.classes, rows.members)

"""Which class of which task each output row stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from duallora.lowrank.saved import saved_tensor


class Rows:
    """The table of output rows: row j is class `classes[j]` as learned in task `tasks[j]`.

    A class that comes again in a later task has a row in each; its score is the best of its rows.

    >>> rows = Rows()
    >>> rows.add(0, (0, 1)); rows.add(1, (1, 2))
    >>> rows.class_scores(torch.tensor([[1.0, 2.0, 5.0, 3.0]]))
    tensor([[1., 5., 3.]])
    """

    def __init__(self) -> None:
        """An empty table."""
        self.tasks: list[int] = []
        self.classes: list[int] = []
        self.members: list[tuple[int, ...]] = []  # the classes of each task

    def __len__(self) -> int:
        """Number of rows R."""
        return len(self.classes)

    def add(self, task: int, classes: tuple[int, ...]) -> None:
        """Append the rows of a new task."""
        self.tasks += [task] * len(classes)
        self.classes += classes
        self.members.append(tuple(classes))

    def clear(self) -> None:
        """Forget all rows."""
        self.tasks, self.classes, self.members = [], [], []

    @property
    def class_count(self) -> int:
        """Number of classes C seen so far."""
        return max(self.classes, default=-1) + 1

    def class_scores(self, rows: Tensor) -> Tensor:
        """Scores of classes (b, C) from scores of rows (b, R): the best of a class's rows."""
        index = torch.tensor(self.classes, device=rows.device).expand(len(rows), -1)
        best = rows.new_full((len(rows), self.class_count), -torch.inf)
        return best.scatter_reduce(1, index, rows, "amax")

    def of_task(self, task: int) -> Tensor:
        """Mask (R,) of the rows that may answer when the task is known."""
        return torch.tensor([t == task for t in self.tasks])

    def within_tasks(self, logits: Tensor) -> Tensor:
        """Logits (b, R) of heads that were trained apart as log P(class | task) of each row.

        >>> rows = Rows()
        >>> rows.add(0, (0,)); rows.add(1, (1, 2))
        >>> rows.within_tasks(torch.tensor([[7.0, 3.0, 3.0]])).exp()
        tensor([[1.0000, 0.5000, 0.5000]])
        """
        if not len(self):
            return logits
        # All tasks at once, not one after another: this is asked for every batch, and tasks become many.
        owner = self.task_index(logits.device)
        index, groups = owner.expand(len(logits), -1), len(self.members)
        top = logits.new_full((len(logits), groups), -torch.inf).scatter_reduce(1, index, logits.detach(), "amax")
        away = logits - top[:, owner]
        return away - away.new_zeros(top.shape).scatter_add(1, index, away.exp()).log()[:, owner]

    def task_scores(self, rows: Tensor) -> Tensor:
        """Scores of tasks (b, T): the best row of each."""
        owner = self.task_index(rows.device).expand(len(rows), -1)
        best = rows.new_full((len(rows), len(self.members)), -torch.inf)
        return best.scatter_reduce(1, owner, rows, "amax")

    def task_index(self, device: torch.device | None = None) -> Tensor:
        """(R,) task of each row."""
        return torch.tensor(self.tasks, device=device)

    def state(self) -> dict[str, Tensor]:
        """The table as tensors."""
        return {
            "tasks": torch.tensor(self.tasks, dtype=torch.int64),
            "classes": torch.tensor(self.classes, dtype=torch.int64),
            "member_classes": torch.tensor([c for m in self.members for c in m], dtype=torch.int64),
            "member_sizes": torch.tensor([len(m) for m in self.members], dtype=torch.int64),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`."""
        self.tasks = saved_tensor(state, "tasks", (None,), "rows.").tolist()
        self.classes = saved_tensor(state, "classes", (len(self.tasks),), "rows.").tolist()
        sizes = state["member_sizes"].tolist()
        self.members = [tuple(part.tolist()) for part in state["member_classes"].split(sizes)] if sizes else []

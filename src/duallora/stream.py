"""Which classes arrive when: a stream of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from duallora.data.imageset import ImageSet, Split
from duallora.data.sampling import at_most, hold_out
from duallora.errors import DualLoRAError, unknown

Scenario = Literal["class-incremental", "domain-incremental"]


@dataclass(frozen=True)
class Task:
    """One step of a stream; its three sets are labelled by `classes`.

    Attributes:
        index: place in the stream, from 0.
        name: for people.
        classes: of this task.
        train: what may be learnt from.
        validation: split off the training images, or None.
        test: for evaluation only.
    """

    index: int
    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet


class TaskStream(Sequence[Task]):
    """A sequence of tasks.

    Attributes:
        class_order: all classes, in the order in which they first come.
        scenario: `class-incremental` (new classes each time) or `domain-incremental` (the same classes, new images).
    """

    def __init__(self, tasks: Sequence[Task], class_order: Sequence[str], scenario: Scenario) -> None:
        """From tasks made by hand; `class_incremental` and `domain_incremental` make them from data sets."""
        self._tasks = tuple(tasks)
        self.class_order = tuple(class_order)
        self.scenario = scenario

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...

    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        """One task, or several by a slice."""
        return self._tasks[index]

    def __repr__(self) -> str:
        """The scenario and the sizes."""
        sizes = ", ".join(str(len(task.classes)) for task in self)
        return f"TaskStream({self.scenario}, {len(self)} tasks, classes per task: {sizes})"

    @classmethod
    def class_incremental(
        cls,
        split: Split,
        increment: int | Sequence[int],
        *,
        order: Sequence[str] | None = None,
        seed: int | None = None,
        validation: float = 0.0,
        max_per_class: int | None = None,
    ) -> TaskStream:
        """Cut the classes of a data set into tasks.

        Args:
            split: the data set.
            increment: classes per task, the last one taking what is left; or one number per task, together all classes.
            order: all class names in the order of arrival; default the order of the data set.
            seed: shuffles the classes instead; not with `order`.
            validation: share of every class's training images that is set apart. Which ones depends on the class alone,
                so they are the same under every order.
            max_per_class: training images per class (validation included); test images stay as they are.

        Raises:
            DualLoRAError: an increment that does not fit, an order that is no permutation of the classes, order and
                seed both, a class without training images.

        >>> from duallora.data import open_source
        >>> stream = TaskStream.class_incremental(open_source("digits"), 4, seed=1)
        >>> [len(task.classes) for task in stream]
        [4, 4, 2]
        """
        names = _ordered(split.train.classes, order, seed)
        sizes = _sizes(increment, len(names))
        tasks, start = [], 0
        for index, size in enumerate(sizes):
            classes = names[start : start + size]
            tasks.append(_task(index, f"task {index + 1}", classes, split, validation, max_per_class))
            start += size
        return cls(tasks, names, "class-incremental")

    @classmethod
    def domain_incremental(
        cls, domains: Mapping[str, Split], *, validation: float = 0.0, max_per_class: int | None = None
    ) -> TaskStream:
        """One task per domain, all with the same classes, in the order of the mapping.

        Args:
            domains: data sets by name; each names the same classes (in any order).
            validation: as in `class_incremental`.
            max_per_class: as in `class_incremental`, of every domain.

        Raises:
            DualLoRAError: no domain, a domain whose classes differ from the first one's, one without training images.
        """
        if not domains:
            raise DualLoRAError("no domains given; expected a mapping from domain names to data sets")
        first = next(iter(domains))
        classes = domains[first].train.classes
        tasks = []
        for index, (name, split) in enumerate(domains.items()):
            difference = set(classes) ^ set(split.train.classes)
            if difference:
                raise DualLoRAError(
                    f"domain {name!r} and domain {first!r} differ in the classes {sorted(difference)}; give every "
                    "domain the same classes"
                )
            tasks.append(_task(index, name, classes, split, validation, max_per_class, may_lack=True))
        return cls(tasks, classes, "domain-incremental")


def _ordered(classes: tuple[str, ...], order: Sequence[str] | None, seed: int | None) -> tuple[str, ...]:
    if order is not None and seed is not None:
        raise DualLoRAError("a class order and a seed are given, but the seed shuffles the classes; give one of them")
    if seed is not None:
        if seed < 0:
            raise DualLoRAError(f"the seed is {seed}, expected 0 or more")
        return tuple(classes[i] for i in np.random.default_rng(seed).permutation(len(classes)))
    if order is None:
        return classes
    for name in order:
        if name not in classes:
            raise unknown("class in the class order", name, classes)
    missing = [name for name in classes if name not in order]
    if missing or len(order) != len(classes):
        what = f"lacks {missing}" if missing else "names a class twice"
        raise DualLoRAError(f"the class order {what}; expected each of the {len(classes)} classes once")
    return tuple(order)


def _sizes(increment: int | Sequence[int], count: int) -> list[int]:
    if isinstance(increment, int):
        if increment < 1:
            raise DualLoRAError(f"the increment is {increment}, expected 1 class per task or more")
        return [min(increment, count - start) for start in range(0, count, increment)]
    if any(size < 1 for size in increment) or sum(increment) != count:
        raise DualLoRAError(
            f"the increments {list(increment)} add up to {sum(increment)}, expected numbers of 1 or more that add up "
            f"to the {count} classes"
        )
    return list(increment)


def _task(
    index: int,
    name: str,
    classes: tuple[str, ...],
    split: Split,
    validation: float,
    max_per_class: int | None,
    may_lack: bool = False,
) -> Task:
    train = split.train.only(classes)
    empty = [label for label, images in zip(classes, train.counts(), strict=True) if not images]
    if len(empty) == len(classes) or (empty and not may_lack):
        raise DualLoRAError(f"{name}: no training image of class {empty[0]!r}; add images or leave the class out")
    if max_per_class is not None:
        train = train.subset(at_most(train.labels, classes, max_per_class))
    kept, held = hold_out(train.labels, classes, validation)
    apart = train.subset(held) if validation else None
    return Task(index, name, classes, train.subset(kept) if validation else train, apart, split.test.only(classes))

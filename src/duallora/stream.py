"""Which classes arrive when: a stream of tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from duallora.data.imageset import ImageSet, Skipped, Split
from duallora.data.sampling import at_most, hold_out
from duallora.errors import DualLoRAError, unknown

Scenario = Literal["class-incremental", "domain-incremental"]

Shuffle = Literal["pcg64", "mt19937"]
"""numpy's generator of today, or its older one: with `RandomState(seed).permutation` published code drew its orders."""


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
        skipped: files of the source that could not be used.
        shared_test: whether all tasks have one test set, which stands with the first: its images are of no task.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        class_order: Sequence[str],
        scenario: Scenario,
        skipped: Iterable[Skipped] = (),
        shared_test: bool = False,
    ) -> None:
        """From tasks made by hand; `class_incremental` and `domain_incremental` make them from data sets."""
        self.shared_test = shared_test
        self._tasks = tuple(tasks)
        self.class_order = tuple(class_order)
        self.scenario = scenario
        self.skipped = tuple(dict.fromkeys(skipped))

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

    def first(self, tasks: int) -> TaskStream:
        """The stream that ends after so many tasks; the whole one, if it has no more.

        Raises:
            DualLoRAError: not even one.

        >>> from duallora.data import open_source
        >>> TaskStream.class_incremental(open_source("digits"), 2).first(3).class_order
        ('0', '1', '2', '3', '4', '5')
        """
        if tasks < 1:
            raise DualLoRAError(f"the number of tasks is {tasks}, expected 1 or more")
        kept = self._tasks[:tasks]
        held = {name for task in kept for name in task.classes}
        order = [name for name in self.class_order if name in held]
        return TaskStream(kept, order, self.scenario, self.skipped, self.shared_test)

    def __repr__(self) -> str:
        """The scenario and the sizes."""
        sizes = ", ".join(str(len(task.classes)) for task in self)
        return f"TaskStream({self.scenario}, {len(self)} tasks, classes per task: {sizes})"

    @classmethod
    def class_incremental(
        cls,
        split: Split,
        increment: int | Sequence[int] | Literal["source"],
        *,
        order: Sequence[str] | None = None,
        seed: int | None = None,
        shuffle: Shuffle = "pcg64",
        validation: float = 0.0,
        max_per_class: int | None = None,
    ) -> TaskStream:
        """Cut the classes of a data set into tasks.

        Args:
            split: the data set.
            increment: classes per task, the last one taking what is left; or one number per task, together all classes;
                or "source": one task per group of classes, a group being what stands before the "/" of their names
                (the alphabets of omniglot, the data sets of five-datasets).
            order: all class names (with "source", all groups) in the order of arrival; default that of the data set.
            seed: shuffles the classes (the groups) instead; not with `order`.
            shuffle: the generator that `seed` is of.
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
        steps: dict[str, tuple[str, ...]] = {}
        if increment == "source":
            groups = _groups(split.train.classes)
            steps = {name: groups[name] for name in ordered(tuple(groups), order, seed, shuffle, "group")}
        else:
            names, start = ordered(split.train.classes, order, seed, shuffle), 0
            for size in _sizes(increment, len(names)):
                steps[f"task {len(steps) + 1}"] = names[start : start + size]
                start += size
        tasks = [
            _task(index, name, classes, split, validation, max_per_class)
            for index, (name, classes) in enumerate(steps.items())
        ]
        order_of_all = [name for classes in steps.values() for name in classes]
        return cls(tasks, order_of_all, "class-incremental", split.train.skipped + split.test.skipped)

    @classmethod
    def domain_incremental(
        cls, domains: Mapping[str, Split], *, validation: float = 0.0, max_per_class: int | None = None
    ) -> TaskStream:
        """One task per domain, all with the same classes, in the order of the mapping.

        Where all domains hold one and the same test set (CORe50's sessions), it stands with the first task alone: the
        accuracy after every task is the one on it, and it is not measured several times over.

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
        shared = len(domains) > 1 and all(split.test is domains[first].test for split in domains.values())
        tasks = []
        for index, (name, split) in enumerate(domains.items()):
            difference = set(classes) ^ set(split.train.classes)
            if difference:
                raise DualLoRAError(
                    f"domain {name!r} and domain {first!r} differ in the classes {sorted(difference)}; give every "
                    "domain the same classes"
                )
            if shared and index:
                split = Split(split.train, split.test.subset([]))
            tasks.append(_task(index, name, classes, split, validation, max_per_class, may_lack=True))
        skipped = [s for split in domains.values() for s in split.train.skipped + split.test.skipped]
        return cls(tasks, classes, "domain-incremental", skipped, shared)


def ordered(
    names: Sequence[str],
    order: Sequence[str] | None,
    seed: int | None,
    shuffle: Shuffle = "pcg64",
    kind: str = "class",
) -> tuple[str, ...]:
    """`names` as `order` has them, or shuffled by `seed`, or as they are.

    Args:
        names: of classes, groups or domains.
        order: all of them once.
        seed: not with `order`.
        shuffle: the generator that `seed` is of.
        kind: what is ordered, for messages.

    Raises:
        DualLoRAError: order and seed both, an order that is no permutation of the names, a negative seed.

    >>> ordered(["a", "b", "c"], None, 1993, "mt19937")
    ('a', 'c', 'b')
    """
    if order is not None and seed is not None:
        raise DualLoRAError(f"a {kind} order and a seed are given, but the seed shuffles the order; give one of them")
    if seed is not None:
        if seed < 0:
            raise DualLoRAError(f"the seed is {seed}, expected 0 or more")
        if shuffle == "mt19937" and seed >= 2**32:
            raise DualLoRAError(f"the seed is {seed}, expected less than 2^32 = {2**32} for shuffle 'mt19937'")
        generator = np.random.RandomState(seed) if shuffle == "mt19937" else np.random.default_rng(seed)
        return tuple(names[i] for i in generator.permutation(len(names)))
    if order is None:
        return tuple(names)
    for name in order:
        if name not in names:
            raise unknown(f"{kind} in the {kind} order", name, names)
    missing = [name for name in names if name not in order]
    if missing or len(order) != len(names):
        what = f"lacks {missing}" if missing else f"names a {kind} twice"
        raise DualLoRAError(f"the {kind} order {what}; expected each of the {len(names)} once")
    return tuple(order)


def _groups(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The classes by what stands before the first "/" of their names, in the order of appearance."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        group, slash, _ = name.partition("/")
        if not slash:
            raise DualLoRAError(
                f"increment 'source' needs classes in groups, named 'group/class' (omniglot, five-datasets), but one "
                f"is called {name!r}; give a number of classes per task"
            )
        groups.setdefault(group, []).append(name)
    return {group: tuple(names) for group, names in groups.items()}


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

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duallora.data import ImageSet, Split
from duallora.errors import DualLoRAError
from duallora.stream import TaskStream


def numbered(counts: dict[str, int], first: int) -> ImageSet:
    """Images that can be told apart: image k is filled with the number k (in base 256 over the channels)."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(list(counts.values())))
    numbers = torch.arange(first, first + len(labels))
    pixels = torch.stack([numbers // 256, numbers % 256, torch.zeros_like(numbers)], 1).to(torch.uint8)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(first))
    return ImageSet(tuple(counts), labels, pixels[..., None, None].expand(-1, -1, 2, 2)).subset(order)


def identities(images: ImageSet) -> Counter[tuple[int, str]]:
    """Number and class name of every image."""
    assert isinstance(images.items, torch.Tensor)
    numbers = images.items[:, 0, 0, 0].int() * 256 + images.items[:, 1, 0, 0].int()
    return Counter((int(n), images.classes[label]) for n, label in zip(numbers, images.labels, strict=True))


def make(classes: int = 7, train: int = 6, test: int = 3, first: int = 0) -> Split:
    names = [f"c{i}" for i in range(classes)]
    return Split(
        numbered(dict.fromkeys(names, train), first), numbered(dict.fromkeys(names, test), first + classes * train)
    )


@settings(deadline=None)
@given(
    train=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    test=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    increment=st.integers(1, 10),
    seed=st.one_of(st.none(), st.integers(0, 1000)),
    validation=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_class_incremental_partitions_classes_and_images(
    train: list[int], test: list[int], increment: int, seed: int | None, validation: float
) -> None:
    names = [f"c{i}" for i in range(len(train))]
    split = Split(
        numbered(dict(zip(names, train, strict=True)), 0),
        numbered(dict(zip(names, test[: len(names)], strict=True)), sum(train)),
    )
    stream = TaskStream.class_incremental(split, increment, seed=seed, validation=validation)
    assert tuple(name for task in stream for name in task.classes) == stream.class_order
    assert sorted(stream.class_order) == sorted(names)
    assert [len(task.classes) for task in stream[:-1]] == [increment] * (len(stream) - 1)
    learnt: Counter[tuple[int, str]] = Counter()
    tested: Counter[tuple[int, str]] = Counter()
    for index, task in enumerate(stream):
        assert task.index == index
        assert task.train.classes == task.test.classes == task.classes
        assert min(task.train.counts()) >= 1
        learnt += identities(task.train)
        tested += identities(task.test)
        if validation:
            assert task.validation is not None and task.validation.classes == task.classes
            learnt += identities(task.validation)
        else:
            assert task.validation is None
    assert learnt == identities(split.train)  # every training image once, under its own class, none from the test set
    assert tested == identities(split.test)


def test_uneven_increments() -> None:
    stream = TaskStream.class_incremental(make(7), [1, 4, 2])
    assert [task.classes for task in stream] == [("c0",), ("c1", "c2", "c3", "c4"), ("c5", "c6")]
    assert [len(task.train) for task in stream] == [6, 24, 12]
    assert [len(task.classes) for task in TaskStream.class_incremental(make(7), 3)] == [3, 3, 1]
    assert len(TaskStream.class_incremental(make(7), 100)) == 1


def test_explicit_order() -> None:
    order = ["c6", "c0", "c3", "c1", "c2", "c5", "c4"]
    stream = TaskStream.class_incremental(make(7), 2, order=order)
    assert stream.class_order == tuple(order)
    assert stream[0].classes == ("c6", "c0")
    assert {name for _, name in identities(stream[0].train)} == {"c6", "c0"}


def test_seed_shuffles_the_classes_and_is_repeatable() -> None:
    orders = [TaskStream.class_incremental(make(7), 2, seed=seed).class_order for seed in (0, 1, 2)]
    assert len(set(orders)) == 3
    assert TaskStream.class_incremental(make(7), 2, seed=1).class_order == orders[1]
    assert TaskStream.class_incremental(make(7), 2).class_order == tuple(f"c{i}" for i in range(7))


def test_the_older_generator_draws_the_orders_of_published_code() -> None:
    names = [f"{i:02}" for i in range(100)]
    split = Split(numbered(dict.fromkeys(names, 1), 0), numbered(dict.fromkeys(names, 1), 100))
    # From the public logs of InfLoRA (CIFAR-100, seed 1993) and SD-LoRA (CIFAR-100, seed 1994).
    for seed, first in ((1993, "68 56 78 08 23 84 90 65 74 76"), (1994, "72 06 33 96 60 94 29 40 45 66")):
        stream = TaskStream.class_incremental(split, 10, seed=seed, shuffle="mt19937")
        assert stream[0].classes == tuple(first.split())


def grouped() -> Split:
    names = ["b/1", "a/1", "b/2", "a/2", "b/3", "c/1"]
    return Split(numbered(dict.fromkeys(names, 2), 0), numbered(dict.fromkeys(names, 1), 12))


def test_one_task_per_group_of_classes() -> None:
    stream = TaskStream.class_incremental(grouped(), "source")
    assert [task.name for task in stream] == ["b", "a", "c"]
    assert [task.classes for task in stream] == [("b/1", "b/2", "b/3"), ("a/1", "a/2"), ("c/1",)]
    assert stream.class_order == ("b/1", "b/2", "b/3", "a/1", "a/2", "c/1")
    assert len(stream[0].train) == 6 and stream[0].test.classes == stream[0].classes
    turned = TaskStream.class_incremental(grouped(), "source", order=["c", "a", "b"])
    assert [task.name for task in turned] == ["c", "a", "b"] and turned[2].classes == stream[0].classes
    orders = {tuple(t.name for t in TaskStream.class_incremental(grouped(), "source", seed=s)) for s in range(9)}
    assert len(orders) > 2
    with pytest.raises(DualLoRAError, match="unknown group in the group order 'd'"):
        TaskStream.class_incremental(grouped(), "source", order=["d"])
    with pytest.raises(DualLoRAError, match=r"needs classes in groups.*called 'c0'"):
        TaskStream.class_incremental(make(3), "source")


def test_validation_images_are_the_same_under_every_order() -> None:
    held = []
    for seed in (0, 1):
        stream = TaskStream.class_incremental(make(7), 3, seed=seed, validation=0.3)
        held.append(sum((identities(task.validation) for task in stream if task.validation is not None), Counter()))
    assert held[0] == held[1] and len(held[0]) == 14


def test_max_per_class_limits_training_only() -> None:
    stream = TaskStream.class_incremental(make(7), 3, max_per_class=4, validation=0.25)
    assert stream[0].train.counts() == [3, 3, 3]
    assert stream[0].validation is not None and stream[0].validation.counts() == [1, 1, 1]
    assert stream[0].test.counts() == [3, 3, 3]
    assert not identities(stream[0].train) & identities(stream[0].validation)


def test_is_a_sequence() -> None:
    stream = TaskStream.class_incremental(make(7), 3)
    assert len(stream) == 3 and stream[-1].index == 2
    assert [task.index for task in stream[1:]] == [1, 2] == [task.index for task in list(stream)[1:]]
    assert stream[0] in stream and next(reversed(stream)).index == 2
    assert stream.scenario == "class-incremental"
    assert repr(stream) == "TaskStream(class-incremental, 3 tasks, classes per task: 3, 3, 1)"
    with pytest.raises(IndexError):
        stream[3]


def test_the_first_tasks_are_a_stream() -> None:
    whole = TaskStream.class_incremental(make(7), 3, seed=2)
    part = whole.first(2)
    assert list(part) == list(whole[:2]) and part.class_order == whole.class_order[:6]
    assert len(whole.first(9)) == 3
    domains = TaskStream.domain_incremental({"one": make(3), "two": make(3)}).first(1)
    assert (domains.class_order, domains.scenario) == (("c0", "c1", "c2"), "domain-incremental")
    with pytest.raises(DualLoRAError, match="number of tasks is 0"):
        whole.first(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"increment": 0}, "increment is 0, expected 1"),
        ({"increment": [3, 3]}, r"\[3, 3\] add up to 6.*the 7 classes"),
        ({"increment": [8, -1]}, "numbers of 1 or more"),
        ({"increment": []}, "add up to 0"),
        ({"increment": 2, "order": ["c0"], "seed": 1}, "give one of them"),
        ({"increment": 2, "order": ["c0", "c1"]}, "lacks .'c2', 'c3'"),
        ({"increment": 2, "order": [f"c{i}" for i in (0, 1, 2, 3, 4, 5, 6, 6)]}, "names a class twice"),
        ({"increment": 2, "order": ["c0", "zebra"]}, "unknown class in the class order 'zebra'"),
        ({"increment": 2, "seed": -1}, "seed is -1"),
        ({"increment": 2, "validation": 1.0}, "expected 0 <= share < 1"),
        ({"increment": 2, "max_per_class": 0}, "most images per class is 0"),
    ],
)
def test_what_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DualLoRAError, match=message):
        TaskStream.class_incremental(make(7), **arguments)


def test_a_class_without_training_images() -> None:
    split = Split(numbered({"a": 3, "b": 0}, 0), numbered({"a": 1, "b": 1}, 3))
    with pytest.raises(DualLoRAError, match="task 2: no training image of class 'b'"):
        TaskStream.class_incremental(split, 1)


# ---------------------------------------------------------------------- domains


def test_domain_incremental_keeps_the_class_list() -> None:
    photo, sketch = make(4, first=0), make(4, first=1000)
    turned = tuple(reversed(sketch.train.classes))
    sketch = Split(sketch.train.with_classes(turned), sketch.test.with_classes(turned))
    stream = TaskStream.domain_incremental({"photo": photo, "sketch": sketch}, validation=0.2)
    assert stream.scenario == "domain-incremental"
    assert [task.name for task in stream] == ["photo", "sketch"]
    assert stream.class_order == ("c0", "c1", "c2", "c3")
    for task, split in zip(stream, (photo, sketch), strict=True):
        assert task.classes == task.train.classes == task.test.classes == stream.class_order
        assert task.validation is not None and task.validation.classes == stream.class_order
        assert identities(task.train) + identities(task.validation) == identities(split.train)
        assert identities(task.test) == identities(split.test)


def test_a_domain_may_lack_images_but_not_the_name_of_a_class() -> None:
    one = make(2)
    few = Split(numbered({"c0": 3, "c1": 0}, 500), numbered({"c0": 1, "c1": 1}, 600))
    stream = TaskStream.domain_incremental({"one": one, "few": few}, max_per_class=2)
    assert stream[1].train.counts() == [2, 0]
    with pytest.raises(DualLoRAError, match=r"'other' and domain 'one' differ in the classes \['c2'\]"):
        TaskStream.domain_incremental({"one": one, "other": make(3)})
    nothing = Split(numbered({"c0": 0, "c1": 0}, 500), numbered({"c0": 1, "c1": 1}, 600))
    with pytest.raises(DualLoRAError, match="nothing: no training image"):
        TaskStream.domain_incremental({"one": one, "nothing": nothing})
    with pytest.raises(DualLoRAError, match="no domains"):
        TaskStream.domain_incremental({})


def test_a_test_set_that_all_domains_share_is_measured_once() -> None:
    one, two = make(3, first=0), make(3, first=500)
    stream = TaskStream.domain_incremental({"two": Split(two.train, one.test), "one": one})
    assert [len(task.test) for task in stream] == [len(one.test), 0]
    assert stream[1].test.classes == one.test.classes
    assert [len(task.train) for task in stream] == [len(two.train), len(one.train)]

"""Which runs belong together: one benchmark is compared, one method on several seeds or orders is averaged."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from duallora.config import RunConfig
from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.methods.registry import get_method
from duallora.training.settings import INDIFFERENT

# Keys of a config in which repetitions of one experiment differ, or may.
REPEATED = {"seed", "order", "class_order", "order_seed", *INDIFFERENT}


@dataclass(frozen=True)
class Figure:
    """A number over several runs: its mean, and its sample deviation where there are two runs or more."""

    mean: float
    deviation: float | None = None


@dataclass(frozen=True)
class MethodGroup:
    """Repetitions of one method with one config on one benchmark."""

    label: str
    runs: tuple[RunResults, ...]

    def figure(self, name: str) -> Figure | None:
        """A scalar field of the results over the runs; None unless every run has it."""
        return over([getattr(run, name) for run in self.runs])

    def last(self, name: str) -> Figure | None:
        """The last entry of a list field over the runs; None unless every run has it."""
        return over([getattr(run, name)[-1] for run in self.runs])

    @property
    def curve(self) -> list[Figure | None]:
        """Accuracy over all test images so far, after each task; nothing where runs have other numbers of tasks."""
        if len({len(run.accuracy_curve) for run in self.runs}) > 1:
            return []
        return [over(list(values)) for values in zip(*(run.accuracy_curve for run in self.runs), strict=True)]

    @property
    def matrix(self) -> list[list[float | None]]:
        """Mean accuracy matrix."""
        rows = zip(*(run.accuracy_matrix for run in self.runs), strict=True)
        return [[mean_of(list(cells)) for cells in zip(*row, strict=True)] for row in rows]

    @property
    def capacity(self) -> list[list[float]] | None:
        """Mean share of used directions, [task][block]; None unless every run reports it for the same blocks."""
        tables = [run.capacity for run in self.runs if run.capacity is not None]
        if len(tables) != len(self.runs) or len({len(row) for table in tables for row in table}) != 1:
            return None
        return [[statistics.fmean(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]

    @property
    def seconds(self) -> dict[str, Figure]:
        """Seconds per phase; a run without a phase spent none on it."""
        totals = [run.total_seconds for run in self.runs]
        phases = dict.fromkeys(phase for total in totals for phase in total)
        figures = {phase: over([total.get(phase, 0.0) for total in totals]) for phase in phases}
        return {phase: figure for phase, figure in figures.items() if figure is not None}

    @property
    def task_names(self) -> list[str] | None:
        """Names of the tasks where all runs agree on them."""
        names = [[task.name for task in run.tasks] for run in self.runs]
        return names[0] if all(other == names[0] for other in names) else None


@dataclass(frozen=True)
class Benchmark:
    """Runs that may be compared: same scenario, classes, task sizes, test images and backbone.

    Attributes:
        methods: each as it answers where nobody says otherwise.
        asides: the same trainings, read out in other ways.
    """

    methods: tuple[MethodGroup, ...]
    asides: tuple[MethodGroup, ...] = ()

    @property
    def example(self) -> RunResults:
        """Any of its runs, for what all have in common."""
        return self.methods[0].runs[0]

    @property
    def runs(self) -> list[RunResults]:
        """All its runs, in the order of the methods."""
        return [run for method in (*self.methods, *self.asides) for run in method.runs]


def over(values: Sequence[float | None]) -> Figure | None:
    """Mean and sample deviation; None if a value is missing.

    >>> over([0.25, 0.75])
    Figure(mean=0.5, deviation=0.3535533905932738)
    """
    known = [value for value in values if value is not None]
    if not known or len(known) != len(values):
        return None
    return Figure(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean; None if a value is missing."""
    figure = over(values)
    return figure.mean if figure else None


def benchmarks(runs: Sequence[RunResults]) -> list[Benchmark]:
    """Group runs into benchmarks, and those into methods, the best `a_last` first.

    One training scored by several read-outs gives a run for each. That of the method's own read-out stands for it, the
    others stand aside, unless they are all there is.
    """
    grouped: dict[object, dict[object, list[RunResults]]] = {}
    for run in runs:
        sizes = tuple(sorted(len(task.classes) for task in run.tasks))  # groups of classes come in any order
        classes = tuple(sorted(run.class_order))
        stream = (run.scenario, sizes, classes, sum(run.counts), run.backbone.sha256)
        experiment = (run.method, len(run.accuracy_matrix), json.dumps(_lasting(_settled(run.config)), sort_keys=True))
        grouped.setdefault(stream, {}).setdefault(experiment, []).append(run)
    found = []
    for groups in grouped.values():
        own = {_training(runs[0]) for runs in groups.values() if _answers_as_usual(runs[0])}
        standing: list[MethodGroup] = []
        asides: list[MethodGroup] = []
        for method in _sorted_methods(list(groups.values())):
            run = method.runs[0]
            aside = not _answers_as_usual(run) and _training(run) in own
            (asides if aside else standing).append(method)
        found.append(Benchmark(tuple(standing), tuple(asides)))
    return found


def _training(run: RunResults) -> str:
    """What runs of one training have in common, and its repetitions."""
    config = dict(_lasting(_settled(run.config)))
    if isinstance(config.get("method"), Mapping):
        config["method"] = {key: value for key, value in config["method"].items() if key != "readout"}
    return json.dumps([len(run.accuracy_matrix), config], sort_keys=True)


def _answers_as_usual(run: RunResults) -> bool:
    """Whether by the method's own read-out; another one's name follows the method's."""
    method = run.config.get("method")
    return isinstance(method, Mapping) and run.method == method.get("name")


def _sorted_methods(groups: list[list[RunResults]]) -> list[MethodGroup]:
    named = [
        MethodGroup(
            _label(group[0], [other[0] for other in groups if other[0].method == group[0].method]), tuple(group)
        )
        for group in groups
    ]
    return sorted(named, key=lambda method: (-(mean_of([run.a_last for run in method.runs]) or 0.0), method.label))


def _label(run: RunResults, variants: list[RunResults]) -> str:
    """The method's name, and what sets this config apart where the same method ran with several."""
    if len(variants) == 1:
        return run.method
    flat, *others = (_flat(_lasting(_settled(one.config))) for one in (run, *variants))
    apart = [key for key in flat if any(other.get(key) != flat[key] for other in others)]
    words = [f"{key.rsplit('.', 1)[-1]} {flat[key]}" for key in apart]
    if len(run.accuracy_matrix) < len(run.tasks):
        words.append(f"{len(run.accuracy_matrix)} of {len(run.tasks)} tasks")
    text = ", ".join(words)
    if not text or len(text) > 60:
        text = f"variant {variants.index(run) + 1}"
    return f"{run.method} ({text})"


def _settled(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with defaults written out: a run from before there was a key is like one that left it out."""
    try:
        method = dict(config["method"])
        readout = method.pop("readout", None)
        whole = RunConfig.model_validate({**config, "method": method})
        options = get_method(whole.method.name).Config.model_validate(whole.method.options)
    except (KeyError, TypeError, ValueError, DualLoRAError):  # of another version; as it is, then
        return config
    settled: dict[str, Any] = whole.model_dump(mode="json")
    settled["method"] |= {"options": options.model_dump(mode="json"), "readout": readout}
    return settled


def _lasting(config: Any) -> Any:
    """A config without the keys in which repetitions differ."""
    if isinstance(config, Mapping):
        return {key: _lasting(value) for key, value in config.items() if key not in REPEATED}
    return config


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

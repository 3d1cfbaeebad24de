"""What is compared with what, and what is averaged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from duallora.evaluation.results import BackboneRecord, RunResults
from duallora.report.summary import Figure, benchmarks, over

Maker = Callable[..., RunResults]


def test_seeds_and_orders_of_one_method_are_averaged(make_run: Maker) -> None:
    runs = [make_run(seed=seed) for seed in range(3)]
    shuffled = make_run(seed=9, class_order=list(reversed(runs[0].class_order)))
    (benchmark,) = benchmarks([*runs, shuffled])
    (method,) = benchmark.methods
    assert len(method.runs) == 4
    figure = method.figure("a_last")
    assert figure is not None
    values = [run.a_last for run in method.runs if run.a_last is not None]
    mean = sum(values) / 4
    assert figure.mean == pytest.approx(mean)
    assert figure.deviation == pytest.approx((sum((value - mean) ** 2 for value in values) / 3) ** 0.5)
    assert method.matrix[1][0] == pytest.approx(sum(run.accuracy_matrix[1][0] or 0 for run in method.runs) / 4)
    assert method.matrix[0][1] is None
    assert method.capacity == [[pytest.approx(cell) for cell in row] for row in runs[0].capacity or []]


def test_orders_of_a_suite_are_averaged_though_written_by_several_versions(make_run: Maker) -> None:
    runs = []
    for order in (1, 2, 3):
        stream = {"source": "digits", "increment": 2, "order_seed": order} | ({"held_out": 0.2} if order > 1 else {})
        method = {"name": "duallora", "options": {"rank": 8} if order > 2 else {}, "readout": "product"}
        runs.append(make_run(seed=order, config={"stream": stream, "method": method, "seed": order}))
    (benchmark,) = benchmarks(runs)
    (method,) = benchmark.methods
    assert (method.label, len(method.runs)) == ("duallora", 3)


def test_repetitions_may_take_other_numbers_of_images_at_once(make_run: Maker) -> None:
    runs = []
    for seed, size in ((0, 256), (1, None)):
        training = {"evaluation_batch_size": size}
        method = {"name": "duallora", "options": {}, "readout": "product"}
        stream = {"source": "digits", "increment": 2}
        held = {"stream": stream, "method": method, "seed": seed, "training": training}
        runs.append(make_run(seed=seed, config=held))
    (benchmark,) = benchmarks(runs)
    (method,) = benchmark.methods
    assert (method.label, len(method.runs)) == ("duallora", 2)


def test_the_methods_own_readout_stands_for_a_training_and_others_stand_aside(make_run: Maker) -> None:
    def run(name: str, readout: str, suffix: str = "", seed: int = 0) -> RunResults:
        method = {"name": name, "options": {}, "readout": readout}
        held = {"stream": {"source": "digits", "increment": 2}, "method": method, "seed": seed}
        return make_run(method=name + suffix, config=held, seed=seed)

    runs = [run("lora", "heads"), run("lora", "tasks", "+tasks"), run("inflora+align", "heads")]
    repeated = [run("lora", "heads", seed=1), run("lora", "tasks", "+tasks", seed=1)]
    (benchmark,) = benchmarks([*runs, *repeated])
    assert {method.label: len(method.runs) for method in benchmark.methods} == {"lora": 2, "inflora+align": 1}
    assert {method.label: len(method.runs) for method in benchmark.asides} == {"lora+tasks": 2}
    assert len(benchmark.runs) == 5
    (benchmark,) = benchmarks(runs[1:])  # the training has nothing else to stand for it
    assert {method.label for method in benchmark.methods} == {"lora+tasks", "inflora+align"}
    assert benchmark.asides == ()


def test_sorted_by_accuracy(make_run: Maker) -> None:
    (benchmark,) = benchmarks([make_run(method=name) for name in ("lora", "slda", "joint")])
    assert [method.label for method in benchmark.methods] == ["joint", "slda", "lora"]


def test_other_streams_and_backbones_are_not_compared(make_run: Maker) -> None:
    other = BackboneRecord(name="bundled", sha256="ff" * 32, dim=192, depth=6)
    runs = [make_run(), make_run(steps=4), make_run(scenario="domain-incremental"), make_run(backbone=other)]
    assert [len(benchmark.runs) for benchmark in benchmarks(runs)] == [1, 1, 1, 1]


def test_other_configs_are_told_apart_by_what_differs(make_run: Maker) -> None:
    runs = [make_run(config={"rank": rank, "seed": seed}, seed=seed) for rank in (8, 16) for seed in (0, 1)]
    (benchmark,) = benchmarks(runs)
    assert sorted(method.label for method in benchmark.methods) == ["duallora (rank 16)", "duallora (rank 8)"]
    long = [make_run(config={"text": word * 80}) for word in "ab"]
    (benchmark,) = benchmarks(long)
    assert sorted(method.label for method in benchmark.methods) == ["duallora (variant 1)", "duallora (variant 2)"]


def test_a_run_cut_short_is_no_repetition(make_run: Maker) -> None:
    whole = make_run(seed=1)
    names = ("task_id_accuracy", "calibration_error", "parameters_trained", "bytes_kept", "capacity")
    cut = make_run(
        accuracy_matrix=whole.accuracy_matrix[:2],
        task_il_matrix=whole.task_il_matrix[:2],
        **{name: getattr(whole, name)[:2] for name in names},
    )
    (benchmark,) = benchmarks([whole, cut])
    assert sorted(method.label for method in benchmark.methods) == ["duallora (2 of 3 tasks)", "duallora (variant 1)"]


def test_what_one_run_lacks_has_no_mean() -> None:
    assert over([0.5, None]) is None
    assert over([]) is None
    assert over([0.5]) == Figure(0.5, None)

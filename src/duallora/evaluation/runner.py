"""One run: a stream through a method, measured after every task, resumable, written as files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from duallora.answers import SkippedImage
from duallora.artefact import load_artefact
from duallora.config import RunConfig, StreamConfig
from duallora.data import open_domains, open_source
from duallora.data.imageset import ImageSet
from duallora.data.sampling import at_most
from duallora.errors import DualLoRAError
from duallora.evaluation.memory import forget_peak, peak_memory
from duallora.evaluation.results import BackboneRecord, MachineRecord, RunResults, TaskRecord
from duallora.evaluation.run_folder import REDO, alone, check_folder, check_images, clear, images_of
from duallora.evaluation.scoring import StepScores, score_step
from duallora.evaluation.steps import StepRecord, load_steps
from duallora.files import user_path, write_json_atomic
from duallora.learner import Learner
from duallora.stream import Task, TaskStream, ordered


def build_stream(config: StreamConfig) -> TaskStream:
    """The stream that a configuration describes.

    Raises:
        DualLoRAError: the source cannot be read, or the classes do not fit the increments.
    """
    whole = _whole_stream(config)
    return whole if config.max_tasks is None else whole.first(config.max_tasks)


def _whole_stream(config: StreamConfig) -> TaskStream:
    if config.scenario == "domain-incremental":
        domains = open_domains(config.source, root=config.root, held_out=config.held_out)
        names = ordered(tuple(domains), config.order, config.order_seed, config.order_shuffle, "domain")
        return TaskStream.domain_incremental(
            {name: domains[name] for name in names}, validation=config.validation, max_per_class=config.max_per_class
        )
    return TaskStream.class_incremental(
        open_source(config.source, root=config.root, held_out=config.held_out),
        config.increment,
        order=config.order,
        seed=config.order_seed,
        shuffle=config.order_shuffle,
        validation=config.validation,
        max_per_class=config.max_per_class,
    )


def run(
    config: RunConfig, out: str | Path, *, resume: bool = True, redo: bool = False, progress: bool = True
) -> RunResults:
    """Take a method through a stream and write what comes of it.

    `out` receives config.json, and images.json, which tells these images from others; steps/ and checkpoints/ while
    the run goes on; results.json at the end, and readouts/<name>/results.json for the other read-outs of the same
    training. A run that was interrupted goes on after its last finished task and gives the same results as one that
    was not.

    Args:
        config: everything about the run.
        out: its folder.
        resume: False refuses a folder that holds a run already.
        redo: True starts over.
        progress: whether to show any.

    Raises:
        DualLoRAError: the folder holds a run of another configuration, on former weights of the bundled backbone, or
            begun on other images; another run works in it; or something in the configuration cannot be used.
    """
    out = user_path(out)
    with alone(out):
        return _run(config, out, resume, redo, progress)


def _run(config: RunConfig, out: Path, resume: bool, redo: bool, progress: bool) -> RunResults:
    check_folder(config, out, resume, redo)
    if (out / "results.json").exists() and not redo:
        finished = RunResults.load(out / "results.json")
        if finished.on_former_weights:
            raise DualLoRAError(
                f"'{out}' holds a run on former weights of the bundled backbone; give another --out, or {REDO}"
            )
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # where it was killed before they were cleared away
        return finished
    stream = build_stream(config.stream)
    tests = [_evaluated(task, config.stream) for task in stream]
    if not any(len(test) for test in tests):
        raise DualLoRAError(
            "there are no images to test on, so nothing can be measured; give classes of two images or more, of which "
            "a share is held out, or a folder with train/ and test/ parts"
        )
    images = images_of(stream, tests)
    if not redo:
        check_images(out, images)
    learner, steps = _started(config, out, redo)
    forget_peak(learner.device)
    if redo:
        clear(out)
    write_json_atomic(out / "images.json", images)
    write_json_atomic(out / "config.json", config.model_dump(mode="json"))  # only now: a mistake so far leaves no trace
    cumulative = learner.method.cumulative
    # Every class is known by its place in the stream, whatever was learned so far: only then do matrices agree.
    for number in range(len(steps), len(stream)):
        task = stream[number]
        if cumulative and config.cumulative_steps == "last" and number + 1 < len(stream):
            steps.append(StepRecord.empty())
            continue
        began = datetime.now(UTC)
        if cumulative:
            report = learner.learn_jointly([t.train for t in stream[: number + 1]], name=task.name, progress=progress)
        else:
            report = learner.learn(task.train, name=task.name, progress=progress)
        clock = time.perf_counter()
        seen = [learner.batches(t) for t in tests[: number + 1]]
        same = stream.scenario == "domain-incremental" and number + 1 < len(stream)
        ahead = learner.batches(tests[number + 1]) if same else None  # in class-incremental its classes are unknown
        scored = score_step(learner.method, seen, learner.method.readouts, ahead)
        if stream.shared_test and config.stream.evaluate_on == "test":
            scored = {readout: scores.without_tasks() for readout, scores in scored.items()}
        seconds = report.seconds | {"evaluate": time.perf_counter() - clock}
        steps.append(_step(learner, scored, seconds, report.capacity, began))
        _checkpoint(learner, steps, out, number, keep=number + 1 < len(stream))
    results = {r: _results(config, stream, tests, learner, steps, r) for r in learner.method.readouts}
    for readout, found in results.items():
        if readout != learner.method.readout:
            found.save(out / "readouts" / readout / "results.json")
    results[learner.method.readout].save(out / "results.json")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return results[learner.method.readout]


def _evaluated(task: Task, config: StreamConfig) -> ImageSet:
    """The images a task is measured on."""
    if config.evaluate_on == "validation":
        if task.validation is None:
            raise DualLoRAError("stream.evaluate_on is 'validation' but nothing is held out; set stream.validation=0.1")
        return task.validation
    if config.max_test_per_class is None:
        return task.test
    return task.test.subset(at_most(task.test.labels, task.test.classes, config.max_test_per_class))


def _started(config: RunConfig, out: Path, redo: bool) -> tuple[Learner, list[StepRecord]]:
    """A fresh learner, or the one of the last finished task with the records up to it."""
    steps = [] if redo else load_steps(out / "steps")
    saved = [] if redo else sorted((out / "checkpoints").glob("task-[0-9][0-9][0-9]"))
    for folder in reversed(saved):
        done = int(folder.name[5:])
        if done <= len(steps):
            try:
                weights = config.backbone.weights
                learner = Learner.load(folder, device=config.device, weights=weights, training=config.training)
            except DualLoRAError:
                _check_whole(folder, out)
                raise
            _check_options(learner, config, out)
            return learner, steps[:done]
    learner = Learner.of(config)
    return learner, []


def _check_options(learner: Learner, config: RunConfig, out: Path) -> None:
    """Raise DualLoRAError where a default has changed since: the results would be of neither."""
    held = learner.method.config.model_dump(mode="json")
    now = type(learner.method).Config(**config.method.options).model_dump(mode="json")
    for name, value in now.items():
        if held.get(name) != value:
            raise DualLoRAError(
                f"'{out}' holds half a run of an earlier duallora, for which {name} was {held.get(name)!r} by default; "
                f"it is {value!r} now: {REDO}, or give another --out"
            )


def _check_whole(checkpoint: Path, out: Path) -> None:
    """Raise DualLoRAError with what helps if the files are damaged: there is no copy to take them from."""
    try:
        load_artefact(checkpoint)
    except DualLoRAError as error:
        raise DualLoRAError(
            f"the run in '{out}' broke off and cannot go on from '{checkpoint.name}' ({str(error).split(';')[0]}); "
            + REDO
        ) from error


def _step(
    learner: Learner,
    scored: dict[str, StepScores],
    seconds: dict[str, float],
    capacity: list[float] | None,
    began: datetime,
) -> StepRecord:
    cost = learner.method.cost()
    trained = learner.trained
    return StepRecord(
        scores=scored,
        seconds=seconds,
        capacity=capacity,
        parameters_trained=trained,
        bytes_kept=cost.bytes_kept,
        passes_per_image=cost.passes_per_image,
        images_kept=cost.images_kept,
        peak_memory_bytes=peak_memory(learner.device),
        notes=learner.method.log.notes,
        began=began,
        ended=datetime.now(UTC),
    )


def _checkpoint(learner: Learner, steps: Sequence[StepRecord], out: Path, number: int, *, keep: bool) -> None:
    """Record the step, then the model after it; the one before is dropped once the new one is whole."""
    for i, step in enumerate(steps):
        path = out / "steps" / f"{i:03d}.json"
        if not path.exists() or i == number:
            write_json_atomic(path, step.model_dump(mode="json"))
    if keep:
        learner.save(out / "checkpoints" / f"task-{number + 1:03d}", overwrite=True)
        for old in (out / "checkpoints").glob("task-*"):
            if old.name != f"task-{number + 1:03d}":
                shutil.rmtree(old)


def _results(
    config: RunConfig,
    stream: TaskStream,
    tests: Sequence[ImageSet],
    learner: Learner,
    steps: Sequence[StepRecord],
    readout: str,
) -> RunResults:
    """Everything in the file's form, for one read-out."""
    width = len(stream)

    def pad(row: list[float | None]) -> list[float | None]:
        return [*row, *[None] * (width - len(row))]

    scores = [s.scores.get(readout) for s in steps]
    phases = sorted({phase for s in steps for phase in s.seconds})
    options: dict[str, Any] = config.model_dump(mode="json")
    options["method"]["options"] = learner.method.config.model_dump(mode="json")
    options["method"]["readout"] = readout
    device = str(learner.device)
    return RunResults.from_matrix(
        method=learner.method.displayed(readout),
        scenario=stream.scenario,
        tasks=[
            TaskRecord(
                name=t.name, classes=list(t.classes), train_images=len(t.train), test_images=len(test), notes=step.notes
            )
            for t, test, step in zip(stream, tests, steps, strict=True)
        ],
        accuracy_matrix=[pad(s.accuracy if s else []) for s in scores],
        task_il_matrix=[pad(s.task_il if s else []) for s in scores],
        task_id_accuracy=[s.task_id if s else None for s in scores],
        calibration_error=[s.calibration if s else None for s in scores],
        class_order=list(stream.class_order),
        seed=config.seed,
        backbone=BackboneRecord(
            name=config.backbone.name,
            sha256=learner.backbone.sha256,
            dim=learner.backbone.dim,
            depth=learner.backbone.depth,
            levels=learner.backbone.levels,
        ),
        config=options,
        machine=MachineRecord.describe(device, torch.get_num_threads()),
        seconds={phase: [s.seconds.get(phase, 0.0) for s in steps] for phase in phases},
        peak_memory_bytes=max((s.peak_memory_bytes for s in steps if s.peak_memory_bytes is not None), default=None),
        parameters_trained=[s.parameters_trained for s in steps],
        bytes_kept=[s.bytes_kept for s in steps],
        passes_per_image=steps[-1].passes_per_image,
        images_kept=steps[-1].images_kept,
        skipped=[SkippedImage(path=s.path, reason=s.reason) for s in stream.skipped],
        capacity=[s.capacity or [] for s in steps] if steps[-1].capacity else None,
        started=steps[0].began,
        finished=steps[-1].ended,
    )

"""How long cells will take: from what has run, else from a guess that says so."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from duallora.bench.cells import Cell
from duallora.bench.state import State
from duallora.config import RunConfig, StreamConfig
from duallora.evaluation.results import RunResults

# Seconds per image and pass where nothing has run yet, by kind of device: of the bundled network at 64 px, of any other
# at 224 px. Other sizes take as much longer as they have more pixels.
GUESS = {"cpu": (0.016, 0.25), "cuda": (0.0005, 0.004), "mps": (0.001, 0.02)}
PIXELS = (64, 224)
IMAGES = 10_000  # where nobody knows how many
START = 6.0  # seconds until a process has imported what it needs
EXTRA = 2.0  # passes beside the epochs: looking ahead, statistics, tests


@dataclass(frozen=True)
class Estimate:
    """Seconds that a cell will take from now on, and what that rests on."""

    seconds: float
    basis: str


def estimates(
    cells: Sequence[Cell],
    states: Mapping[Cell, State],
    device: str,
    images: Callable[[StreamConfig], int | None] = lambda stream: None,
) -> dict[Cell, Estimate]:
    """An estimate for each of some cells.

    Args:
        cells: what is still to be run.
        states: of all cells of the grid.
        device: kind of device that they will run on: "cpu", "cuda", "mps".
        images: number of training images of a stream, where it can be told without a download.
    """
    done = {cell: state.results for cell, state in states.items() if state.results is not None}
    counted: dict[str, int | None] = {}
    out = {}
    for cell in cells:
        same = [results for other, results in done.items() if other.row == cell.row]
        if same:
            full = statistics.fmean(_scaled(results, cell.config) for results in same)
            basis = f"{len(same)} finished of this row"
        else:
            key = cell.config.stream.model_copy(update={"order": None, "order_seed": None}).model_dump_json()
            if key not in counted:
                known = [_train_images(results) for other, results in done.items()]
                counted[key] = known[0] if known else images(cell.config.stream)
            count = counted[key]
            rates = [_seconds(results) / _work(results) for results in done.values()]
            rate = statistics.median(rates) if rates else _guessed_rate(cell.config, device)
            full = (count or IMAGES) * _passes(cell.config) * rate
            speed = (
                "the speed of other rows" if rates else f"guessed {1000 * rate:.3g} ms per image and pass on {device}"
            )
            number = f"{count:,} images" if count else f"{IMAGES:,} images, a guess"
            basis = f"{speed}; {number} x {_passes(cell.config):g} passes"
        state = states[cell]
        if state.kind == "half" and state.steps:
            tasks = next((len(results.tasks) for results in done.values()), None)
            share = len(state.steps) / tasks if tasks else 0.5
            full, basis = full * max(0.0, 1 - share), f"{basis}; {len(state.steps)} tasks are done"
        out[cell] = Estimate(START + full, basis)
    return out


def _scaled(results: RunResults, config: RunConfig) -> float:
    """The time of a finished run, as if it had had this one's epochs and images per class."""
    held = results.config
    then, now = held.get("stream", {}).get("max_per_class"), config.stream.max_per_class
    factor = now / then if then and now else 1.0
    return _seconds(results) * factor * _passes(config) / _passes_of(results)


def _passes(config: RunConfig) -> float:
    from duallora.methods.base import Method
    from duallora.methods.registry import get_method

    trains = get_method(config.method.name).loss is not Method.loss
    return (config.training.epochs if trains else 0) + EXTRA


def _passes_of(results: RunResults) -> float:
    epochs = results.config.get("training", {}).get("epochs", 0) if max(results.parameters_trained) else 0
    return float(epochs) + EXTRA


def _train_images(results: RunResults) -> int:
    return sum(task.train_images for task in results.tasks)


def _work(results: RunResults) -> float:
    return max(1.0, _train_images(results) * _passes_of(results))


def _seconds(results: RunResults) -> float:
    return sum(results.total_seconds.values())


def _guessed_rate(config: RunConfig, device: str) -> float:
    other = int(config.backbone.name != "bundled")
    size = config.backbone.image_size or PIXELS[other]
    return GUESS.get(device, GUESS["cpu"])[other] * (size / PIXELS[other]) ** 2

"""What is there of a cell."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from duallora.backbone import bundled
from duallora.bench.cells import Cell, Grid, named_cells
from duallora.bench.state import check_states, state_of
from duallora.data.imageset import ImageSet
from duallora.errors import DualLoRAError
from duallora.evaluation.results import BackboneRecord
from duallora.evaluation.runner import run
from duallora.evaluation.steps import StepRecord
from duallora.learner import Learner

Make = Callable[..., Grid]


def test_nothing_half_and_done(grid_of: Make, finished: Callable[..., Any]) -> None:
    nothing, half, done, _ = grid_of().cells
    for number in range(2):
        (half.folder / "steps").mkdir(parents=True, exist_ok=True)
        (half.folder / "steps" / f"{number:03d}.json").write_text(StepRecord.empty().model_dump_json())
    (half.folder / "config.json").write_text(half.config.model_dump_json())
    assert state_of(half).steps == ()  # measured, but no model is saved from which to go on
    (half.folder / "checkpoints" / "task-002").mkdir(parents=True)
    run = finished(done)
    assert state_of(nothing).kind == "missing"
    assert (state_of(half).kind, len(state_of(half).steps)) == ("half", 2)
    assert state_of(done).results == run
    nothing.folder.mkdir(parents=True)
    (nothing.folder / ".config.json.1a2b.tmp").write_text("{")  # broken off in the very first file
    assert state_of(nothing).kind == "missing"
    check_states({cell: state_of(cell) for cell in (nothing, half, done)})


def change_results(cell: Cell, file: str = "results.json", **changes: Any) -> None:
    """Write other results, as another run might have left them."""
    path = cell.folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checksum": None} | changes))


def change_config(cell: Cell, part: str, key: str, value: object) -> None:
    """Write other settings into the results of every read-out."""
    for path in cell.folder.rglob("results.json"):
        config = json.loads(path.read_text())["config"]
        config[part][key] = value
        change_results(cell, str(path.relative_to(cell.folder)), config=config)


def edit(cell: Cell, name: str, value: object) -> None:
    """Change one entry by hand."""
    path = cell.folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def change_readout(cell: Cell, training: dict[str, Any]) -> None:
    """Put another run's results by a read-out beside the cell's own."""
    file = "readouts/quadratic/results.json"
    config = json.loads((cell.folder / file).read_text())["config"]
    change_results(cell, file, config=config | {"training": config["training"] | training})


@pytest.mark.parametrize(
    ("alter", "why"),
    [
        (lambda cell: (cell.folder / "results.json").write_text("{"), "is not valid JSON"),
        (lambda cell: change_results(cell, a_last=0.99), "a_last is 0.99, but"),
        (lambda cell: change_config(cell, "training", "epochs", 7), "training.epochs is 7, the suite says 1"),
        (lambda cell: change_config(cell, "method", "options", {"shrinkage": 0.5}), "method.options.shrinkage is 0.5"),
        (lambda cell: change_config(cell, "method", "options", {"gone": 1}), "cannot read its configuration"),
        (lambda cell: change_results(cell, config={}), "cannot read its configuration"),
        (lambda cell: edit(cell, "bytes_kept", [1, 2, 3]), "was altered: its checksum is that of other figures"),
        (lambda cell: edit(cell, "images_kept", 7), "was altered: its checksum is that of other figures"),
        (lambda cell: change_readout(cell, {"epochs": 7}), "quadratic/results.json' is of other settings: training.ep"),
        (lambda cell: shutil.rmtree(cell.folder / "readouts"), "lacks the read-out 'quadratic'"),
    ],
)
def test_an_altered_cell_is_named_with_the_cure(
    alter: Callable[[Cell], None], why: str, grid_of: Make, finished: Callable[..., Any]
) -> None:
    cell, other = grid_of().cells[:2]
    finished(cell)
    alter(cell)
    state = state_of(cell)
    assert state.kind == "altered"
    with pytest.raises(DualLoRAError) as raised:
        check_states({cell: state, other: state_of(other)})
    assert why in str(raised.value)
    assert str(raised.value).startswith("slda/order-0: ")
    assert "Start over with --redo slda/order-0, or" in str(raised.value)
    check_states({cell: state}, redo=[cell])


def test_a_cure_can_be_typed_as_it_stands_and_names_all(grid_of: Make, finished: Callable[..., Any]) -> None:
    row = {"method": {"name": "slda"}}
    grid = grid_of(rows={"it's slow": row, "plain": row})
    for cell in grid.cells:
        finished(cell)
        if cell.row != "plain" or cell.order == 1:
            change_results(cell, config={})
    with pytest.raises(DualLoRAError) as raised:
        check_states({cell: state_of(cell) for cell in grid.cells})
    cure = str(raised.value).split("Start over with ")[1].split(", or give")[0]
    typed = [word for word in shlex.split(cure) if word != "--redo"]
    assert set(typed) == {"it's slow", "plain/order-1"}
    assert named_cells(grid.cells, typed) == [c for name in typed for c in grid.cells if name in (c.row, c.name)]


def test_results_on_former_weights_of_the_bundled_backbone_are_not_those_of_now(
    grid_of: Make, finished: Callable[..., Any]
) -> None:
    cell = grid_of({"overrides": ["backbone.name=bundled", "backbone.pretrained=true"]}).cells[0]
    now = {"name": "bundled", "sha256": bundled.read_card()["weights_sha256"], "dim": 192, "depth": 12}
    finished(cell, backbone=BackboneRecord(**now))
    assert state_of(cell).kind == "done"
    finished(cell, backbone=BackboneRecord(**(now | {"sha256": "89" * 32, "depth": 6})))
    assert state_of(cell).kind == "altered"
    assert "is of former weights of the bundled backbone" in state_of(cell).why
    change_config(cell, "backbone", "weights", "mine.safetensors")  # somebody's own, under the bundled architecture
    assert state_of(cell).kind == "done"


def test_a_readout_that_is_broken_counts_too(grid_of: Make, finished: Callable[..., Any]) -> None:
    cell = grid_of().cells[1]
    finished(cell)
    assert state_of(cell).kind == "done"
    (cell.folder / "readouts" / "gaussian" / "results.json").write_text("")
    assert state_of(cell).kind == "altered"


def test_where_it_ran_and_defaults_of_options_make_no_difference(grid_of: Make, finished: Callable[..., Any]) -> None:
    cell = grid_of().cells[0]
    finished(cell)
    change_config(cell, "stream", "root", "elsewhere")
    change_config(cell, "backbone", "weights", "elsewhere.safetensors")
    change_config(cell, "method", "options", {"shrinkage": "oas"})
    assert state_of(cell).kind == "done"


def test_options_that_idle_make_no_difference(grid_of: Make, finished: Callable[..., Any]) -> None:
    cell = grid_of(rows={"duallora": {"method": {"name": "duallora"}}}).cells[0]
    finished(cell)
    change_config(cell, "method", "options", {"gate": "task"})
    assert state_of(cell).kind == "done"
    change_config(cell, "method", "options", {"class_rank": 4})
    assert state_of(cell).kind == "altered"


@pytest.mark.parametrize("whole", [False, True])
def test_how_many_images_go_through_at_once_makes_no_difference(
    grid_of: Make, finished: Callable[..., Any], whole: bool
) -> None:
    cell = grid_of().cells[0]
    if whole:
        finished(cell)
        change_config(cell, "training", "evaluation_batch_size", 256)
    else:
        cell.folder.mkdir(parents=True)
        other = grid_of({"overrides": ["training.evaluation_batch_size=256"]}).cells[0].config
        (cell.folder / "config.json").write_text(other.model_dump_json())
    assert state_of(cell).kind == ("done" if whole else "half")


def test_half_a_run_of_other_settings(grid_of: Make) -> None:
    cell = grid_of().cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.json").write_text(grid_of({"overrides": ["seed=4"]}).cells[0].config.model_dump_json())
    assert "holds half a run of other settings: seed is 4, the suite says 0" in state_of(cell).why
    (cell.folder / "config.json").write_text("{")
    assert state_of(cell).kind == "altered"


@pytest.fixture
def interrupted(grid_of: Make, monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A cell that was run for two of its five tasks, and then broken off."""
    cell = grid_of({"overrides": ["stream.increment=2"]}).cells[0]
    learn = Learner.learn

    def some(self: Learner, source: ImageSet, **options: Any) -> object:
        if len(self.tasks) == 2:
            raise KeyboardInterrupt
        return learn(self, source, **options)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Learner, "learn", some)
        run(cell.config, cell.folder, progress=False)
    return cell


def test_an_altered_record_of_half_a_run_is_named_and_never_becomes_a_result(interrupted: Cell) -> None:
    cell, path = interrupted, interrupted.folder / "steps" / "001.json"
    state, text = state_of(cell), path.read_text()
    assert (state.kind, len(state.steps)) == ("half", 2)
    record = json.loads(text)
    for scores in record["scores"].values():
        scores["accuracy"] = [1.0, 1.0]
    path.write_text(json.dumps(record))
    state = state_of(cell)
    assert state.kind == "altered"
    assert state.why == f"'{path}' was altered: its checksum is that of other figures"
    with pytest.raises(DualLoRAError, match=r"slda/order-0: .*001\.json' was altered.* with --redo slda/order-0, or"):
        check_states({cell: state})
    check_states({cell: state}, redo=[cell])
    with pytest.raises(DualLoRAError, match=r"001\.json' was altered: .*; start over with --redo, or"):  # nor by itself
        run(cell.config, cell.folder, progress=False)
    assert not (cell.folder / "results.json").exists()
    path.write_text(text)
    results = run(cell.config, cell.folder, progress=False)
    assert results.accuracy_matrix[1][:2] == json.loads(text)["scores"][results.config["method"]["readout"]]["accuracy"]
    assert state_of(cell).kind == "done"


def test_half_a_run_of_the_version_without_checksums_goes_on(interrupted: Cell) -> None:
    records = sorted((interrupted.folder / "steps").iterdir())
    for path in records:
        path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != "checksum"}))
    state = state_of(interrupted)
    assert (state.kind, len(state.steps)) == ("half", 2)
    before = [path.read_text() for path in records]
    run(interrupted.config, interrupted.folder, progress=False)
    assert state_of(interrupted).kind == "done"
    assert [path.read_text() for path in records] == before


def test_what_is_not_ours_cannot_be_redone(grid_of: Make) -> None:
    cell = grid_of().cells[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "thesis.txt").write_text("all of it")
    with pytest.raises(DualLoRAError, match=r"slda/order-0: .* holds other things \('thesis.txt'\); move it away"):
        check_states({cell: state_of(cell)}, redo=[cell])

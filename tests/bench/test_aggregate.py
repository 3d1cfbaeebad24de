"""From result files to tables: which line stands where, and what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from duallora.bench.aggregate import FIGURES, Line, best, collect, costs, summary, tables
from duallora.bench.cells import Grid
from duallora.bench.index import Index
from duallora.bench.page import page
from duallora.bench.publish import public_source, publish
from duallora.bench.table import folder_table, markdown, percent, readouts_table, variants_table
from duallora.errors import DualLoRAError
from duallora.evaluation.results import BackboneRecord, MachineRecord

Make = Callable[..., Grid]
ROWS: dict[str, Any] = {
    "ncm": {"method": {"name": "ncm"}},
    "slda": {"method": {"name": "slda"}},
    "lora": {"method": {"name": "lora"}, "about": "forgets <much>"},
    "joint": {"method": {"name": "joint"}, "cumulative_steps": "last"},
}
PROTOCOL: dict[str, Any] = {
    key: "unknown" for key in ("weights", "class_order", "split", "epochs", "transforms", "metric")
} | {
    "figures": {
        "Other": {"a_last": 99.5, "a_last_deviation": 0.25, "source": "their table 3", "note": "5 trials"},
        "Means": {"a_avg": 50.0, "source": "another table", "group": "statistics"},
    }
}


@pytest.fixture
def filled(grid_of: Make, finished: Callable[..., Any]) -> Callable[..., tuple[Grid, Index, dict[str, Line]]]:
    """A grid whose cells are all done, its index, and its lines by label."""

    def fill(options: dict[str, Any] | None = None, **changes: Any) -> tuple[Grid, Index, dict[str, Line]]:
        grid = grid_of(options, **({"rows": ROWS} | changes))
        for cell in grid.cells:
            kind = cell.config.method.name
            if kind == "lora":
                finished(cell, ("heads", "gaussian"))
            elif kind == "joint":
                finished(cell, ("heads",), images_kept=600, last_only=True)
            else:
                finished(cell, ("default" if kind == "ncm" else "gaussian",))
        index = Index.of(grid)
        return grid, index, {line.label: line for line in collect(grid.folder, index)}

    return fill


def labels(lines: dict[str, Line]) -> dict[str, set[str]]:
    return {group: {line.label for line in held} for group, held in tables(list(lines.values())).items()}


def test_like_stands_with_like(filled: Callable[..., Any]) -> None:
    _, _, lines = filled()
    assert labels(lines) == {"none": {"lora", "ncm", "joint"}, "statistics": {"slda", "lora+gaussian", "ncm", "joint"}}
    assert {label: line.kind for label, line in lines.items() if line.kind != "measured"} == {
        "ncm": "no adaptation",
        "joint": "yardstick",
    }
    assert lines["lora"].readout == "heads"
    held = tables(list(lines.values()))["statistics"]
    figures = [line.figure("a_last").mean for line in held]
    assert figures == sorted(figures, reverse=True)
    (leader,) = best(held, "a_last")
    assert leader.kind == "measured"


def test_a_line_that_has_seen_fewer_orders_leads_nothing(filled: Callable[..., Any]) -> None:
    grid, index, lines = filled()
    first, *_ = best(tables(list(lines.values()))["statistics"], "a_last")
    cells = [cell for cell in grid.cells if cell.row == first.row]
    assert len(cells) > 1
    shutil.rmtree(cells[-1].folder)
    held = tables(collect(grid.folder, index))["statistics"]
    assert len(next(line for line in held if line.label == first.label).runs) == len(cells) - 1
    assert first.row not in {leader.row for leader in best(held, "a_last")}


def test_lines_that_print_alike_lead_together(filled: Callable[..., Any]) -> None:
    _, _, lines = filled()
    held = tables(list(lines.values()))["statistics"]
    (first,) = best(held, "a_last")
    twin = replace(first, label="twin", row="twin")
    assert best([*held, twin], "a_last") == [first, twin]


def test_a_suite_can_say_otherwise(filled: Callable[..., Any]) -> None:
    rows = ROWS | {
        "lora": ROWS["lora"] | {"readouts": ["gaussian"], "group": "both"},
        "slda": ROWS["slda"] | {"group": {"gaussian": "none"}},
    }
    _, _, lines = filled(rows=rows)
    assert "lora" not in lines
    assert labels(lines)["none"] == {"lora+gaussian", "slda", "ncm", "joint"}
    with pytest.raises(DualLoRAError, match=r"row 'lora' shows the read-outs \['tasks'\], but \['gaussian', 'heads'\]"):
        filled(rows=ROWS | {"lora": ROWS["lora"] | {"readouts": ["tasks"]}})


def test_figures_are_means_and_sample_deviations_over_orders(filled: Callable[..., Any]) -> None:
    _, _, lines = filled()
    line = lines["lora"]
    one, two = (run.a_last for run in line.runs)
    figure = line.figure("a_last")
    assert figure.mean == pytest.approx((one + two) / 2)
    assert figure.deviation == pytest.approx(abs(one - two) / 2**0.5)
    lost = [run.task_il - run.a_last for run in line.runs]
    assert line.figure("lost").mean == pytest.approx(sum(lost) / 2)
    assert line.figure("task_id").mean == line.runs[0].task_id_accuracy[-1]
    joint = lines["joint"]
    assert joint.figure("a_last") is not None
    assert joint.figure("a_avg") is None  # trained once, at the end
    assert lines["slda"].figure("a_last_tasks") != lines["slda"].figure("a_last")  # tasks differ in test images


def test_seconds_and_memory_are_those_of_one_kind_of_device(
    grid_of: Make, finished: Callable[..., Any], filled: Callable[..., Any]
) -> None:
    grid, index, _ = filled(orders=[1, 2, 3])
    for cell in grid.cells:
        if cell.row == "slda" and cell.order == 1:
            machine = MachineRecord.describe("cuda (NVIDIA H200)", threads=1)
            finished(cell, machine=machine, seconds={"train": [0.5] * 3}, peak_memory_bytes=5, bytes_kept=[3, 6, 9])
    lines = {line.label: line for line in collect(grid.folder, index)}
    line = lines["slda"]
    others = [run for run in line.runs if run.machine.device == "cpu"]
    assert (line.device, len(line.runs), len(others)) == ("cpu", 3, 2)
    assert costs(line)["peak_memory_bytes"] == 812_000_000
    assert costs(line)["seconds"] == pytest.approx(sum(sum(run.total_seconds.values()) for run in others) / 2)
    assert costs(line)["bytes_kept"] == (9 + 2 * 450_000) / 3  # what holds for any device is of all
    cost = next(row for row in markdown(index, list(lines.values())).splitlines() if row.startswith("| slda | cpu"))
    assert cost.startswith("| slda | cpu, 2 of 3 runs | ")
    assert f" | {line.timed.seconds['train'].mean:.1f} | " in cost
    assert '<td class="text">cpu, 2 of 3 runs</td>' in page(index, list(lines.values()))


def test_runs_of_other_extents_are_told_as_a_range(filled: Callable[..., Any], finished: Callable[..., Any]) -> None:
    grid, index, _ = filled()
    finished(grid.cells[0], ("default",), steps=4)
    text = markdown(index, collect(grid.folder, index, {cell.folder for cell in grid.cells[:2]}))
    assert "3 to 4 tasks, 603 to 806 training and 150 to 220 test images in all" in text
    lines = collect(grid.folder, index)
    mixed = next(line for line in lines if line.row == grid.cells[0].row)
    assert mixed.group.curve == []  # steps of other lengths have no mean
    assert mixed.figure("a_last") is not None
    assert f">{mixed.label}<" in page(index, lines)
    assert summary(index, lines)["lines"]


def test_unfinished_and_foreign_runs_are_not_counted(filled: Callable[..., Any], finished: Callable[..., Any]) -> None:
    grid, index, _ = filled()
    cells = [cell for cell in grid.cells if cell.row == "slda"]
    (line,) = collect(grid.folder, index, {cells[0].folder})
    assert (line.label, len(line.runs)) == ("slda", 1)
    stray = cells[0].folder.parent / "results.json"  # of a run that was no cell
    stray.write_text((cells[0].folder / "results.json").read_text())
    assert len({line.label: line for line in collect(grid.folder, index)}["slda"].runs) == 2


def test_published_figures_stand_beside_with_their_source(filled: Callable[..., Any]) -> None:
    _, index, lines = filled({"protocol": "p"}, protocols={"p": PROTOCOL})
    assert labels(lines)["none"] >= {"Other, published"}
    assert labels(lines)["statistics"] >= {"Means, published"}
    other = lines["Other, published"]
    assert (other.figure("a_last").mean, other.figure("a_last").deviation) == (0.995, 0.0025)
    assert other.figure("task_id") is None
    text = markdown(index, list(lines.values()))
    assert "| Other, published [1] |  | - | 99.50 ± 0.25 | - |" in text  # as many decimals as tables of papers have
    assert ">99.50</span>" in page(index, list(lines.values()))
    assert "[1] their table 3 (5 trials)" in text
    assert "Protocol of the published figures: weights: unknown; class order: unknown" in text
    assert "**99.5" not in text  # not ours to be best with


def test_a_source_of_several_lines_is_named_once(filled: Callable[..., Any]) -> None:
    figures = {name: {"a_last": 50.0 + n, "source": f"table {n // 2}"} for n, name in enumerate("abc")}
    _, index, lines = filled({"protocol": "p"}, protocols={"p": PROTOCOL | {"figures": figures}})
    text = markdown(index, list(lines.values()))
    assert re.findall(r"(\w), published \[(\d)\]", text) == [("c", "2"), ("b", "1"), ("a", "1")]
    assert text.endswith("[1] table 0\n\n[2] table 1\n")
    assert page(index, list(lines.values())).count("<li>table ") == 2


def test_a_published_line_with_means_over_tasks_alone_has_its_place(filled: Callable[..., Any]) -> None:
    figures = {"Tasks": {"a_last_tasks": 99.9, "source": "a table"}, "None": {"a_avg": 99.9, "source": "a table"}}
    _, _, lines = filled({"protocol": "p"}, protocols={"p": PROTOCOL | {"figures": figures}})
    held = [line.label for line in tables(list(lines.values()))["none"]]
    assert (held[0], held[-1]) == ("Tasks, published", "None, published")


def test_what_was_set_by_hand_is_told_but_for_where_things_lie(filled: Callable[..., Any]) -> None:
    overrides = ["training.epochs=2", "stream.root=elsewhere", "training.workers=0"]
    _, index, lines = filled({"overrides": overrides})
    assert index.changed == ["training.epochs=2"]
    assert "Set by hand for all runs: `training.epochs=2`." in markdown(index, list(lines.values()))
    assert "<code>training.epochs=2</code>" in page(index, list(lines.values()))
    _, index, lines = filled()
    assert "Set by hand" not in markdown(index, list(lines.values()))


@pytest.mark.parametrize(("images", "told"), [(753, False), (754, True), (None, False)])
def test_runs_on_less_than_was_published_say_so(filled: Callable[..., Any], images: int | None, told: bool) -> None:
    _, index, lines = filled(images=images)
    for text in (markdown(index, list(lines.values())), page(index, list(lines.values()))):
        assert ("Runs here had 753 images; as published the data set has 754" in text) is told


def test_by_read_out_each_training_stands_once_in_the_suites_order(filled: Callable[..., Any]) -> None:
    grid, index, lines = filled()
    (grid.folder / "suite.json").write_text(index.model_dump_json())
    table = [line.strip("| ").split(" | ") for line in readouts_table(grid.folder).splitlines() if line.startswith("|")]
    heads, _, *rows = table
    assert heads[-2:] == ["by heads", "by gaussian"]
    assert [row[0].split(" (")[0] for row in rows] == list(ROWS)
    lora = dict(zip(heads, rows[2], strict=True))
    told = {name: percent(lines[name].figure("a_last")) for name in ("lora", "lora+gaussian")}
    assert (lora["read-out"], lora["A last"]) == ("heads", told["lora"])
    assert (lora["by heads"], lora["by gaussian"]) == (told["lora"], told["lora+gaussian"])
    assert dict(zip(heads, rows[1], strict=True))["by heads"] == "-"  # slda has none


def test_by_variant_each_method_is_a_line(filled: Callable[..., Any]) -> None:
    lora = {"method": {"name": "lora"}}
    rows = {"lora, slow": lora, "ncm": ROWS["ncm"], "slda, fast": ROWS["slda"], "lora, fast": lora, "joint, slow": lora}
    grid, index, lines = filled(rows=rows)
    for cell in grid.cells:
        if cell.row == "joint, slow":
            shutil.rmtree(cell.folder)  # not run yet
    (grid.folder / "suite.json").write_text(index.model_dump_json())
    text = variants_table(grid.folder)
    heads, _, *table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert heads == ["row", "slow", "fast"]
    told = {name: percent(line.figure("a_last")) for name, line in lines.items()}
    pair = [told["lora, slow"], told["lora, fast"]]
    means = [lines[name].figure("a_last").mean for name in ("lora, slow", "lora, fast")]
    assert [figure.strip("*") for figure in table[0][1:]] == pair
    assert [figure.startswith("**") for figure in table[0][1:]] == [mean == max(means) for mean in means]
    assert table[1] == ["slda", "-", f"**{told['slda, fast']}**"]
    assert f"`ncm`: {told['ncm']}." in text
    none, statistics = text.split("**Keeps no class statistics**")[1].split("**Keeps class statistics (")
    assert f"| lora | {'**' if means[0] == max(means) else ''}{pair[0]} heads" in none
    assert "slda" not in none and "| slda |" in statistics
    assert f"{told['lora, fast, gaussian']} gaussian" in statistics


def test_markdown_holds_all_columns_and_each_training_costs_once(filled: Callable[..., Any]) -> None:
    _, index, lines = filled()
    text = markdown(index, list(lines.values()))
    for head in FIGURES.values():
        assert head in text
    for head in ("begin, s", "train, s", "peak memory", "parameters trained", "bytes kept", "passes per image"):
        assert head in text
    cost = text.split("**Cost**")[1]
    assert [row.split(" | ")[0] for row in cost.splitlines() if row.startswith("| ")] == [
        "| row",
        "| ncm",
        "| slda",
        "| lora",
        "| joint",
    ]
    brief = markdown(index, list(lines.values()), brief=True)
    assert "**Cost**" not in brief
    assert "lost to task identity" not in brief
    table = lines["slda"]
    assert f"{100 * table.figure('a_avg').mean:.1f}" in brief
    shown = [row.split(" | ")[0] for row in brief.split("**Keeps class")[1].splitlines() if row.startswith("| ")][1:]
    names = [re.sub(r"^\| |\+\w+$| \(.*", "", row) for row in shown]
    assert sorted(names) == ["joint", "lora", "ncm", "slda"]  # once each, by the best read-out
    rows = [line.label for line in tables(list(lines.values()))["statistics"]]
    assert shown[0].removeprefix("| ").startswith(rows[0])
    assert markdown(index, []) == "No run has finished yet.\n"


def test_the_page_is_whole_and_fetches_nothing(filled: Callable[..., Any]) -> None:
    _, index, lines = filled({"protocol": "p"}, protocols={"p": PROTOCOL})
    text = page(index, list(lines.values()))
    assert "forgets &lt;much&gt;" in text
    assert text.count('<svg class="chart wide"') == 2
    assert "their table 3" in text
    for address in ("http://", "https://", "<script", "src="):
        assert address not in text
    for label, line in lines.items():
        assert label in text
        if line.figure("a_last"):
            assert f">{100 * line.figure('a_last').mean:.{2 if line.published else 1}f}<" in text


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_is_wider_than_the_window(filled: Callable[..., Any], tmp_path: Path, width: int) -> None:
    _, index, lines = filled({"protocol": "p"}, protocols={"p": PROTOCOL})
    probe = "<script>document.title = 'over ' + (document.documentElement.scrollWidth - innerWidth)</script>"
    path = tmp_path / "page.html"
    path.write_text(page(index, list(lines.values())).replace("</body>", f"{probe}</body>"), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        ["chromium", *options, f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>over (-?\d+)</title>", done.stdout)
    assert title is not None
    assert int(title[1]) <= 0


def test_the_summary_is_json_and_has_the_curves(filled: Callable[..., Any]) -> None:
    _, index, lines = filled()
    document = json.loads(json.dumps(summary(index, list(lines.values())), allow_nan=False))
    lora = next(line for line in document["lines"] if line["label"] == "lora")
    assert len(lora["curve"]) == 3
    assert lora["curve"][-1]["mean"] == pytest.approx(lora["figures"]["a_last"]["mean"])
    assert lora["costs"]["peak_memory_bytes"] == 812_000_000
    assert set(document["tables"]) == {"none", "statistics"}


def test_what_is_published_tells_nothing_of_the_machine(
    grid_of: Make, finished: Callable[..., Any], tmp_path: Path
) -> None:
    grid = grid_of(
        {"source": "npz:/somebody/images.npz", "overrides": ["stream.root=/somebody", "backbone.weights=/somebody/w"]}
    )
    for cell in grid.cells:
        finished(cell, ("heads", "gaussian") if cell.row == "lora" else ("gaussian",))
    folder = publish(grid, list(grid.cells[:3]), tmp_path / "shown")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name == "results.json"]) == 4
    assert not [path for path in files if "somebody" in path.read_text()]
    assert not [path for path in files if path.suffix not in (".json", ".md")]
    assert json.loads((folder / "slda/order-0/results.json").read_text())["config"]["stream"]["source"] == "digits"
    assert folder_table(folder) in (folder / "table.md").read_text()
    assert "| slda | gaussian | 2 |" in folder_table(folder)


def test_what_was_published_on_former_weights_is_not_averaged_with_it(
    grid_of: Make, finished: Callable[..., Any], tmp_path: Path
) -> None:
    grid = grid_of({"overrides": ["backbone.name=bundled", "backbone.pretrained=true"]})
    former = BackboneRecord(name="bundled", sha256="89" * 32, dim=192, depth=6)
    for cell in grid.cells:
        finished(cell, backbone=former)
    publish(grid, list(grid.cells), tmp_path / "shown")
    with pytest.raises(DualLoRAError, match=r"other settings \(former weights of the bundled backbone"):
        publish(grid, list(grid.cells[:1]), tmp_path / "shown")


def test_what_was_published_under_other_settings_is_not_averaged_with_it(
    grid_of: Make, finished: Callable[..., Any], tmp_path: Path
) -> None:
    grid, shown = grid_of(), tmp_path / "shown"
    for cell in grid.cells:
        finished(cell, ("gaussian", "quadratic"))
    folder = publish(grid, list(grid.cells), shown)
    again = publish(grid, list(grid.cells[:1]), shown)  # the others are as the suite says
    assert again == folder and "| slda | gaussian | 2 |" in (folder / "table.md").read_text()
    longer = grid_of({"overrides": ["training.epochs=7"]})
    with pytest.raises(DualLoRAError, match=r"order-0' was published under other settings \(training.epochs is 1"):
        publish(longer, [], shown)
    fewer = grid_of(orders=[1])
    with pytest.raises(DualLoRAError, match=r"order-1' was published .*no such run.*remove it"):
        publish(fewer, list(fewer.cells), shown)
    with pytest.raises(DualLoRAError, match="is where the bench itself works"):
        publish(grid, list(grid.cells), grid.folder.parent)
    finished(grid.cells[0])
    shutil.rmtree(grid.cells[0].folder / "readouts")
    publish(grid, list(grid.cells), shown)
    assert not (folder / grid.cells[0].folder.relative_to(grid.folder) / "readouts").exists()


def test_a_folder_without_an_index_is_read_by_its_names(grid_of: Make, finished: Callable[..., Any]) -> None:
    grid = grid_of()
    for cell in grid.cells:
        finished(cell, ("gaussian",))
    index = Index.load(grid.folder)
    assert {line.label for line in collect(grid.folder, index)} == {"lora", "slda"}
    index.save(grid.folder)
    assert Index.load(grid.folder) == index
    (grid.folder / "suite.json").write_text("{")
    with pytest.raises(DualLoRAError, match=r"suite.json' is broken or altered"):
        Index.load(grid.folder)


def test_public_source() -> None:
    assert public_source("folder:/somebody/pacs") == "folder:pacs"

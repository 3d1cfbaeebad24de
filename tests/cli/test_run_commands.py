"""demo, run, report, methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import TINY, Type

from duallora.evaluation.results import RunResults
from duallora.methods.registry import list_methods

SMALL = (*TINY, "--set=backbone.name=test_vit", "--set=stream.max_per_class=4", "--set=stream.max_test_per_class=4")


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("results.json")}


def test_demo_leaves_results_and_a_page_and_does_not_repeat_itself(typed: Type, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = typed("demo", "--out", out, *SMALL)
    assert done.code == 0, done.err
    for name in ("lora", "slda", "duallora", "joint"):
        results = RunResults.load(out / name / "results.json")
        assert results.method == name
        assert len(results.tasks) == 5
        assert [len(task.classes) for task in results.tasks] == [2] * 5
        assert f"\n  {name} " in done.out
    assert "<html" in (out / "report.html").read_text()
    first = times(out)
    (out / "report.html").unlink()
    again = typed("demo", "--out", out, *SMALL, "--json")
    assert again.code == 0
    assert [run["method"] for run in again.document["runs"]][:3] == ["lora", "lora+quadratic", "slda"]
    assert Path(again.document["report"]).exists()
    assert times(out) == first
    other = typed("demo", "--out", out, *SMALL, "--set=seed=1")
    assert other.code == 2
    assert "--redo" in other.err
    assert times(out) == first

    page = out / "page.html"
    report = typed("report", out, "--out", page, "--json")
    assert report.document["report"] == str(page)
    assert page.exists()
    assert {"lora", "slda", "duallora", "joint"} <= set(report.document["methods"])


def test_run_takes_a_file_and_settings(typed: Type, tmp_path: Path) -> None:
    config, out = tmp_path / "my.yaml", tmp_path / "runs" / "one"
    config.write_text("stream: {source: digits, increment: 5}\nmethod: {name: lora}\n")
    options = ("--out", out, *SMALL, "--set=method.name=slda")
    done = typed("run", config, *options, "--json")
    assert done.code == 0, done.err
    assert done.document == json.loads((out / "results.json").read_text())
    assert done.document["method"] == "slda"
    assert done.document["config"]["stream"]["increment"] == 5
    shown = typed("run", config, *options).out
    assert "task 2" in shown
    assert str(out / "results.json") in shown
    before = times(out)
    mistaken = typed("run", config, *options, "--redo", "--set=stream.increment=[1, 2]")
    assert mistaken.code == 2
    assert times(out) == before  # the old results go when the new run begins, not before
    assert typed("run", config, *options, "--redo", "--set=seed=1").code == 0
    assert times(out) != before
    assert RunResults.load(out).seed == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nothing.yaml", "--out", "x"), "does not exist"),
        (("run", "digits", "--out", "x", "--set", "method.name=dualora"), "did you mean 'duallora'"),
        (("run", "digits", "--out", "x", "--set", "method.options.rnk=1"), "did you mean 'rank'"),
        (("run", "digits", "--out", "x", "--set", "stream.source=digit"), "did you mean 'digits'"),
        (("run", "digits", "--out", "x", "--set", "stream.increment=[3, 3]"), "10 classes"),
        (("run", "digits", "--out", "x", "--set", "training.epoch=1"), "did you mean 'epochs'"),
        (("run", "digits", "--out", "x", "--set", "epochs"), "KEY=VALUE"),
        (("run", "digits", "--out", "x", "--set", "backbone.name=vit_tinny_patch16_224"), "vit_tiny_patch16_224"),
        (("run", "digits", "--out", "x", *SMALL, "--set", "device=gpu"), "device 'gpu'"),
        (("run", "digits", "--out", "x", *SMALL, "--set", "stream.evaluate_on=validation"), "stream.validation=0.1"),
        (("run", "digits"), "'--out'"),
        (("demo", "--out", "x", "--set", "trainig.epochs=1"), "did you mean 'training'"),
        (("report", "x"), "no folder 'x'"),
        (("report", "."), "no results.json"),
        (("runn", "digits"), "runn"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_run_leaves_no_results(
    arguments: tuple[str, ...], said: str, typed: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("Error:") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_other_things_is_left_alone(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    (tmp_path / "file").write_text("")
    for arguments in (
        ("run", "digits", "--out", tmp_path),
        ("demo", "--out", tmp_path),
        ("run", "digits", "--out", tmp_path / "file"),
        ("demo", "--out", tmp_path / "file"),
        ("run", "digits", "--out", tmp_path / "file" / "below"),
        ("demo", "--out", tmp_path / "file" / "below"),
    ):
        done = typed(*arguments, *SMALL)
        assert (done.code, done.out) == (2, "")
        assert "file" in done.err or str(tmp_path) in done.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "thesis.txt"]


def test_methods_tells_of_all_and_their_options(typed: Type) -> None:
    found = {method["name"]: method for method in typed("methods", "--json").document}
    assert list(found) == list_methods()
    assert all(method["summary"] for method in found.values())
    assert found["lora"]["options"]["rank"]["default"] == 8
    assert found["lora"]["options"]["rank"]["description"]
    shown = typed("methods").out
    assert all(f"│ {name} " in shown for name in found)

"""The page is whole, self-contained, says every number of every run, and trusts no name."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from duallora.errors import DualLoRAError
from duallora.evaluation.results import RunResults
from duallora.report import write_report
from duallora.report.numbers import share, size
from duallora.report.page import render

Maker = Callable[..., RunResults]

VOID = {"meta", "br", "link", "img", "input", "hr"}  # SVG elements close themselves


class Page(HTMLParser):
    """Checks nesting; gathers text, tags and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def assert_whole(html: str) -> Page:
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert html.endswith("</html>\n")
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert not re.search(r"url\(|@import|@font-face", html)
    assert not re.search(r"\{\{|\}\}|\{%|Undefined|\bnan\b|\bNone\b", page.text)
    return page


def test_every_run_and_number_is_there(make_run: Maker) -> None:
    runs = [make_run(method=name, seed=seed) for name in ("duallora", "lora", "joint") for seed in (0, 1)]
    page = assert_whole(render(runs, title="Two seeds"))
    assert page.tags.count("pre") == 6
    for run in runs:
        assert run.method in page.text
        for row in [*run.accuracy_matrix, *run.task_il_matrix]:
            assert all(share(value) in page.text for value in row if value is not None)
        scalars = (run.a_last, run.a_last_tasks, run.a_avg, run.a_avg_tasks, run.forgetting, run.bwt, run.task_il)
        assert all(f"{value:.4f}" in page.text for value in scalars if value is not None)
        assert all(f"{value:.4f}" in page.text for value in run.task_id_accuracy if value is not None)
        assert all(f"{value:.4f}" in page.text for value in run.calibration_error if value is not None)
        assert run.backbone.sha256 in page.text
        assert ", ".join(run.class_order) in page.text
        assert '"rank": 8' in page.text
        assert "812 MB" in page.text.replace("\u00a0", " ")
    assert "Two seeds" in page.text
    assert "±" in page.text
    assert page.text.count("mean of 2 runs") == 3


def test_other_readouts_of_a_training_are_in_a_table_of_their_own(make_run: Maker) -> None:
    held = {"method": {"name": "lora", "options": {}}}
    runs = [
        make_run(method=label, config={"method": held["method"] | {"readout": readout}})
        for label, readout in (("lora", "heads"), ("lora+tasks", "tasks"))
    ]
    html = render(runs)
    page = assert_whole(html)
    assert "The same trainings by other read-outs" in page.text
    assert page.text.count("lora+tasks") == 2  # there, and among the runs; without a curve, bar or matrix of its own
    assert "The same trainings" not in assert_whole(render(runs[:1])).text


def test_figures_that_look_the_same_are_both_best(make_run: Maker) -> None:
    def run(name: str, right: float) -> RunResults:
        return make_run(method=name, steps=1, accuracy_matrix=[[right]])

    html = render([run("lora", 0.98701), run("slda", 0.98699), run("ncm", 0.5)])
    assert html.count('class="best">98.7') >= 2
    assert 'class="best">50' not in html


def test_light_dark_and_phone(make_run: Maker) -> None:
    html = render([make_run()])
    assert "@media (prefers-color-scheme: dark)" in html
    assert 'name="viewport"' in html
    used = set(re.findall(r"var\((--[a-z0-9-]+)", html))
    given = set(re.findall(r"(--[a-z0-9-]+):", html))
    assert used <= given


def test_single_run_single_task(make_run: Maker) -> None:
    page = assert_whole(render([make_run(steps=1)]))
    assert "1 run" in page.text
    assert "svg" in page.tags
    assert "Forgetting" in page.text
    assert "±" not in page.text


def test_undefined_metrics(make_run: Maker) -> None:
    page = assert_whole(render([make_run(method="joint", last_only=True, peak_memory_bytes=None)]))
    assert "undefined" in page.text
    assert "not measured" in page.text
    assert_whole(render([make_run(method="joint", last_only=True), make_run(method="lora")]))


def test_task_without_test_images(make_run: Maker) -> None:
    tasks = [task.model_copy(update={"test_images": 0}) for task in make_run().tasks]
    nothing: list[list[None]] = [[None] * 3] * 3
    run = make_run(tasks=tasks, accuracy_matrix=nothing, task_il_matrix=nothing)
    assert run.a_last is None
    assert_whole(render([run]))


def test_negative_forgetting_and_forward_transfer(make_run: Maker) -> None:
    rising = [[0.5, 0.3, 0.2], [0.7, 0.6, 0.3], [0.9, 0.8, 0.9]]
    run = make_run(accuracy_matrix=rising, scenario="domain-incremental")
    page = assert_whole(render([run]))
    assert "\u221220.0" in page.text
    assert "Forward" in page.text


def test_many_runs_many_tasks_many_blocks(make_run: Maker) -> None:
    full = [[min(1.0, 0.06 * (t + 1))] * 24 for t in range(20)]
    runs = [make_run(method=f"method {n:02d}", steps=20, seed=n, capacity=full) for n in range(12)]
    html = render(runs)
    page = assert_whole(html)
    assert all(f"method {n:02d}" in page.text for n in range(12))
    assert len(html) < 2_000_000


def test_no_two_of_forty_methods_have_the_same_mark(make_run: Maker) -> None:
    html = render([make_run(method=f"method {n:02d}") for n in range(40)])
    marks = re.findall(r'class="mark (s\d+)"[^>]*><path d="([^"]+)"/></svg>\s*method (\d\d)', html)
    of_method = {number: (hue, shape) for hue, shape, number in marks}
    assert len(of_method) == len(set(of_method.values())) == 40


def test_several_benchmarks(make_run: Maker) -> None:
    page = assert_whole(render([make_run(), make_run(steps=5)]))
    assert "2 benchmarks" in page.text
    assert "Class-incremental, 3 tasks" in page.text
    assert "Class-incremental, 5 tasks" in page.text


def test_names_are_escaped(make_run: Maker) -> None:
    evil = '<script>alert("1")</script> & "quoted" </style>'
    names = [evil, "b", "c", "d", "e", "f"]
    tasks = [
        task.model_copy(update={"name": f"{evil} {n}", "classes": names[2 * n : 2 * n + 2]})
        for n, task in enumerate(make_run().tasks)
    ]
    run = make_run(method=evil, class_order=names, tasks=tasks, config={evil: evil})
    html = render([run], title=evil)
    page = assert_whole(html)
    assert "<script" not in html
    assert evil in page.text


def test_a_page_by_another_name_is_no_folder(tmp_path: Path, make_run: Maker) -> None:
    with pytest.raises(DualLoRAError, match=r"neither a folder nor the name of a page; end it in \.html"):
        write_report([make_run()], tmp_path / "page.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "v1.2").mkdir()
    assert write_report([make_run()], tmp_path / "v1.2") == tmp_path / "v1.2" / "report.html"


def test_written_to_a_file_or_into_a_folder(tmp_path: Path, make_run: Maker) -> None:
    assert write_report([make_run()], tmp_path / "new") == tmp_path / "new" / "report.html"
    assert write_report([make_run()], tmp_path / "mine.html") == tmp_path / "mine.html"
    assert "duallora" in (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.html", "new"]


def test_errors(tmp_path: Path, make_run: Maker) -> None:
    with pytest.raises(DualLoRAError, match="no runs"):
        write_report([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DualLoRAError, match="cannot write"):
        write_report([make_run()], tmp_path / "file" / "report.html")


def test_sizes() -> None:
    assert [size(value).replace("\u00a0", " ") for value in (0, 12, 1500, 999_600, 3.2e9)] == [
        "0 B",
        "12 B",
        "1.5 kB",
        "1000 kB",
        "3.2 GB",
    ]


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.mark.browser
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_is_wider_than_the_window(tmp_path: Path, make_run: Maker, width: int) -> None:
    """In a real browser: no horizontal scrolling of the page, and no error; the script is the test's own."""
    runs = [make_run(method=name, steps=10, seed=seed) for name in ("duallora", "lora") for seed in (0, 1)]
    probe = (
        "<script>for (const d of document.querySelectorAll('details')) d.open = true;"
        "document.title = 'over ' + (document.documentElement.scrollWidth - innerWidth)</script>"
    )
    path = tmp_path / "page.html"
    path.write_text(render(runs).replace("</body>", f"{probe}</body>"), encoding="utf-8")
    browser = next(found for name in BROWSERS if (found := shutil.which(name)))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [browser, *options, f"--window-size={width},900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>over (-?\d+)</title>", done.stdout)
    assert title is not None
    assert int(title[1]) <= 0

"""The suites that come with the package: what they share, and what they claim of publications."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from duallora.bench.cells import make_grid
from duallora.bench.include import shared, with_included
from duallora.bench.load import load_suite, shipped_suites
from duallora.bench.suite import Suite
from duallora.compat import import_timm
from duallora.config import RunConfig
from duallora.errors import DualLoRAError
from duallora.methods.registry import get_method, list_methods
from duallora.training.settings import TrainingSettings

SUITES = {name: load_suite(name)[1] for name in shipped_suites()}
LITERATURE = [name for name, suite in SUITES.items() if suite.protocols]
WANTED = """digits cifar100-5 cifar100-10 cifar100-20 pacs-domains omniglot-alphabets tiny-imagenet-10 five-datasets
imagenet-r-5 imagenet-r-10 imagenet-r-20 imagenet-a-10 cub-10 cars-10 domainnet-5 core50"""


def test_the_promised_suites_are_there() -> None:
    assert set(WANTED.split()) <= set(SUITES)


def test_the_standard_rows_are_all_methods() -> None:
    rows = with_included({"include": "standard"}, "here")["rows"]
    names = [row["method"]["name"] for row in rows.values()]
    assert set(names) == {*list_methods(), "inflora+align"}
    assert {"duallora", "duallora-literal"} <= set(rows) and names[0] == "ncm"


def test_a_row_laid_over_the_shared_ones() -> None:
    suite = load_suite("imagenet-r-10")[1]
    assert suite.rows["inflora"].method == {"name": "inflora", "options": {"tasks": 10, "lamb": 0.98}}
    assert suite.rows["ranpac"].method["options"]["projection"] == 10000
    with pytest.raises(DualLoRAError, match="'standrad'; did you mean 'standard'"):
        with_included({"include": "standrad"}, "suite 'mine'")
    with pytest.raises(DualLoRAError, match=r"protocol 'one': include.*Known: c-lora, inflora"):
        with_included({"protocols": {"one": {"include": "nothing"}}}, "suite 'mine'")
    with pytest.raises(DualLoRAError, match="rows is"):
        with_included({"include": "standard", "rows": ["lora"]}, "suite 'mine'")


RATES = {"a third": 1 / 3, "as recommended": 1, "three times": 3, "ten times": 10, "thirty times": 30}
WITHOUT_SIZE = ("probe", "slca")
SIZES = {"l2p": "length", "dualprompt": "expert_length", "codaprompt": "components"}  # halved and doubled; others: rank


def test_every_method_that_trains_is_searched_alike() -> None:
    """Five learning rates each, at one of them half and twice its size and twice the epochs, on validation images."""
    cells = {cell.row: cell.config for cell in make_grid("s", SUITES["search"], Path("anywhere")).cells}
    assert all(config.stream.evaluate_on == "validation" for config in cells.values())
    variants: dict[str, dict[str, RunConfig]] = {}
    for row, config in cells.items():
        name, _, variant = row.partition(", ")
        variants.setdefault(name, {})[variant] = config
    standard = with_included({"include": "standard"}, "here")["rows"].values()
    named = {row["method"]["name"] for row in standard} - {"ncm", "slda"}  # no gradient
    more = {"olora-slow", "inflora-slow", "codaprompt-slow", "sdlora-code"}
    assert set(variants) - {"ncm", "duallora-first-session"} == named | more
    rows = with_included({"include": ["standard", "searched"]}, "here")["rows"]
    for name in named | more:
        held, method = variants[name], name.removesuffix("-slow").removesuffix("-code")
        best = get_method(method).recommended.get("learning_rate", TrainingSettings().learning_rate)
        own = rows.get(name, {}).get("training", {}).get("learning_rate", best)
        if not name.endswith("-slow"):
            found = {variant: config.training.learning_rate for variant, config in held.items() if variant in RATES}
            assert found == pytest.approx({variant: best * factor for variant, factor in RATES.items()}, rel=0.05)
        if name == "joint":
            continue
        longer = held["twice the epochs"].training
        assert (longer.epochs, longer.learning_rate) == (2 * SUITES["search"].base.training["epochs"], own), name
        if method not in WITHOUT_SIZE:
            size = SIZES.get(method, "rank")
            middle = held.get("as recommended", held["twice the epochs"]).method.options
            usual = get_method(method).Config.model_validate(middle).model_dump()[size]
            for variant, wanted in (("half the size", usual // 2), ("twice the size", 2 * usual)):
                assert held[variant].method.options[size] == wanted, (name, variant)
                assert held[variant].training.learning_rate == own
    both = [variants["duallora"][f"{much} the size"].method.options["class_rank"] for much in ("half", "twice")]
    assert both == [8, 32]  # of 16


def test_protocols_decide_over_weights_order_and_epochs(tmp_path: Path) -> None:
    suite = SUITES["imagenet-r-10"]
    first = {p: make_grid("r", suite, tmp_path, protocol=p).cells[0].config for p in (None, "inflora", "sd-lora")}
    assert [c.backbone.name.split(".")[1] for c in first.values()] == [
        "augreg_in21k",
        "augreg_in21k",
        "augreg2_in21k_ft_in1k",
    ]
    assert [c.stream.order_seed for c in first.values()] == [1, None, 1993]
    assert [c.stream.order_shuffle for c in first.values()] == ["pcg64", "pcg64", "mt19937"]
    assert [c.backbone.normalise for c in first.values()] == [True, False, False]
    assert [c.training.smallest_crop for c in first.values()] == [None, 0.08, 0.05]
    assert [c.training.epochs for c in first.values()] == [20, 50, 20]
    rows = {c.row: c.config for c in make_grid("r", suite, tmp_path, protocol="sd-lora").cells}
    assert rows["sdlora"].training.optimizer == "sgd" and rows["sdlora"].method.options["restart"] is True
    assert rows["sdlora"].training.schedule == "constant"
    domainnet = {c.row: c.config for c in make_grid("d", SUITES["domainnet-5"], tmp_path, protocol="sd-lora").cells}
    assert domainnet["sdlora"].training.schedule == "cosine"  # theirs falls to a 200th after four of ten epochs
    for name in ("cifar100-10-vit-b", "imagenet-r-5", "imagenet-r-20"):
        again = {c.row: c.config for c in make_grid("l", SUITES[name], tmp_path, protocol="libcontinual").cells}
        held = again["sdlora"].training
        assert (held.optimizer, held.learning_rate, held.epochs, held.warmup) == ("sgd", 0.008, 20, 0.0)
        assert again["sdlora"].method.options["magnitude"] == 1.0
    assert rows["sdlora"].training.schedule == "constant"


@pytest.mark.parametrize("name", LITERATURE)
def test_protocols_state_where_figures_are_from(name: str) -> None:
    for told, protocol in SUITES[name].protocols.items():
        for figure in protocol.figures.values():
            last, average = figure.a_last, figure.a_avg
            if last is None:  # published as means over tasks alone
                last, average = figure.a_last_tasks, figure.a_avg_tasks
            assert last
            if told == "second-hand":  # kept apart: of these nothing but a note was read
                assert "quoted from a note" in figure.source
                assert protocol.split == protocol.metric == "unknown"
            else:
                assert average
                assert re.search(r"CVPR|ICLR|arXiv|logs/|commit", figure.source)
            assert average is None or average > last > 0


def test_some_published_figures() -> None:
    """Typed a second time, from the tables."""
    assert figures("imagenet-r-20", "sd-lora", "sdlora") == (75.26, 0.37, 80.22, 0.72)
    assert figures("imagenet-a-10", "sd-lora", "inflora") == (49.20, 1.12, 60.92, 0.61)
    assert figures("domainnet-5", "sd-lora", "codaprompt") == (70.58, None, 76.68, None)
    assert figures("cub-10", "c-lora", "clora") == (90.16, 0.15, 93.87, 0.53)
    assert figures("cars-10", "c-lora", "clora") == (72.07, 1.12, 80.42, 0.81)
    assert figures("imagenet-r-10", "second-hand", "coso") == (80.72, None, 85.67, None)
    assert figures("imagenet-r-20", "second-hand", "inflora, run by others") == (71.46, 0.95, 78.32, None)
    assert figures("cifar100-20-vit-b", "second-hand", "inflora, run by others") == (82.19, 1.33, 88.05, None)
    assert figures("cifar100-20-vit-b", "second-hand", "lora-drs") == (88.69, None, 92.25, None)
    assert figures("cifar100-20-vit-b", "second-hand", "cl-lora") == (85.32, None, 91.02, None)
    log = SUITES["imagenet-r-10"].protocols["inflora"].figures["inflora, authors' logs"]
    assert (log.task_il, log.task_id) == (87.57, 78.6)


def test_inflora_is_quoted_by_the_definition_of_its_paper() -> None:
    """As means over tasks; over all images only where that is the same, its code's own figures in lines of the logs."""
    typed = {
        "imagenet-r-5": (77.52, 0.37, 82.01, 0.12),
        "imagenet-r-10": (75.65, 0.14, 80.82, 0.24),
        "imagenet-r-20": (71.01, 0.45, 77.28, 0.45),
        "cifar100-10-vit-b": (86.51, 0.73, 91.70, 0.32),
    }
    for name, wanted in typed.items():
        figure = SUITES[name].protocols["inflora"].figures["inflora"]
        over_tasks = (figure.a_last_tasks, figure.a_last_tasks_deviation, figure.a_avg_tasks)
        assert (*over_tasks, figure.a_avg_tasks_deviation) == wanted
        over_images = figures(name, "inflora", "inflora")
        if name == "cifar100-10-vit-b":  # 1,000 test images per task
            assert over_images == wanted
        else:
            assert over_images == (None, None, None, None) and "not known" in figure.note


def test_doubts_stand_beside_the_figures() -> None:
    for name in ("cifar100-10-vit-b", "cifar100-20-vit-b"):
        assert "corrupted" in SUITES[name].protocols["second-hand"].figures["lora-drs"].note
    protocol = SUITES["imagenet-r-10"].protocols["sd-lora"]
    note = protocol.figures["sdlora, authors' log"].note
    assert "seed 1995" in note and "that of seed 1996" in note and protocol.orders == [1993, 1994, 1995]
    for name in ("domainnet-5", "cub-10"):
        assert "inflora" not in SUITES[name].protocols and "no protocol inflora" in SUITES[name].about


def figures(suite: str, protocol: str, method: str) -> tuple[float | None, ...]:
    figure = SUITES[suite].protocols[protocol].figures[method]
    return figure.a_last, figure.a_last_deviation, figure.a_avg, figure.a_avg_deviation


def test_weights_are_named_by_tags_that_timm_knows() -> None:
    import_timm()
    import timm

    known = set(timm.list_pretrained())
    assert names(SUITES) - {"bundled"} <= known and names(SUITES) >= {"vit_base_patch16_224.augreg_in21k"}


def names(suites: dict[str, Suite]) -> set[str]:
    settings = [s.base for s in suites.values()] + [p.set for s in suites.values() for p in s.protocols.values()]
    return {s.backbone.get("name", "bundled") for s in settings}


def test_tiny_imagenet_is_not_for_the_bundled_backbone() -> None:
    suite = SUITES["tiny-imagenet-10"]
    assert suite.base.backbone["name"] != "bundled" and "bundled backbone" in suite.about


def test_every_shared_file_is_used() -> None:
    texts = "".join(path.read_text() for path in (Path(__file__).parents[2] / "src/duallora/bench/suites").iterdir())
    for kind in ("rows", "protocols"):
        assert all(re.search(rf"include: .*\b{name}\b", texts) for name in shared(kind))

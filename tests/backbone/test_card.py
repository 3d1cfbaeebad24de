"""From the pre-training script's output to the package's files, on a few images and a tiny network."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from duallora.backbone import bundled
from duallora.backbone.load import load_backbone
from duallora.data.imageset import ImageSet
from duallora.errors import DualLoRAError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
TINY = shlex.split("--size 16 --patch 8 --width 24 --depth 1 --heads 2 --epochs 2 --batch 8 --sizes 8 16")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


card_script = script("backbone_card")


def write_images(path: Path, train: int, test: int, size: int, classes: int = 4) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"{part}_y"] = np.arange(count) % classes
        arrays[f"{part}_x"] = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(path, **arrays)
    return path


def pretrain(argv: list[str]) -> None:
    saved, sys.argv = sys.argv, ["pretrain_backbone.py", *argv]
    try:
        script("pretrain_backbone").main()
    finally:
        sys.argv = saved


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pretrain_backbone.py leaves behind."""
    folder = tmp_path_factory.mktemp("pretrain")
    source = write_images(folder / "tiny-imagenet.npz", 16, 4, 16)
    pretrain([str(source), str(folder / "run"), *TINY])
    return folder / "run"


@pytest.fixture(scope="module")
def package(run: Path) -> Path:
    """What backbone_card.py makes of it."""
    source = write_images(run.parent / "cifar100.npz", 48, 16, 8)
    card_script.main([str(run), str(source), "--out", str(run.parent / "weights"), "--train", "40", "--test", "12"])
    return run.parent / "weights"


def test_the_folder_loads_as_the_bundled_backbone(package: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "bundled_folder", lambda: package)
    backbone, card = load_backbone(), bundled.read_card()
    assert (backbone.dim, backbone.depth, backbone.preprocessing.size) == (24, 1, 16)
    assert backbone.preprocessing.mean == (0.485, 0.456, 0.406)
    assert backbone.sha256 == card["weights_sha256"]
    assert (package / bundled.WEIGHTS).read_bytes() == (run / bundled.WEIGHTS).read_bytes()
    assert sorted(path.name for path in package.iterdir()) == sorted(
        [bundled.CARD, bundled.WEIGHTS, bundled.MODEL_CARD]
    )


def test_the_figures_are_of_this_network_and_the_untrained_one(package: Path) -> None:
    figures = bundled.read_card(package)["figures"]
    assert (figures["data"], figures["classes"], figures["k"]) == ("CIFAR-100", 4, 20)
    assert (figures["train_images"], figures["test_images"]) == (40, 12)
    for network in ("trained", "untrained"):
        assert figures[network].keys() == {"knn", "knn_weighted", "linear_probe"}
        assert all(0 <= share <= 1 for share in figures[network].values())


def test_the_model_card_says_what_the_json_says(package: Path) -> None:
    card = json.loads((package / bundled.CARD).read_text())
    text = (package / bundled.MODEL_CARD).read_text()
    assert text == card_script.render(card)
    for fact in (
        card["sha256"],
        card["weights_sha256"],
        "Tiny-ImageNet: 16 images of 16 px",
        "non-commercial research",
    ):
        assert fact in text
    assert "share many categories" in text
    assert "1 epoch at 8 px, 1 at 16 px" in text
    assert "CPU cores, no GPU" in text
    assert "not for production" in text
    trained, untrained = (f"{100 * card['figures'][n]['linear_probe']:.1f} %" for n in ("trained", "untrained"))
    assert f"| linear probe | {trained} | {untrained} |" in text
    assert max(map(len, text.splitlines())) < 400


def test_the_card_follows_the_data(package: Path) -> None:
    card = json.loads((package / bundled.CARD).read_text())
    card["recipe"]["source"], card["machine"] = "holiday", "an abacus"
    card["figures"]["trained"]["knn"] = 0.98765
    text = card_script.render(card)
    assert "16 images of holiday" in text
    assert "ImageNet" not in text
    assert "minutes on an abacus" in text
    assert "| 98.8 % |" in text


def test_the_command_in_the_card_makes_the_same_weights(package: Path, run: Path, tmp_path: Path) -> None:
    recipe = json.loads((package / bundled.CARD).read_text())["recipe"]
    words = shlex.split(card_script.command(recipe))
    assert words[:2] == ["python", "scripts/pretrain_backbone.py"]
    places = {"IMAGES": str(run.parent / "tiny-imagenet.npz"), "OUT": str(tmp_path / "again")}
    pretrain([places.get(word, word) for word in words[2:]])
    assert (tmp_path / "again" / bundled.WEIGHTS).read_bytes() == (run / bundled.WEIGHTS).read_bytes()


def test_the_recipe_for_an_accelerator(run: Path, tmp_path: Path) -> None:
    """Its augmentation, sizes drawn per step and the average of the weights, where there is no accelerator; resumed."""
    words = shlex.split(
        "--size 16 --patch 8 --width 24 --depth 1 --heads 2 --batch 8 --sizes 8 16 --size-per-step --three-augment "
        "--mixup 0.8 --ema 0.9 --optimizer adamw"
    )
    source = str(run.parent / "tiny-imagenet.npz")
    pretrain([source, str(tmp_path / "whole"), *words, "--epochs", "2"])
    recipe = json.loads((tmp_path / "whole" / "recipe.json").read_text())
    assert [epoch["size"] for epoch in recipe["history"]] == [[8, 16], [8, 16]]
    assert card_script.schedule(recipe) == "2 epochs at 8 or 16 px"
    assert {"--size-per-step", "--three-augment"} <= set(shlex.split(card_script.command(recipe)))
    assert "--compile" not in card_script.command(recipe)
    saved = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    averaged = load_file(tmp_path / "whole" / bundled.WEIGHTS)["blocks.0.attn.qkv.weight"]
    assert torch.equal(averaged, saved["ema"]["blocks.0.attn.qkv.weight"].half())
    assert not torch.equal(averaged, saved["model"]["blocks.0.attn.qkv.weight"].half())
    # Called again with an epoch more, it goes on from the average as it was kept, too.
    saved["ema"]["blocks.0.attn.qkv.weight"] += 100
    torch.save(saved, tmp_path / "whole" / "checkpoint.pt")
    pretrain([source, str(tmp_path / "whole"), *words, "--epochs", "3"])
    assert len(json.loads((tmp_path / "whole" / "recipe.json").read_text())["history"]) == 3
    later = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)["ema"]["blocks.0.attn.qkv.weight"]
    assert 10 < later.mean() < 100


@pytest.mark.parametrize(
    ("flags", "cure"),
    [("--size-per-step --switch 1", "leave --switch out"), ("--compile --drop-path 0.1", "leave one out")],
)
def test_flags_that_do_not_go_together(
    run: Path, tmp_path: Path, flags: str, cure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pretrain([str(run.parent / "tiny-imagenet.npz"), str(tmp_path / "none"), *TINY, *shlex.split(flags)])
    assert cure in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_one_of_three_augmentations() -> None:
    """Gray has equal channels, solarising turns what is bright over, a blur keeps the mean of a flat image."""
    one_of_three = script("pretrain_backbone").one_of_three
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gray, solarised, blurred = one_of_three(x, torch.tensor([0.5, 1.5, 2.5]))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close(gray, (x[0] * weights).sum(0, keepdim=True).expand(3, -1, -1))
    torch.testing.assert_close(solarised, torch.where(x[1] < 0.5, x[1], 1 - x[1]))
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    inside = (x[2, :, 1:6, 2:7] * (kernel[:, None] * kernel)).sum((1, 2))
    torch.testing.assert_close(blurred[:, 3, 4], inside)
    flat = torch.full((1, 3, 8, 8), 0.25)
    torch.testing.assert_close(one_of_three(flat, torch.tensor([2.5])), flat)


def test_a_balanced_draw() -> None:
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 2)
    images = ImageSet(("a", "b", "c"), labels, torch.arange(17).view(17, 1, 1, 1).expand(17, 3, 2, 2).byte())
    drawn = card_script.balanced(images, 9, seed=0)
    assert drawn.labels.bincount().tolist() == [3, 3, 2]
    assert torch.equal(drawn.items, card_script.balanced(images, 9, seed=0).items)
    assert not torch.equal(drawn.items, card_script.balanced(images, 9, seed=1).items)
    with pytest.raises(DualLoRAError, match="at least one of each"):
        card_script.balanced(images, 2, seed=0)


def test_too_heavy_weights_are_not_packaged(
    package: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card_script, "MOST_BYTES", 1000)
    with pytest.raises(DualLoRAError, match="1,000 at most"):
        card_script.publish(bundled.read_card(package), run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^backbone_card\.py: .*recipe\.json"):
        card_script.main([str(tmp_path), str(tmp_path / "x.npz")])


PACKAGED = bundled.bundled_folder()


@pytest.mark.skipif(not (PACKAGED / bundled.WEIGHTS).is_file(), reason="the packaged weights are absent")
def test_the_packaged_model_card_is_made_from_the_packaged_json() -> None:
    card = json.loads((PACKAGED / bundled.CARD).read_text(encoding="utf-8"))
    assert (PACKAGED / bundled.MODEL_CARD).read_text(encoding="utf-8") == card_script.render(card)

"""The bundled backbone: its files, read from another place with random weights, and the packaged ones as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from duallora.backbone import bundled
from duallora.backbone.load import load_backbone
from duallora.data.transforms import Preprocessing
from duallora.errors import DualLoRAError

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
PREPROCESSING = Preprocessing(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the package's own, with a smaller network, in its place."""
    torch.manual_seed(0)
    state = {key: value.half() for key, value in bundled.build(SHAPE).state_dict().items()}
    save_file(state, tmp_path / bundled.WEIGHTS)
    sha = hashlib.sha256((tmp_path / bundled.WEIGHTS).read_bytes()).hexdigest()
    card = {"architecture": SHAPE, "preprocessing": PREPROCESSING.to_json(), "sha256": sha}
    (tmp_path / bundled.CARD).write_text(json.dumps(card))
    monkeypatch.setattr(bundled, "bundled_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_it_is_the_default() -> None:
    backbone = load_backbone()
    assert (backbone.name, backbone.dim, backbone.depth, backbone.num_heads) == ("bundled", 24, 2, 2)
    assert backbone.has_class_token
    assert backbone.preprocessing == PREPROCESSING
    assert backbone(torch.zeros(2, 3, 32, 32)).dtype == torch.float32
    assert load_backbone("bundled").sha256 == backbone.sha256


@pytest.mark.usefixtures("folder")
def test_random_weights_and_own_weights_in_its_shape(tmp_path: Path) -> None:
    packaged, untrained = load_backbone(), load_backbone(pretrained=False)
    assert packaged.sha256 != untrained.sha256
    torch.save(untrained.vit.state_dict(), tmp_path / "own.pth")
    assert load_backbone(weights=tmp_path / "own.pth").sha256 == untrained.sha256


@pytest.mark.usefixtures("folder")
def test_another_image_size() -> None:
    backbone = load_backbone(image_size=64)
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, 24)
    assert backbone.sha256 == load_backbone().sha256


@pytest.mark.usefixtures("folder")
def test_only_weights_that_stay_random_take_random_numbers() -> None:
    before = torch.get_rng_state()
    load_backbone()
    assert torch.equal(torch.get_rng_state(), before)
    random = load_backbone(pretrained=False)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(before)
    assert load_backbone(pretrained=False).sha256 == random.sha256


def test_altered_weights_are_refused(folder: Path) -> None:
    data = bytearray((folder / bundled.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / bundled.WEIGHTS).write_bytes(bytes(data))
    with pytest.raises(DualLoRAError, match=r"has sha256 [0-9a-f]{64}, backbone\.json says .*Reinstall"):
        load_backbone()


@pytest.mark.parametrize("file", [bundled.WEIGHTS, bundled.CARD])
def test_an_absent_file_is_named(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(DualLoRAError, match=rf"{file} cannot be read .*Reinstall"):
        load_backbone()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"architecture": {}, "preprocessing": 3}'])
def test_a_damaged_card_is_named(text: str, folder: Path) -> None:
    (folder / bundled.CARD).write_text(text)
    with pytest.raises(DualLoRAError, match=r"backbone\.json cannot be read"):
        load_backbone()


PACKAGED = bundled.bundled_folder()


@pytest.mark.skipif(not (PACKAGED / bundled.WEIGHTS).is_file(), reason="the packaged weights are absent")
class TestPackaged:
    def test_the_file_is_the_one_that_the_card_describes(self) -> None:
        data, card = (PACKAGED / bundled.WEIGHTS).read_bytes(), bundled.read_card()
        assert hashlib.sha256(data).hexdigest() == card["sha256"]
        assert len(data) == card["bytes"] <= 12_000_000
        assert card["dtype"] == "float16"
        assert card["sha256"] in (PACKAGED / bundled.MODEL_CARD).read_text(encoding="utf-8")

    def test_it_loads_as_described(self) -> None:
        card, backbone = bundled.read_card(), load_backbone()
        assert backbone.sha256 == card["weights_sha256"]
        assert backbone.dim == card["architecture"]["embed_dim"]
        assert sum(p.numel() for p in backbone.parameters()) == card["parameters"]
        features = backbone(torch.randn(2, 3, backbone.preprocessing.size, backbone.preprocessing.size))
        assert features.isfinite().all()

    def test_it_is_trained(self) -> None:
        figures = bundled.read_card()["figures"]
        assert figures["trained"]["knn"] > 2 * figures["untrained"]["knn"]
        assert figures["trained"]["linear_probe"] > 2 * figures["untrained"]["linear_probe"]

"""Names, sizes and preprocessing of `load_backbone`, and what it says when something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from duallora.backbone.load import load_backbone
from duallora.compat import import_timm
from duallora.errors import DualLoRAError

timm = import_timm()


def test_preprocessing_is_timms_own() -> None:
    p = load_backbone("test_vit", pretrained=False).preprocessing
    assert (p.size, p.mean, p.std) == (160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (p.interpolation, p.crop_pct) == ("bicubic", 0.95)


def test_unnormalised_images_are_between_0_and_1() -> None:
    p = load_backbone("test_vit", pretrained=False, normalise=False).preprocessing
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 160, 160)
    torch.testing.assert_close(p.apply(image)[:, 0, 0], torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])  # with and without dynamic_img_size
def test_image_size_changes_the_input_and_not_the_fingerprint(name: str) -> None:
    torch.manual_seed(0)
    whole = load_backbone(name, pretrained=False)
    torch.manual_seed(0)
    small = load_backbone(name, pretrained=False, image_size=48)
    assert small.preprocessing.size == 48
    assert small(torch.zeros(1, 3, 48, 48)).shape == (1, small.dim)
    assert small.sha256 == whole.sha256
    with pytest.raises(DualLoRAError, match=r"\(batch, 3, 48, 48\), got \(1, 3, 160, 160\).*image_size="):
        small(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize(("size", "near"), [(50, 48), (3, 16), (0, 16), (-16, 16)])
def test_an_image_size_that_the_patches_do_not_divide(size: int, near: int) -> None:
    with pytest.raises(DualLoRAError, match=f"image size {size} .*multiple of 16, for example {near}$"):
        load_backbone("test_vit", pretrained=False, image_size=size)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_base_patch16_223", "did you mean 'vit_base_patch16_224'"),
        ("bundeld", "did you mean 'bundled'"),
        ("qqqqqqqq", "Known: 'bundled'"),
        ("timm/vit_base_patch16_224", "'hf-hub:OWNER/MODEL'.*weights=FILE"),
        ("http://host/x", "'hf-hub:OWNER/MODEL'"),
        ("model.safetensors", "weights=FILE"),
        ("hf-hub:", "'hf-hub:OWNER/MODEL'"),
        ("test_vit.r160_in2k", "did you mean 'test_vit.r160_in1k'"),
        ("test_vit4", "no pre-trained weights.*pretrained=False"),
        ("", "unknown backbone ''"),
    ],
)
def test_a_name_that_does_not_serve(name: str, says: str) -> None:
    with pytest.raises(DualLoRAError, match=says):
        load_backbone(name)


@pytest.mark.parametrize("name", ["test_vit", "hf-hub:timm/test_vit.r160_in1k"])
def test_without_the_hub_the_error_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DualLoRAError, match=f"'{name}' cannot be fetched.*weights=FILE.*'bundled'"):
        load_backbone(name)


def test_pretrained_weights_come_through_timm_and_their_tag_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.models import _builder

    source = timm.create_model("test_vit", pretrained=False)
    fetched: list[Any] = []

    def from_hub(model_id: str, *args: Any, **settings: Any) -> dict[str, torch.Tensor]:
        fetched.append(model_id)
        return source.state_dict()

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", from_hub)
    backbone = load_backbone("test_vit")
    assert len(fetched) == 1
    assert backbone.name == "test_vit.r160_in1k"
    x = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(backbone(x), source.eval().forward_head(source.forward_features(x), pre_logits=True))
    assert load_backbone("test_vit.r160_in1k").sha256 == backbone.sha256


def test_a_saved_timm_model_loads_from_its_folder(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    source = timm.create_model("test_vit", pretrained=False, num_classes=7)
    save_for_hf(source, str(tmp_path), safe_serialization=True)
    backbone = load_backbone(f"local-dir:{tmp_path}")
    assert torch.equal(backbone.vit.pos_embed, source.pos_embed)


def test_networks_for_other_than_rgb_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def with_two_channels(name: str, **settings: Any) -> Any:
        vit = create(name, in_chans=2, **settings)
        vit.pretrained_cfg = {**vit.pretrained_cfg, "input_size": (2, 160, 160)}
        return vit

    monkeypatch.setattr(timm, "create_model", with_two_channels)
    with pytest.raises(DualLoRAError, match="takes 2 channels"):
        load_backbone("test_vit", pretrained=False)

"""Weights from files, and their fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from duallora.backbone.load import Backbone, load_backbone
from duallora.backbone.weights_file import weights_sha256
from duallora.compat import import_timm
from duallora.errors import DualLoRAError

timm = import_timm()
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Weights of timm's test_vit with a classifier, exact in float16."""
    torch.manual_seed(3)
    model = timm.create_model("test_vit", pretrained=False, num_classes=5)
    return {key: value.half().float() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def sha(state: State) -> str:
    return weights_sha256({key: value for key, value in state.items() if not key.startswith("head.")})


def load(path: Path, **settings: Any) -> Backbone:
    return load_backbone("test_vit", weights=path, **settings)


WRAPPINGS = {
    "plain": lambda s: s,
    "without head": lambda s: {k: v for k, v in s.items() if not k.startswith("head.")},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s},
    "module.": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "float16": lambda s: {k: v.half() for k, v in s.items()},
    "reversed": lambda s: dict(reversed(s.items())),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_of_a_torch_file_gives_the_same_network(
    wrapping: str, state: State, sha: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WRAPPINGS[wrapping](state), path)
    backbone = load(path)
    assert backbone.sha256 == sha
    assert torch.equal(backbone.vit.blocks[5].attn.qkv.weight, state["blocks.5.attn.qkv.weight"])
    assert backbone.name == "test_vit"  # not timm's tag: these are not its weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_safetensors_give_the_same_network(dtype: torch.dtype, state: State, sha: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({key: value.to(dtype) for key, value in state.items()}, path)
    assert load(str(path)).sha256 == sha  # type: ignore[arg-type]
    assert load(path, image_size=64).sha256 == sha


def test_what_a_backbone_saved_is_loaded_again(tmp_path: Path) -> None:
    first = load_backbone("test_vit3", pretrained=False)  # its attention pooling is gone after this
    torch.save(first.vit.state_dict(), tmp_path / "w.pt")
    assert load_backbone("test_vit3", weights=tmp_path / "w.pt").sha256 == first.sha256


def test_missing_weights_are_named(state: State, tmp_path: Path) -> None:
    part = {key: value for key, value in state.items() if not key.startswith("blocks.3.mlp")}
    torch.save(part, tmp_path / "w.pth")
    with pytest.raises(DualLoRAError, match=r"missing blocks\.3\.mlp\.fc1\.bias, .* and 1 more.*'?vit_"):
        load(tmp_path / "w.pth")


def test_weights_too_many_are_named(state: State, tmp_path: Path) -> None:
    torch.save({**state, "blocks.6.extra": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(DualLoRAError, match=r"not those of 'test_vit': not expected blocks\.6\.extra\. Name the arch"):
        load(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("key", "shape"), [("blocks.0.mlp.fc1.weight", (100, 64)), ("patch_embed.proj.weight", (64, 3, 8, 8))]
)
def test_other_shapes_are_named(key: str, shape: tuple[int, ...], state: State, tmp_path: Path) -> None:
    torch.save({**state, key: torch.zeros(shape)}, tmp_path / "w.pth")
    with pytest.raises(DualLoRAError, match=rf"{key} has shape \({shape[0]}, .*expected \("):
        load(tmp_path / "w.pth")


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError, match=r"w\.pth': does not exist; give the path"):
        load(tmp_path / "w.pth")
    with pytest.raises(DualLoRAError, match="is a folder"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.npz"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"PK\x03\x04 truncated"])
def test_a_file_that_holds_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DualLoRAError, match=f"{name}'.*(safetensors|state_dict)"):
        load(tmp_path / name)


def test_a_truncated_file(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(DualLoRAError, match="cannot be read"):
        load(tmp_path / "w.safetensors")


class Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Evil, "ran", True)


def test_pickled_code_is_not_executed(state: State, tmp_path: Path) -> None:
    torch.save({"model": state, "extra": Evil()}, tmp_path / "w.pth")
    with pytest.raises(DualLoRAError, match=r"never executed.*state_dict\(\)"):
        load(tmp_path / "w.pth")
    assert not Evil.ran


@pytest.mark.parametrize("content", [{"teacher": {"w": 1}, "student": {}}, [1, 2], {}, {"model": None}])
def test_a_torch_file_of_something_else(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DualLoRAError, match=r"w\.pth'"):
        load(tmp_path / "w.pth")


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6), st.integers(0, 5))
def test_the_fingerprint_sees_every_value_and_no_layout(values: list[float], at: int) -> None:
    tensor = torch.tensor(values)
    sha = weights_sha256({"a": tensor, "b": torch.ones(2, 3)})
    assert sha == weights_sha256({"b": torch.ones(3, 2).T, "a": tensor.repeat_interleave(2)[::2]})
    changed = tensor.clone()
    changed[at % len(values)] += 1
    others: list[State] = [
        {"a": changed, "b": torch.ones(2, 3)},
        {"a": tensor, "b": torch.ones(3, 2)},
        {"a": tensor, "c": torch.ones(2, 3)},
        {"a": tensor.double(), "b": torch.ones(2, 3)},
        {"a": tensor},
    ]
    assert sha not in [weights_sha256(other) for other in others]


def test_the_fingerprint_is_the_same_on_every_day() -> None:
    state = {"w": torch.arange(6, dtype=torch.float32).view(2, 3), "n": torch.tensor(7), "h": torch.ones(2).bfloat16()}
    import hashlib

    parts = [
        b"h\0bfloat16\x002\0" + b"\x80\x3f" * 2,
        b"n\0int64\0\0" + (7).to_bytes(8, "little"),
        b"w\0float32\x002,3\0" + bytes.fromhex("00000000 0000803f 00000040 00004040 00008040 0000a040"),
    ]
    assert weights_sha256(state) == hashlib.sha256(b"".join(parts)).hexdigest()

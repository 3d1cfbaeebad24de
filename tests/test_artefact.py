"""Model folders: what goes in comes out, and nothing that is broken, foreign or half-written is believed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duallora import artefact
from duallora.artefact import (
    MANIFEST,
    TENSORS,
    finish_interrupted,
    load_artefact,
    read_manifest,
    save_artefact,
    write_json_atomic,
)
from duallora.errors import DualLoRAError

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")


def small(generation: int = 0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((40, 30), float(generation)), "b": torch.arange(7) + generation}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    save_artefact(folder, small(1), {"classes": ["cat", "Ünïcode dog"], "generation": 1})
    return folder


def rewrite_manifest(folder: Path, **changes: object) -> None:
    """As a duallora of another version would have written it: the checksum fits."""
    document = {**json.loads((folder / MANIFEST).read_text()), **changes}
    document["checksum"] = artefact._checksum(document)
    (folder / MANIFEST).write_text(json.dumps(document))


def test_folder_is_as_documented(model: Path) -> None:
    assert sorted(entry.name for entry in model.iterdir()) == [MANIFEST, TENSORS]
    document = json.loads((model / MANIFEST).read_text(encoding="utf-8"))
    payload = (model / TENSORS).read_bytes()
    assert document["format"] == "duallora"
    assert document["format_version"] == artefact.FORMAT_VERSION
    assert document["files"] == {TENSORS: {"sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)}}
    assert document["classes"] == ["cat", "Ünïcode dog"]
    assert torch.__version__.startswith(document["library_versions"]["torch"].split("+")[0])
    assert [entry.name for entry in model.parent.iterdir()] == ["zoo"], "nothing is left beside it"


def test_reads_with_safetensors_alone(model: Path) -> None:
    from safetensors.torch import load_file

    assert torch.equal(load_file(model / TENSORS)["a"], small(1)["a"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_dtypes_round_trip_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    save_artefact(tmp_path / "m", {"t": tensor}, {})
    back = load_artefact(tmp_path / "m")[0]["t"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0])
    save_artefact(tmp_path / "m", {"t": tensor}, {})
    assert torch.equal(load_artefact(tmp_path / "m")[0]["t"].view(torch.int32), tensor.view(torch.int32))


def test_views_strides_sharing_and_gradients(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "strided": base[::2, 1::2],
        "expanded": torch.tensor([1.0]).expand(3, 4),
        "whole": base,
        "again": base,
        "parameter": torch.nn.Parameter(base * 2),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
    }
    save_artefact(tmp_path / "m", tensors, {})
    back, _ = load_artefact(tmp_path / "m")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor.detach()), name
        assert not back[name].requires_grad
    back["whole"].zero_()  # loaded tensors are writable and their own
    assert back["again"].sum() == base.sum()


texts = st.text(st.characters(codec="utf-8"), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
shapes = st.lists(st.integers(0, 4), max_size=3)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), shapes, max_size=4),
    manifest=st.dictionaries(texts.filter(lambda k: k not in artefact.RESERVED), json_values, max_size=4),
)
def test_round_trip(tmp_path: Path, shapes: dict[str, list[int]], manifest: dict[str, object]) -> None:
    folder = tmp_path / "m"
    shutil.rmtree(folder, ignore_errors=True)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items() if name != "__metadata__"}
    save_artefact(folder, tensors, manifest)  # type: ignore[arg-type]
    back, document = load_artefact(folder)
    assert {key: document[key] for key in document if key not in artefact.RESERVED} == manifest
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("tensors", "manifest", "expected"),
    [
        ({}, {"x": float("nan")}, "nan"),
        ({}, {"x": {"y": [object()]}}, r"\['y'\]\[0\]"),
        ({}, {"x": {1: 2}}, "key 1"),
        ({}, {"x": ["caf\udce9"]}, "no valid Unicode"),
        ({}, {"format": "mine"}, "'format'"),
        ({"t": [1, 2]}, {}, "not a tensor"),
        ({"": torch.ones(1)}, {}, "non-empty"),
        ({"t": torch.ones(2, device="meta")}, {}, "no plain values"),
        ({"t": torch.eye(2).to_sparse()}, {}, "make it dense"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(
    tmp_path: Path, tensors: dict[str, torch.Tensor], manifest: dict[str, object], expected: str
) -> None:
    with pytest.raises(DualLoRAError, match=expected):
        save_artefact(tmp_path / "m", tensors, manifest)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# ---- overwriting ----


def test_overwrite_only_when_asked(model: Path) -> None:
    with pytest.raises(DualLoRAError, match="overwrite=True"):
        save_artefact(model, small(2), {})
    assert load_artefact(model)[1]["generation"] == 1
    save_artefact(model, small(2), {"generation": 2}, overwrite=True)
    tensors, manifest = load_artefact(model)
    assert manifest["generation"] == 2
    assert "classes" not in manifest
    assert torch.equal(tensors["b"], small(2)["b"])
    assert [entry.name for entry in model.parent.iterdir()] == ["zoo"]


def test_what_is_not_ours_is_never_replaced(tmp_path: Path, model: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"x")
    with pytest.raises(DualLoRAError, match=r"other things \('cat.jpg'\)"):
        save_artefact(photos, small(), {}, overwrite=True)
    with pytest.raises(DualLoRAError, match="is a file"):
        save_artefact(photos / "cat.jpg", small(), {}, overwrite=True)
    (model / "notes.txt").write_text("mine")
    with pytest.raises(DualLoRAError, match=r"would delete 'notes.txt'"):
        save_artefact(model, small(), {}, overwrite=True)
    assert (model / "notes.txt").read_text() == "mine"
    assert load_artefact(model)[1]["generation"] == 1


def test_full_disk_leaves_the_old_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artefact, "write_synced", full)
    with pytest.raises(DualLoRAError, match="No space left on device"):
        save_artefact(model, small(2), {}, overwrite=True)
    assert load_artefact(model)[1]["generation"] == 1
    assert [entry.name for entry in model.parent.iterdir()] == ["zoo"]


def test_a_write_that_the_disk_garbles_is_noticed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        artefact, "write_synced", lambda path, data: path.write_bytes(data.replace(b"\x00\x00", b"\x00\x01"))
    )
    with pytest.raises(DualLoRAError, match="altered"):
        save_artefact(model, small(2), {}, overwrite=True)
    assert load_artefact(model)[1]["generation"] == 1


# ---- interruption ----


def in_child(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    return process


def whole_model(folder: Path) -> Path:
    """The folder, or the sibling that the error of loading names; it must load and be of one piece."""
    try:
        load_artefact(folder)
    except DualLoRAError as error:
        named = [entry for entry in folder.parent.iterdir() if f"'{entry}'" in str(error)]
        assert named, str(error)
        folder = named[0]
    tensors, manifest = load_artefact(folder)
    assert all(torch.equal(tensors[name], value) for name, value in small(manifest["generation"]).items())
    return folder


@needs_fork
def test_crash_before_every_single_step(tmp_path: Path) -> None:
    """The process ends just before its n-th call that changes the disk, for every n."""
    crashes = beside = 0
    for n in range(40):
        folder = tmp_path / str(n) / "zoo"
        save_artefact(folder, small(1), {"generation": 1})

        def work(folder: Path = folder, n: int = n) -> None:
            left = n

            def counted(function: Callable[..., object]) -> Callable[..., object]:
                def call(*args: object, **kwargs: object) -> object:
                    nonlocal left
                    if left == 0:
                        os._exit(77)
                    left -= 1
                    return function(*args, **kwargs)

                return call

            for name in ("rename", "fsync", "mkdir", "unlink", "rmdir"):
                setattr(os, name, counted(getattr(os, name)))
            save_artefact(folder, small(2), {"generation": 2}, overwrite=True)

        process = in_child(work)
        process.join(30)
        if process.exitcode == 0:
            break
        assert process.exitcode == 77
        crashes += 1
        beside += whole_model(folder) != folder
        save_artefact(folder, small(3), {"generation": 3}, overwrite=True)  # the next save mends and tidies
        assert load_artefact(folder)[1]["generation"] == 3
        assert [entry.name for entry in folder.parent.iterdir()] == ["zoo"]
    else:
        pytest.fail("never ran to the end")
    assert crashes >= 7
    assert beside >= 1, "the instant between the two renames was met"


@needs_fork
def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    save_artefact(folder, small(0), {"generation": 0})
    dice = random.Random(0)
    reached = set()
    for i in range(15):
        saved = multiprocessing.get_context("fork").Semaphore(0)

        def work(start: int = 1000 * (i + 1), saved: Any = saved) -> None:
            for generation in range(start, start + 1000):
                save_artefact(folder, small(generation), {"generation": generation}, overwrite=True)
                saved.release()

        process = in_child(work)
        assert saved.acquire(timeout=60)  # however slow the machine, it is saving now
        time.sleep(dice.random() * 0.03)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        reached.add(load_artefact(whole_model(folder))[1]["generation"])
    assert len(reached) == 15, "each time at least one save of its own was complete"


def test_cut_off_between_the_renames_is_mended_by_the_next_save(model: Path) -> None:
    newer = model.with_name("zoo.saving-0123abcd")
    save_artefact(newer, small(2), {"generation": 2})
    model.rename(model.with_name("zoo.previous-0123abcd"))
    with pytest.raises(DualLoRAError, match=r"mv '.*zoo.saving-0123abcd' '.*zoo'"):
        load_artefact(model)
    with pytest.raises(DualLoRAError, match="already holds a model"):
        save_artefact(model, small(3), {})
    assert load_artefact(model)[1]["generation"] == 2, "the save that was cut off is completed"


def test_a_save_that_was_cut_off_is_completed_on_demand(model: Path) -> None:
    assert not finish_interrupted(model)  # nothing was cut off
    newer = model.with_name("zoo.saving-0123abcd")
    save_artefact(newer, small(2), {"generation": 2})
    model.rename(model.with_name("zoo.previous-0123abcd"))
    assert finish_interrupted(model)
    assert load_artefact(model)[1]["generation"] == 2
    assert not finish_interrupted(model)


# ---- what load refuses ----


def test_folder_missing_or_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError, match=r"no model folder .*nowhere"):
        load_artefact(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DualLoRAError, match="is a file"):
        load_artefact(tmp_path / "file")
    with pytest.raises(DualLoRAError, match=r"no duallora model: it has no duallora.json"):
        load_artefact(tmp_path)


def test_missing_manifest_is_named_before_anything_is_written(model: Path) -> None:
    (model / MANIFEST).unlink()
    with pytest.raises(DualLoRAError, match=r"is a model without its duallora.json; restore that"):
        save_artefact(model, small(2), {}, overwrite=True)
    assert [entry.name for entry in model.iterdir()] == [TENSORS]


def test_missing_tensors(model: Path) -> None:
    (model / TENSORS).unlink()
    with pytest.raises(DualLoRAError, match=r"model.safetensors' is missing"):
        load_artefact(model)


def test_truncated_anywhere(model: Path) -> None:
    payload = (model / TENSORS).read_bytes()
    for size in (0, 7, 50, len(payload) - 1):
        (model / TENSORS).write_bytes(payload[:size])
        with pytest.raises(DualLoRAError, match=f"truncated: {size} bytes of {len(payload)}"):
            load_artefact(model)


def test_any_flipped_bit_is_noticed(model: Path) -> None:
    for name in (TENSORS, MANIFEST):
        good = (model / name).read_bytes()
        dice = random.Random(1)
        for _ in range(40):
            bad = bytearray(good)
            bad[dice.randrange(len(bad) - 1)] ^= 1 << dice.randrange(8)  # but the last newline, which says nothing
            (model / name).write_bytes(bad)
            try:
                load_artefact(model)
            except DualLoRAError as error:
                assert name in str(error) or TENSORS in str(error)
            else:  # white space between two tokens may change and mean the same
                assert name == MANIFEST
                assert json.loads(bad) == json.loads(good)
        (model / name).write_bytes(good)
    load_artefact(model)


def test_tensors_of_another_model(model: Path, tmp_path: Path) -> None:
    save_artefact(tmp_path / "other", small(5), {})
    shutil.copy(tmp_path / "other" / TENSORS, model / TENSORS)
    with pytest.raises(DualLoRAError, match="belongs to another model"):
        load_artefact(model)


def test_pickle_in_the_place_of_tensors(model: Path) -> None:
    torch.save(small(9) | {"pad": torch.zeros(9999)}, model / TENSORS)
    with pytest.raises(DualLoRAError, match="altered, or belongs to another model"):
        load_artefact(model)


@pytest.mark.parametrize("name", ["model.pkl", "model.PT", "pytorch_model.bin", "x.ckpt"])
def test_pickles_are_refused(model: Path, name: str) -> None:
    (model / name).write_bytes(b"x")
    with pytest.raises(DualLoRAError, match=f"{name}' does not belong"):
        load_artefact(model)


def test_harmless_company_is_tolerated(model: Path) -> None:
    (model / ".DS_Store").write_bytes(b"x")
    (model / "README.md").write_text("my model")
    assert load_artefact(model)[1]["generation"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[1]", "not written by duallora"),
        ('{"format": "other"}', "not written by duallora"),
        ('{"format": "duallora", "format_version": "1"}', "altered"),
        ('{"format": "duallora", "format_version": 1, "duallora_version": "0.1"}', "altered"),
    ],
)
def test_broken_manifest(model: Path, text: str, expected: str) -> None:
    (model / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(DualLoRAError, match=expected) as caught:
        load_artefact(model)
    assert str(model / MANIFEST) in str(caught.value)


def test_newer_format_says_what_to_install(model: Path) -> None:
    rewrite_manifest(model, format_version=9, duallora_version="4.2.0")
    with pytest.raises(DualLoRAError, match=r"pip install 'duallora>=4\.2\.0'"):
        load_artefact(model)


def test_older_format_is_migrated_step_by_step(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite_manifest(model, format_version=1)
    before = (model / MANIFEST).read_bytes()
    monkeypatch.setattr(artefact, "FORMAT_VERSION", 3)
    monkeypatch.delitem(artefact.MIGRATIONS, 1)
    with pytest.raises(DualLoRAError, match=r"no longer reads.*pip install 'duallora=="):
        load_artefact(model)
    monkeypatch.setitem(artefact.MIGRATIONS, 1, lambda t, m: ({f"v2.{name}": value for name, value in t.items()}, m))
    monkeypatch.setitem(artefact.MIGRATIONS, 2, lambda t, m: (t, {**m, "labels": m["classes"]}))
    tensors, manifest = load_artefact(model)
    assert sorted(tensors) == ["v2.a", "v2.b"]
    assert manifest["labels"] == ["cat", "Ünïcode dog"]
    assert manifest["format_version"] == 3
    assert (model / MANIFEST).read_bytes() == before, "loading changes no file"


def test_manifest_alone(model: Path) -> None:
    (model / TENSORS).unlink()
    assert read_manifest(model)["classes"] == ["cat", "Ünïcode dog"]


# ---- write_json_atomic ----


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.json"
    write_json_atomic(path, {"a": [1, 2.5, None, "é"]})
    write_json_atomic(path, {"b": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1}
    with pytest.raises(DualLoRAError, match="JSON cannot hold"):
        write_json_atomic(path, {"b": {1, 2}})  # type: ignore[dict-item]
    assert json.loads(path.read_text()) == {"b": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_json_where_a_folder_or_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(DualLoRAError, match="folder of that name"):
        write_json_atomic(tmp_path / "taken", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(DualLoRAError, match="cannot write"):
        write_json_atomic(tmp_path / "file" / "x.json", {})

"""What people hand over by mistake: one message, exit code 2, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import COLOURS, TINY, Type, picture, snapshot
from PIL import Image

from duallora import Learner


def empty(root: Path) -> None:
    root.mkdir()


def a_file(root: Path) -> None:
    root.write_text("")


def no_class_folders(root: Path) -> None:
    picture(root / "loose.png", COLOURS["cat"])


def one_image(root: Path) -> None:
    picture(root / "cat" / "0.png", COLOURS["cat"])


def nothing_usable(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_text("not an image")


def train_and_test(root: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            picture(root / part / name / "0.png", COLOURS[name])


def same_but_for_case(root: Path) -> None:
    picture(root / "cat" / "0.png", COLOURS["cat"])
    if (root / "Cat").exists():
        pytest.skip("this file system takes both names for one")
    picture(root / "Cat" / "0.png", COLOURS["cat"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "does not exist"),
        (empty, "is empty"),
        (a_file, "is a file"),
        (no_class_folders, "1 loose image"),
        (one_image, "only 1 usable image"),
        (nothing_usable, "no usable image"),
        (train_and_test, "give one part"),
        (same_but_for_case, "only by case"),
    ],
)
def test_folders_that_cannot_be_learned_from(
    make: Callable[[Path], None], said: str, typed: Type, tmp_path: Path, zoo: Path
) -> None:
    root = tmp_path / "new images"
    make(root)
    before = snapshot(tmp_path)
    new = typed("learn", tmp_path / "other", root, "--backbone=test_vit", *TINY)
    old = typed("learn", zoo, root, "--json")
    for done in (new, old):
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert "new images" in done.err
    assert said in json.loads(old.err)["error"]
    assert snapshot(tmp_path) == before


def test_images_of_every_kind_are_converted_or_skipped_and_named(typed: Type, tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    plain = Image.new("RGB", (24, 24), COLOURS["cat"])
    names = ["a class with spaces", unicodedata.normalize("NFD", "Überraschung"), "猫"]
    for name in names:
        picture(root / name / "0.png", COLOURS["cat"])
    good = root / names[0]
    plain.convert("CMYK").save(good / "cmyk.jpg")
    plain.convert("RGBA").save(good / "rgba.png")
    plain.convert("P").save(good / "palette.gif")
    plain.save(good / "animated.gif", save_all=True, append_images=[Image.new("RGB", (24, 24))])
    Image.new("I;16", (24, 24), 40_000).save(good / "sixteen.png")
    whole = (good / "0.png").read_bytes()
    (good / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (good / "zero.jpg").write_bytes(b"")
    (good / "text.jpg").write_text("not an image")
    (good / "notes.txt").write_text("about the images")
    Image.new("1", (9_000, 9_000)).save(good / "absurd.png")

    done = typed("learn", tmp_path / "zoo", root, "--backbone=test_vit", "--method=ncm", *TINY, "--json")
    assert done.code == 0, done.err
    assert done.document["images"] == 8
    assert set(done.document["classes"]) == {unicodedata.normalize("NFC", name) for name in names}
    skipped = {Path(entry["path"]).name: entry["reason"] for entry in done.document["skipped"]}
    assert set(skipped) == {"truncated.png", "zero.jpg", "text.jpg", "notes.txt", "absurd.png"}
    assert "64,000,000 pixels" in skipped["absurd.png"]
    assert "skipped 5 files" in done.err
    assert all(name in done.err for name in skipped)
    answers = typed("predict", tmp_path / "zoo", good, "--json").document
    assert len(answers["predictions"]) == 6
    assert {Path(entry["path"]).name: entry["reason"] for entry in answers["skipped"]} == skipped


def missing_tensors(zoo: Path) -> None:
    (zoo / "model.safetensors").unlink()


def missing_manifest(zoo: Path) -> None:
    (zoo / "duallora.json").unlink()


def truncated(zoo: Path) -> None:
    path = zoo / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def altered(zoo: Path) -> None:
    path = zoo / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def altered_manifest(zoo: Path) -> None:
    path = zoo / "duallora.json"
    path.write_text(path.read_text().replace("dog", "god"))


def garbled_manifest(zoo: Path) -> None:
    (zoo / "duallora.json").write_text("{")


def foreign_manifest(zoo: Path) -> None:
    (zoo / "duallora.json").write_text('{"format": "something else"}')


def pickled(zoo: Path) -> None:
    (zoo / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def newer(zoo: Path) -> None:
    path = zoo / "duallora.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (missing_tensors, "model.safetensors' is missing"),
        (missing_manifest, "no duallora"),
        (truncated, "is truncated"),
        (altered, "was altered"),
        (altered_manifest, "was altered"),
        (garbled_manifest, "not valid JSON"),
        (foreign_manifest, "not written by duallora"),
        (pickled, "pytorch_model.bin' does not belong"),
        (newer, "format_version 99"),
    ],
)
def test_spoilt_models_are_refused_by_every_command_and_left_as_they_are(
    spoil: Callable[[Path], None], said: str, typed: Type, zoo: Path, pictures: Path
) -> None:
    spoil(zoo)
    before = snapshot(zoo.parent)
    for command in ("inspect", "predict", "evaluate", "learn"):
        arguments = [] if command == "inspect" else [pictures / "animals"]
        done = typed(command, zoo, *arguments)
        assert (done.code, done.out) == (2, ""), command
        assert done.err.count("Error:") == 1
        if command != "learn":  # which may find an earlier fault: that it must not overwrite this
            assert said in done.err, command
        assert "zoo" in done.err
    assert snapshot(zoo.parent) == before


def test_a_model_that_is_not_there(typed: Type, tmp_path: Path, pictures: Path) -> None:
    for command in ("inspect", "predict", "evaluate"):
        done = typed(command, tmp_path / "zoo", *([] if command == "inspect" else [pictures / "animals"]))
        assert done.code == 2
        assert "there is no model folder" in done.err
    assert snapshot(tmp_path) == {}


def test_places_that_a_model_cannot_take(typed: Type, tmp_path: Path, pictures: Path, zoo: Path) -> None:
    (tmp_path / "a file").write_text("mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    (zoo / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    for place, said in (
        ("a file", "it is a file"),
        ("a file/zoo", "is a file"),
        ("thesis", "holds other things"),
        ("zoo", "would delete 'notes.txt'"),
    ):
        done = typed("learn", tmp_path / place, pictures / "vehicles")
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert "learning" not in done.err  # told before any training
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_place_without_permission(typed: Type, tmp_path: Path, pictures: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for arguments in (("learn", locked / "zoo", pictures / "animals"), ("run", "digits", "--out", locked / "run")):
        done = typed(*arguments)
        assert (done.code, done.out) == (2, "")
        assert "locked" in done.err
    assert not list(locked.iterdir())


def test_a_full_disk_leaves_the_model_as_it_was(
    typed: Type, zoo: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before = snapshot(zoo.parent)
    monkeypatch.setattr("duallora.artefact.write_synced", full)
    done = typed("learn", zoo, pictures / "vehicles")
    assert (done.code, done.out) == (2, "")
    assert "No space left on device" in done.err
    assert snapshot(zoo.parent) == before
    assert Learner.load(zoo).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method=dualora",), "did you mean 'duallora'"),
        (("--backbone=vit_tinny_patch16_224",), "vit_tiny_patch16_224"),
        (("--backbone=resnet18", "--set=backbone.pretrained=false"), "resnet18"),
        (("--backbone=test_vit", "--set=backbone.image_size=33", "--set=backbone.pretrained=false"), "33"),
        (("--backbone=test_vit", "--set=backbone.weights=nowhere.safetensors"), "nowhere.safetensors"),
        (("--set=method.options.rnk=2",), "did you mean 'rank'"),
        (("--set=metod.name=lora",), "did you mean 'method'"),
        (("--set=training.epochs=-1",), "training.epochs = -1"),
        (("--set=training.epochs",), "KEY=VALUE"),
        (("--set=device=gpu", "--backbone=test_vit", "--set=backbone.pretrained=false"), "device 'gpu'"),
        (("--epochs=3",), "--epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_unknown_names_and_keys(
    options: tuple[str, ...], said: str, typed: Type, tmp_path: Path, pictures: Path
) -> None:
    done = typed("learn", tmp_path / "zoo", pictures / "animals", *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("Error:") == 1
    assert snapshot(tmp_path) == {}


def test_names_that_would_steer_the_terminal(typed: Type, tmp_path: Path, pictures: Path) -> None:
    folder = shutil.copytree(pictures / "animals", tmp_path / "animals")
    one = next(folder.rglob("*.png"))
    (one.parent / "red\x1b[31m.png").write_bytes(b"no image")
    shutil.copy(one, one.parent / "blue\x1b[34m.png")
    zoo = tmp_path / "zoo"
    done = typed("learn", zoo, folder, "--backbone=test_vit", "--method=ncm", *TINY)
    assert done.code == 0
    assert "red\\x1b[31m.png" in done.err and "\x1b[31m" not in done.err
    answers = typed("predict", zoo, one.parent)
    assert "\x1b[34m" not in answers.out and "\\x1b[34m" in answers.out
    refused = typed("learn", zoo, folder, "--name=two\nlines")
    assert refused.code == 2 and "has characters that nobody can see" in refused.err
    (folder / "two\nlines").mkdir()
    refused = typed("learn", zoo, folder)
    assert refused.code == 2 and "has characters that nobody can see; rename it" in refused.err


def test_an_unpacked_archive_is_noticed(typed: Type, tmp_path: Path, pictures: Path) -> None:
    shutil.copytree(pictures / "animals", tmp_path / "unpacked" / "animals")
    done = typed("learn", tmp_path / "zoo", tmp_path / "unpacked", "--backbone=test_vit", "--method=ncm", *TINY)
    assert done.code == 0
    assert f"if those are the classes, learn '{tmp_path / 'unpacked' / 'animals'}' into a new model" in done.err
    plain = typed("learn", tmp_path / "other", pictures / "animals", "--backbone=test_vit", "--method=ncm", *TINY)
    assert "note" not in plain.err


def test_an_empty_argument_is_not_the_current_folder(
    typed: Type, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures / "animals")
    refused = typed("learn", tmp_path / "zoo", "", "--backbone=test_vit", "--method=ncm", *TINY)
    assert refused.code == 2 and "an argument is empty text" in refused.err
    assert snapshot(tmp_path) == {}


def test_a_home_folder_written_as_a_tilde(
    typed: Type, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(pictures / "animals", tmp_path / "animals")
    done = typed("learn", "~/zoo", "~/animals", "--backbone=test_vit", "--method=ncm", *TINY)
    assert done.code == 0, done.err
    for command in ("predict ~/zoo ~/animals", "evaluate ~/zoo ~/animals", "inspect ~/zoo"):
        done = typed(*command.split())
        assert done.code == 0, done.err
    small = ("--set=method.name=ncm", "--set=backbone.name=test_vit", *TINY)
    assert typed("run", "digits", "--out=~/a run", "--set=stream.max_tasks=1", *small).code == 0
    assert typed("report", "~/a run", "--out=~/page.html").code == 0
    assert {"zoo", "a run", "page.html"} <= {path.name for path in tmp_path.iterdir()}


def test_a_method_with_a_quote_is_unknown_and_no_fault_of_yaml(typed: Type, tmp_path: Path, pictures: Path) -> None:
    refused = typed("learn", tmp_path / "zoo", pictures / "animals", "--method=it's")
    assert refused.code == 2 and "unknown method" in refused.err


def test_a_folder_in_parts_names_the_parts_that_are_there(typed: Type, tmp_path: Path, pictures: Path) -> None:
    for part in ("Train", "Test"):
        shutil.copytree(pictures / "animals", tmp_path / "set" / part)
    refused = typed("learn", tmp_path / "zoo", tmp_path / "set")
    assert refused.code == 2
    assert str(tmp_path / "set" / "Train") in refused.err and str(tmp_path / "set" / "Test") in refused.err

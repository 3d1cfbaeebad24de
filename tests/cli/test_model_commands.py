"""learn, predict, evaluate, inspect: for people and for programs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from cli_helpers import COLOURS, TINY, Type, picture

from duallora import Learner, artefact


def test_learn_makes_a_model_and_goes_on_with_it(typed: Type, zoo: Path, pictures: Path) -> None:
    done = typed("learn", zoo, pictures / "vehicles", "--set", "training.epochs=2", "--json")
    assert done.code == 0
    assert done.document["task"] == "vehicles"
    assert done.document["known"] == ["cat", "dog", "bus", "car"]
    assert (done.document["tasks"], done.document["images"], done.document["skipped"]) == (2, 12, [])
    assert "learning 'vehicles': 12 images, 2 classes, as task 2" in done.err
    learner = Learner.load(zoo)
    assert [task["name"] for task in learner.tasks] == ["animals", "vehicles"]
    assert learner.training.epochs == 2  # what is set for a task stays with the model
    assert learner.origin["pretrained"] is False


def test_learn_tells_a_reader_what_it_did(typed: Type, zoo: Path, pictures: Path) -> None:
    done = typed("learn", zoo, pictures / "vehicles", "--name", "on wheels")
    assert done.code == 0
    assert "learned 'on wheels'" in done.out
    assert "knows 4 classes of 2 tasks" in done.out
    again = typed("learn", zoo, pictures / "vehicles", "--name", "on wheels")
    assert again.code == 2
    assert "has a task 'on wheels' already" in again.err


def test_learn_takes_method_and_backbone_for_a_new_model_only(typed: Type, tmp_path: Path, pictures: Path) -> None:
    model = tmp_path / "deep" / "zoo"
    done = typed("learn", model, pictures / "animals", "--method=ncm", "--backbone=test_vit", *TINY, "--json")
    assert done.code == 0
    assert done.document["capacity"] is None
    assert typed("inspect", model, "--json").document["method"]["name"] == "ncm"
    same = ("--method=ncm", "--backbone=test_vit", "--set=training.batch_size=8")
    assert typed("learn", model, pictures / "vehicles", *same).code == 0
    document = json.loads((model / "duallora.json").read_text())
    document["backbone"]["name"] = "test_vit.r160_in1k"  # as if timm's weights had been fetched
    document["checksum"] = artefact._checksum(document)
    tagged = shutil.copytree(model, tmp_path / "tagged")
    (tagged / "duallora.json").write_text(json.dumps(document))
    other = typed("learn", tagged, pictures / "animals", "--backbone=test_vi")
    assert other.code == 2 and "has the backbone 'test_vit.r160_in1k', which cannot become 'test_vi'" in other.err
    assert "cannot become" not in typed("learn", tagged, pictures / "animals", "--backbone=test_vit").err
    before = (model / "duallora.json").read_bytes()
    for options, said in (
        (("--method=lora",), "has the method 'ncm', which cannot become 'lora'"),
        (("--backbone=bundled",), "has the backbone 'test_vit', which cannot become 'bundled'"),
        (("--set=seed=3",), "'seed' cannot be set any more"),
        (("--set=training.epochz=3",), "unknown key 'training.epochz'; did you mean 'epochs'"),
    ):
        refused = typed("learn", model, pictures / "animals", *options)
        assert refused.code == 2
        assert said in refused.err
    assert (model / "duallora.json").read_bytes() == before


def test_a_cumulative_method_cannot_be_learned_with(typed: Type, tmp_path: Path, pictures: Path) -> None:
    done = typed("learn", tmp_path / "zoo", pictures / "animals", "--method=joint")
    assert done.code == 2
    assert "needs the images of all tasks at once" in done.err
    assert not (tmp_path / "zoo").exists()


def test_predict_answers_for_files_and_folders_and_names_what_it_skips(
    typed: Type, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "new [photos]"  # brackets mean something to rich
    folder.mkdir()
    for i in range(2):
        shutil.copy(pictures / "animals" / "dog" / f"{i}.png", folder / f"größe {i}.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image, and not named like one")
    missing = tmp_path / "missing.png"
    done = typed("predict", trained, pictures / "animals" / "cat" / "0.png", folder, missing, "--json")
    assert done.code == 0
    paths = [Path(answer["path"]).name for answer in done.document["predictions"]]
    assert paths == ["0.png", "größe 0.png", "größe 1.png"]
    for answer in done.document["predictions"]:
        assert answer["label"] in ("cat", "dog")
        assert answer["task"] == "animals"
        assert 0 <= answer["confidence"] <= 1
    assert {Path(s["path"]).name for s in done.document["skipped"]} == {"empty.jpg", "missing.png", "notes.txt"}
    assert "skipped 3 files" in done.err
    plain = typed("predict", trained, folder)
    assert "new [photos]" in plain.out
    assert "größe 1.png" in plain.out


def test_predict_fails_where_no_image_can_be_read(typed: Type, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "bare").mkdir()
    done = typed("predict", trained, tmp_path / "text.png", tmp_path / "bare", "--json")
    assert (done.code, done.out) == (2, "")
    assert "none of 2 image(s) can be read" in done.err
    assert "text.png: is no image" in done.err
    assert "bare: is a folder without images" in done.err


def test_evaluate(typed: Type, trained: Path, pictures: Path) -> None:
    done = typed("evaluate", trained, pictures / "animals", "--json")
    assert done.code == 0
    assert done.document["images"] == 12
    assert set(done.document["per_class"]) == {"cat", "dog"}
    assert done.document["accuracy"] == pytest.approx(sum(done.document["per_class"].values()) / 2)
    assert "accuracy over all classes" in typed("evaluate", trained, pictures / "animals").out
    strange = typed("evaluate", trained, pictures / "vehicles")
    assert strange.code == 2
    assert "bus" in strange.err


def test_inspect_shows_what_is_there(typed: Type, trained: Path) -> None:
    found = typed("inspect", trained, "--json").document
    assert found["format_version"] == artefact.FORMAT_VERSION
    assert found["method"]["name"] == "duallora"
    assert found["backbone"]["name"] == "test_vit"
    assert found["classes"] == ["cat", "dog"]
    assert found["tasks"] == [{"name": "animals", "classes": ["cat", "dog"], "images": 12}]
    assert len(found["capacity"]) == 6
    assert all(0 < used < 1 for used in found["capacity"])
    assert found["bytes"]["model.safetensors"] == (trained / "model.safetensors").stat().st_size
    shown = typed("inspect", trained).out
    for text in ("duallora", "test_vit", "animals", "cat, dog", "block 5 [#"):
        assert text in shown


@pytest.mark.parametrize(
    ("options", "sites"),
    [
        ({"blocks": [4, 1]}, ["block 1", "block 4"]),
        ({"blocks": [4, 5], "placement": ["value", "proj"]}, ["block 4", "block 4 proj", "block 5", "block 5 proj"]),
        ({"blocks": [-1, 2]}, ["map 0", "map 1"]),
    ],
)
def test_inspect_names_the_maps_that_fill_up(
    typed: Type, tmp_path: Path, pictures: Path, options: dict[str, object], sites: list[str]
) -> None:
    given = [f"--set=method.options.{key}={value}" for key, value in options.items()]
    assert typed("learn", tmp_path / "zoo", pictures / "animals", "--backbone=test_vit", *TINY, *given).code == 0
    shown = [line.split("[")[0].strip() for line in typed("inspect", tmp_path / "zoo").out.splitlines() if "[#" in line]
    assert shown == sites


def test_inspect_tells_the_format_that_lies_there(typed: Type, trained: Path, tmp_path: Path) -> None:
    model = shutil.copytree(trained, tmp_path / "zoo")
    document = json.loads((model / "duallora.json").read_text()) | {"format_version": 2}
    document["checksum"] = artefact._checksum(document)
    (model / "duallora.json").write_text(json.dumps(document))
    assert typed("inspect", model, "--json").document["format_version"] == 2


def test_a_name_that_is_no_text_is_told_before_anything_is_learned(typed: Type, tmp_path: Path, pictures: Path) -> None:
    folder = shutil.copytree(pictures / "animals", tmp_path / os.fsdecode(b"bad\xe9"))
    refused = typed("learn", tmp_path / "zoo", folder, "--backbone=test_vit", *TINY)
    assert refused.code == 2
    assert "cannot name a task; give one with --name" in refused.err
    assert "learning" not in refused.err
    assert typed("learn", tmp_path / "zoo", folder, "--name=good", "--backbone=test_vit", *TINY).code == 0


def test_what_was_learned_is_kept_where_its_place_was_taken_meanwhile(
    typed: Type, zoo: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Learner.learn

    def slowly(self: Learner, *args: object, **options: object) -> object:
        report = learn(self, *args, **options)
        monkeypatch.setattr(Learner, "learn", learn)
        other = Learner.load(zoo)
        other.learn(pictures / "vehicles", name="theirs", progress=False)
        other.save(zoo, overwrite=True)
        return report

    monkeypatch.setattr(Learner, "learn", slowly)
    done = typed("learn", zoo, pictures / "vehicles", "--name=ours")
    assert done.code == 2
    assert "saved by somebody else" in done.err and f"it lies in '{zoo}-2'" in done.err
    assert [task["name"] for task in Learner.load(zoo).tasks] == ["animals", "theirs"]
    assert [task["name"] for task in Learner.load(f"{zoo}-2").tasks] == ["animals", "ours"]


def test_a_new_model_does_not_replace_one_that_another_made_meanwhile(
    typed: Type, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, zoo = Learner.learn, tmp_path / "zoo"

    def slowly(self: Learner, *args: object, **options: object) -> object:
        report = learn(self, *args, **options)
        monkeypatch.setattr(Learner, "learn", learn)
        assert typed("learn", zoo, pictures / "vehicles", "--backbone=test_vit", *TINY).code == 0
        return report

    monkeypatch.setattr(Learner, "learn", slowly)
    done = typed("learn", zoo, pictures / "animals", "--backbone=test_vit", *TINY)
    assert done.code == 2
    assert "already holds a model" in done.err and f"it lies in '{zoo}-2'" in done.err
    assert [task["name"] for task in Learner.load(zoo).tasks] == ["vehicles"]
    assert [task["name"] for task in Learner.load(f"{zoo}-2").tasks] == ["animals"]


def test_a_shrinkage_that_regularises_nothing_is_refused(typed: Type, tmp_path: Path, pictures: Path) -> None:
    done = typed("learn", tmp_path / "zoo", pictures / "animals", "--set=method.options.shrinkage=0")
    assert done.code == 2 and "shrinkage" in done.err


def test_learn_completes_a_save_that_was_cut_off_instead_of_starting_over(
    typed: Type, zoo: Path, pictures: Path
) -> None:
    shutil.copytree(zoo, zoo.with_name("zoo.saving-0123abcd"))
    zoo.rename(zoo.with_name("zoo.previous-0123abcd"))
    done = typed("learn", zoo, pictures / "vehicles")
    assert done.code == 2
    assert "was cut off at its very end and is complete only now" in done.err
    assert typed("inspect", zoo, "--json").document["classes"] == ["cat", "dog"]
    again = typed("learn", zoo, pictures / "vehicles", "--json")  # as the message says
    assert again.code == 0 and again.document["known"] == ["cat", "dog", "bus", "car"]


def test_a_class_folder_that_differs_only_by_case_from_a_known_class_is_refused(
    typed: Type, zoo: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures / "animals" / "cat", tmp_path / "more" / "CAT")
    shutil.copytree(pictures / "animals" / "dog", tmp_path / "more" / "dog")
    before = (zoo / "duallora.json").read_bytes()
    done = typed("learn", zoo, tmp_path / "more")
    assert done.code == 2
    assert "class 'CAT' differs only by case from 'cat'" in done.err
    assert (zoo / "duallora.json").read_bytes() == before


def test_predict_passes_by_what_is_hidden(typed: Type, trained: Path, pictures: Path, tmp_path: Path) -> None:
    for place in ("seen", ".hidden", "deep/.cache"):
        (tmp_path / "photos" / place).mkdir(parents=True)
        shutil.copy(pictures / "animals" / "dog" / "0.png", tmp_path / "photos" / place / "a.png")
    found = typed("predict", trained, tmp_path / "photos", "--json").document
    assert [Path(answer["path"]).parent.name for answer in found["predictions"]] == ["seen"]
    inside = typed("predict", trained, tmp_path / "photos" / ".hidden", "--json").document
    assert len(inside["predictions"]) == 1  # a hidden folder that is asked for by name is no secret


def test_capacity_is_told_per_map_where_a_first_session_adapts_others(
    typed: Type, tmp_path: Path, pictures: Path
) -> None:
    options = ("--set=method.options.placement=[proj]", "--set=method.options.first_rate=3")
    done = typed("learn", tmp_path / "zoo", pictures / "animals", "--backbone=test_vit", *options, *TINY)
    assert done.code == 0, done.err
    shown = typed("inspect", tmp_path / "zoo").out
    assert "block 5 [" in shown and "block 5 proj [" in shown and "block 6" not in shown


def test_what_is_learned_again_is_told(typed: Type, zoo: Path, pictures: Path) -> None:
    for folder in ("vehicles", "animals"):
        done = typed("learn", zoo, pictures / folder)
        assert done.code == 0, done.err
    assert "note: the model has a task 'animals' already; what is learned now is called 'task 3'" in done.err
    scores = typed("evaluate", zoo, pictures / "vehicles", "--json").document
    assert scores["task_il"] is not None  # vehicles were learned once
    told = typed("evaluate", zoo, pictures / "animals")
    assert "No figures by task: a class of these images was learned in several tasks." in told.out


def test_a_folder_of_domains_is_told(typed: Type, tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        for name, colour in COLOURS.items():
            picture(tmp_path / "dom" / domain / name / "0.png", colour)
    done = typed("learn", tmp_path / "zoo", tmp_path / "dom", "--method=ncm", "--backbone=test_vit", *TINY)
    assert done.code == 0
    assert f"hold the same sub-folders ({', '.join(sorted(COLOURS)[:4])})" in done.err
    picture(tmp_path / "dom" / "sketch" / "loose.png", (1, 2, 3))
    again = typed("learn", tmp_path / "zoo2", tmp_path / "dom", "--method=ncm", "--backbone=test_vit", *TINY)
    assert "same sub-folders" not in again.err


def test_learn_takes_device_and_weights_as_the_others_do(typed: Type, zoo: Path, pictures: Path) -> None:
    refused = typed("learn", zoo, pictures / "vehicles", "--device=cuba")
    assert refused.code == 2 and "cuba" in refused.err
    missing = typed("learn", zoo, pictures / "vehicles", "--weights=nowhere.safetensors")
    assert missing.code == 2 and "nowhere.safetensors" in missing.err
    assert typed("learn", zoo, pictures / "vehicles", "--device=cuba", "--set=device=cpu").code == 0


def test_a_run_is_no_model(typed: Type, tmp_path: Path) -> None:
    for name in ("results.json", "config.json"):
        (tmp_path / name).write_text("{}")
    assert "is a run, which measures and keeps no model" in typed("inspect", tmp_path).err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_odd_names_and_no_files(typed: Type, zoo: Path, tmp_path: Path) -> None:
    odd = picture(tmp_path / "a\tb\n.png", COLOURS["cat"])
    shown = next(line for line in typed("predict", zoo, odd).out.splitlines() if ".png" in line)
    assert r"a\x09b\x0a.png" in shown
    os.mkfifo(tmp_path / "pipe")
    refused = typed("predict", zoo, tmp_path / "pipe")
    assert refused.code == 2 and "is a pipe or a device, expected an image file" in refused.err

"""The face: learn, predict, evaluate, save, load, learn on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import multivariate_normal

from duallora import Learner, artefact
from duallora.artefact import save_artefact
from duallora.backbone import Backbone, load_backbone
from duallora.data import ImageSet
from duallora.errors import DualLoRAError
from duallora.methods.covariances import ClassCovariances
from duallora.migrations import MIGRATIONS

TRAINING = {"epochs": 2, "batch_size": 8}


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, backbones: Callable[..., Backbone]) -> None:
    """Learners of this file stand on a tiny random backbone."""
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: backbones())


def folder(images: ImageSet, root: Path) -> Path:
    for i in range(len(images)):
        place = root / images.classes[images.labels[i]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.image(i).permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    return root


def test_folder_in_predictions_out_learn_more(tmp_path: Path, images: Callable[..., ImageSet]) -> None:
    animals = folder(images(3, 10, names="animal "), tmp_path / "animals")
    vehicles = folder(images(2, 10, seed=5000, names="véhicule "), tmp_path / "vehicles")
    learner = Learner.create(training=TRAINING)
    report = learner.learn(animals, progress=False)
    assert (report.task, report.images, len(report.classes)) == ("animals", 30, 3)
    learner.learn(vehicles, progress=False)
    assert learner.classes == ["animal 0", "animal 1", "animal 2", "véhicule 0", "véhicule 1"]
    (answer,) = learner.predict([vehicles / "véhicule 0" / "0.png"])
    assert answer.path.endswith("0.png")
    assert answer.label == answer.top[0][0]
    assert answer.task in {"animals", "vehicles"}
    assert 0 <= answer.confidence <= 1
    assert sum(p for _, p in answer.top) == pytest.approx(1, abs=1e-4)
    assert learner.evaluate(animals).accuracy > 0.5
    assert learner.evaluate(vehicles).images == 20
    assert len(learner.capacity) == 2


@pytest.mark.parametrize("method", ["duallora", "lora", "slda", "ncm", "probe"])
def test_saved_and_loaded_it_is_the_same_and_learns_on_the_same(
    method: str, tmp_path: Path, images: Callable[..., ImageSet]
) -> None:
    learner = Learner.create(method=method, training=TRAINING)
    learner.learn(images(2, 8, names="a"), progress=False)
    learner.save(tmp_path / "zoo")
    loaded = Learner.load(tmp_path / "zoo")
    probe = [np.asarray(images(1, 4, seed=7000).image(i).permute(1, 2, 0)) for i in range(4)]
    assert loaded.predict(probe) == learner.predict(probe)
    for each in (learner, loaded):
        each.learn(images(3, 8, seed=3000, names="b"), progress=False)
    assert loaded.predict(probe) == learner.predict(probe)
    assert all(torch.equal(v, loaded.method.state()[k]) for k, v in learner.method.state().items())


def test_classes_that_come_again_are_one_class(images: Callable[..., ImageSet]) -> None:
    learner = Learner.create(training=TRAINING)
    learner.learn(images(2, 8), name="summer", progress=False)
    learner.learn(images(2, 8, seed=4000), name="winter", progress=False)
    assert learner.classes == ["c0", "c1"]
    result = learner.evaluate(images(2, 5, seed=4001))
    assert set(result.per_class) == {"c0", "c1"}
    assert result.task_il is None


def test_arrays_serve_as_well() -> None:
    x = (np.random.default_rng(0).random((12, 20, 24, 3)) * 255).astype(np.uint8)
    learner = Learner.create(method="ncm")
    learner.learn((x, ["cat", "dog"] * 6), progress=False)
    assert learner.classes == ["cat", "dog"]
    assert learner.predict([x[0], x[1]])[0].known is None


def test_what_was_never_seen_is_not_known(images: Callable[..., ImageSet]) -> None:
    learner = Learner.create(method="slda")
    learner.learn(images(2, 60), progress=False)
    own = [images(2, 60).image(i).permute(1, 2, 0).numpy() for i in range(0, 120, 4)]
    noise = [np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8) for i in range(20)]
    assert np.mean([p.known for p in learner.predict(own)]) > 0.9
    assert np.mean([p.known for p in learner.predict(noise)]) < 0.5


def test_errors_say_what_to_type(tmp_path: Path, images: Callable[..., ImageSet]) -> None:
    learner = Learner.create(training=TRAINING)
    with pytest.raises(DualLoRAError, match="duallora learn MODEL FOLDER"):
        learner.predict([tmp_path / "x.png"])
    with pytest.raises(DualLoRAError, match="did you mean 'duallora'"):
        Learner.create(method="dualora")
    with pytest.raises(DualLoRAError, match=r"unknown key 'rnk'.*'rank'"):
        Learner.create(config={"rnk": 3})
    with pytest.raises(DualLoRAError, match=r"unknown key 'epoch'.*'epochs'"):
        Learner.create(training={"epoch": 3})
    with pytest.raises(DualLoRAError, match="serves comparisons only"):
        Learner.create(method="joint").learn(images(2, 4))
    for method in ("ncm", "duallora"):
        with pytest.raises(DualLoRAError, match="no images to learn from"):
            Learner.create(method=method).learn((np.zeros((0, 8, 8), np.uint8), []), progress=False)
    learner.learn(images(2, 8), progress=False)
    with pytest.raises(DualLoRAError, match=r"unknown classes \['z0'"):
        learner.evaluate(images(2, 4, names="z"))


def test_other_weights_than_those_it_was_trained_on_are_refused(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch, backbones: Callable[..., Backbone]
) -> None:
    learner = Learner.create(method="ncm")
    learner.learn(images(2, 4), progress=False)
    learner.save(tmp_path / "zoo")
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: backbones(seed=1))
    with pytest.raises(DualLoRAError, match=r"was trained on weights .* give the file: weights=FILE"):
        Learner.load(tmp_path / "zoo")


def test_a_model_on_former_weights_of_the_bundled_backbone_says_what_can_be_done(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file would help: the architecture may have changed with them."""
    monkeypatch.setattr("duallora.learner.load_backbone", load_backbone)
    learner = Learner.create("bundled", "ncm")
    learner.learn(images(2, 4), progress=False)
    learner.save(tmp_path / "zoo")
    renewed = load_backbone("bundled", levels=None)
    renewed.sha256 = "00" * 32
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: renewed)
    with pytest.raises(DualLoRAError, match=r"those in the package have changed since: learn the classes again"):
        Learner.load(tmp_path / "zoo")


def test_a_model_keeps_to_how_its_images_were_normalised(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duallora.learner.load_backbone", load_backbone)
    for normalise in (True, False):
        place = tmp_path / str(normalise)
        learner = Learner.create("test_vit", "ncm", pretrained=False, image_size=32, normalise=normalise)
        learner.learn(images(2, 4), progress=False)
        learner.save(place)
        loaded = Learner.load(place)
        assert loaded.backbone.preprocessing == learner.backbone.preprocessing
        assert (loaded.backbone.preprocessing.std == (1.0, 1.0, 1.0)) is not normalise


def test_an_error_during_learning_leaves_a_learner_that_says_so(
    tmp_path: Path, images: Callable[..., ImageSet]
) -> None:
    learner = Learner.create(training=TRAINING | {"learning_rate": 1e30, "clip": 1e30, "optimizer": "sgd", "epochs": 9})
    with pytest.raises(DualLoRAError, match="not finite"):
        learner.learn(images(2, 40), progress=False)
    assert learner.classes == []
    assert learner.tasks == []
    for call in (
        lambda: learner.learn(images(2, 4)),
        lambda: learner.save(tmp_path / "x"),
        lambda: learner.predict(["x.png"]),
    ):
        with pytest.raises(DualLoRAError, match=r"broke off half-way.*Learner.load"):
            call()


@pytest.mark.parametrize(
    ("method", "version", "options"),
    [
        ("duallora", 1, {"class_blocks": "all", "class_smoothing": 0.0}),
        ("duallora", 5, {"class_blocks": "later"}),
        ("duallora+align", 1, {"class_blocks": "all", "class_smoothing": 0.0}),
    ],
)
def test_an_older_model_still_answers_as_it_did(
    method: str, version: int, options: dict[str, object], tmp_path: Path, images: Callable[..., ImageSet]
) -> None:
    """What was there before an option could be chosen, or before its default was another."""
    learner = Learner.create(method=method, training=TRAINING, config=options)
    learner.learn(images(2, 8), progress=False)
    learner.save(tmp_path / "zoo")
    path = tmp_path / "zoo" / artefact.MANIFEST
    document = json.loads(path.read_text()) | {"format_version": version}
    for name in options:
        del document["method"]["options"][name]
    path.write_text(json.dumps(document | {"checksum": artefact._checksum(document)}))
    loaded = Learner.load(tmp_path / "zoo")
    probe = [images(1, 4, seed=7000).image(i).permute(1, 2, 0).numpy() for i in range(4)]
    assert loaded.predict(probe) == learner.predict(probe)
    loaded.save(tmp_path / "renewed")
    assert artefact.read_manifest(tmp_path / "renewed")["format_version"] == artefact.FORMAT_VERSION


@pytest.mark.parametrize("wide", [768, 8])  # narrower than what today's models project to, and wider
def test_a_model_of_format_2_keeps_its_class_covariances(
    wide: int, tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held them as triangles, of the final feature alone; what they say of an image stays the same."""
    monkeypatch.setattr("duallora.methods.spreads.WIDTH", wide)
    monkeypatch.setattr("duallora.methods.spreads.DIRECTIONS", 4)
    learner = Learner.create("bundled", "probe", config={"readout": "quadratic"}, training=TRAINING)
    d = learner.method.backbone.dim
    learner.method.read.kept["covariances"] = ClassCovariances(d)
    for seed, names in ((0, "animal "), (5000, "vehicle ")):
        learner.learn(images(2, 12, seed=seed, names=names), progress=False)
    held = [learner.method.read.kept["covariances"].covariance(r).numpy() for r in range(4)]
    learner.save(tmp_path / "zoo")
    manifest, path = json.loads((tmp_path / "zoo" / artefact.MANIFEST).read_text()), tmp_path / "zoo" / artefact.TENSORS
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("read.spreads.")}
    save_artefact(tmp_path / "old", tensors, {k: manifest[k] for k in manifest if k not in artefact.RESERVED})
    document = json.loads((tmp_path / "old" / artefact.MANIFEST).read_text()) | {"format_version": 2}
    (tmp_path / "old" / artefact.MANIFEST).write_text(json.dumps(document | {"checksum": artefact._checksum(document)}))
    loaded = Learner.load(tmp_path / "old")
    read = loaded.method.read
    assert read.spreads.width == d
    x = torch.randn(5, read.gaussians.dim, generator=torch.Generator().manual_seed(0)) + read.gaussians.means.mean(0)
    shared, columns = read.gaussians.covariance().numpy()[:d, :d], []
    for r, S in enumerate(held):
        mu = read.gaussians.means[r, :d].numpy()
        w = 11 / (4 * d + 11)
        own = multivariate_normal(mu, (1 - w) * shared + w * S)
        columns.append(own.logpdf(x[:, :d].numpy()) - multivariate_normal(mu, shared).logpdf(x[:, :d].numpy()))
    found = read.spreads.correction(x.float(), read.gaussians).numpy()
    np.testing.assert_allclose(found, np.stack(columns, 1), rtol=1e-3, atol=1e-3)
    loaded.learn(images(2, 6, seed=9000, names="plant "), progress=False)
    loaded.save(tmp_path / "renewed")
    assert "read.covariances.packed" not in load_file(tmp_path / "renewed" / artefact.TENSORS)
    assert Learner.load(tmp_path / "renewed").method.read.spreads.factors.shape == (6, d - 1, d)


def test_a_model_of_format_3_gets_its_gaussians_of_tasks(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are put together from what it keeps of its classes."""
    monkeypatch.setattr("duallora.methods.spreads.WIDTH", 8)
    learner = Learner.create("bundled", "probe", config={"readout": "tasks"}, training=TRAINING)
    for seed, names in ((0, "animal "), (5000, "vehicle ")):
        learner.learn(images(3, 12, seed=seed, names=names), progress=False)
    learner.save(tmp_path / "zoo")
    manifest, path = json.loads((tmp_path / "zoo" / artefact.MANIFEST).read_text()), tmp_path / "zoo" / artefact.TENSORS
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("read.tasks.")}
    assert len(tensors) < len(load_file(path))
    save_artefact(tmp_path / "old", tensors, {k: manifest[k] for k in manifest if k not in artefact.RESERVED})
    document = json.loads((tmp_path / "old" / artefact.MANIFEST).read_text()) | {"format_version": 3}
    document["training"]["evaluation_batch_size"] = 256  # what nobody had chosen
    (tmp_path / "old" / artefact.MANIFEST).write_text(json.dumps(document | {"checksum": artefact._checksum(document)}))
    loaded = Learner.load(tmp_path / "old")
    assert loaded.training.evaluation_batch_size is None
    read, own = loaded.method.read, learner.method.read
    x = own.gaussians.means.float() + torch.randn(6, own.gaussians.dim, generator=torch.Generator().manual_seed(0))
    before, after = own.task_scores(x), read.task_scores(x)
    after, before = after[:, 0] - after[:, 1], before[:, 0] - before[:, 1]
    # What is left of a class counts by the covariance of now, not of then: close, not the same.
    assert before.abs().min() > 3
    torch.testing.assert_close(after, before, rtol=0.25, atol=1)
    loaded.learn(images(2, 6, seed=9000, names="plant "), progress=False)
    assert read.task_scores(x).shape == (6, 3)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("method", ["duallora", "lora+align", "slda"])
def test_an_older_model_that_has_learned_nothing_can_begin(version: int, method: str) -> None:
    learner = Learner.create("test_vit", method, pretrained=False, image_size=64, training=TRAINING)
    tensors: dict[str, torch.Tensor] = learner.method.state()
    if version < 4:
        tensors = {k: v for k, v in tensors.items() if ".tasks." not in k}
    d = learner.method.backbone.dim
    if version < 3:
        tensors["read.covariances.packed"] = torch.zeros(0, d * (d + 1) // 2)
    manifest: dict[str, object] = {"method": {"name": method, "options": {}}, "training": {}}
    for step in range(version, artefact.FORMAT_VERSION):
        tensors, manifest = MIGRATIONS[step](tensors, manifest)
    fresh = Learner.create("test_vit", method, pretrained=False, image_size=64, training=TRAINING).method
    fresh.load_state(tensors)
    assert len(fresh.rows) == 0


def test_one_image_in_whatever_form_is_one_image(images: Callable[..., ImageSet], tmp_path: Path) -> None:
    learner = Learner.create(method="ncm")
    learner.learn(images(2, 6), progress=False)
    tensor = images(2, 6).image(0)
    array = tensor.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "one.png")
    forms = [array, tensor, Image.fromarray(array), tmp_path / "one.png", str(tmp_path / "one.png")]
    (expected,) = learner.predict([array])
    for one in forms:
        for given in (one, [one]):
            (answer,) = learner.predict(given)
            assert answer.top == expected.top, type(one)
    assert len(learner.predict(np.stack([array, array]))) == 2
    assert learner.predict([]) == []


def test_what_cannot_be_asked(images: Callable[..., ImageSet]) -> None:
    learner = Learner.create(method="ncm")
    x, y = np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]
    learner.learn([x, y], progress=False)
    for options, said in (({"top": 0}, "top is 0, expected 1"), ({"batch_size": -1}, "batch_size is -1")):
        with pytest.raises(DualLoRAError, match=said):
            learner.predict(x, **options)
    with pytest.raises(DualLoRAError, match="int is no source of images"):
        learner.learn(3)
    with pytest.raises(DualLoRAError, match="no images to evaluate"):
        learner.evaluate(images(2, 4).subset([]))
    with pytest.raises(DualLoRAError, match="<int>: is no image"):
        learner.predict([3])


def test_a_model_that_another_has_saved_meanwhile_is_not_undone(
    tmp_path: Path, images: Callable[..., ImageSet]
) -> None:
    first = Learner.create(method="ncm")
    first.learn(images(2, 4), progress=False)
    first.save(tmp_path / "zoo")
    ours, theirs = Learner.load(tmp_path / "zoo"), Learner.load(tmp_path / "zoo")
    theirs.learn(images(1, 4, names="their "), progress=False)
    theirs.save(tmp_path / "zoo", overwrite=True)
    theirs.save(tmp_path / "zoo", overwrite=True)  # one's own last save is no stranger's
    ours.learn(images(1, 4, names="our "), progress=False)
    with pytest.raises(DualLoRAError, match="saved by somebody else since"):
        ours.save(tmp_path / "zoo", overwrite=True)
    ours.save(tmp_path / "other")
    assert Learner.load(tmp_path / "zoo").classes[-1] == "their 0"


@pytest.mark.parametrize(("method", "key"), [("duallora", "class_rank"), ("lora", "rank"), ("sora", "rank")])
def test_a_rank_above_the_width_is_refused(method: str, key: str) -> None:
    with pytest.raises(DualLoRAError, match=rf"{key} is 100000, more than the width 32 of backbone 'tiny'"):
        Learner.create("test_vit", method, config={key: 100_000}, pretrained=False, image_size=32)


def test_both_spellings_of_a_class_may_be_learned_further(tmp_path: Path) -> None:
    learner = Learner.create("test_vit", "ncm", pretrained=False, image_size=32)
    pixels = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    learner.learn((pixels, ["cat", "cat", "Cat", "dog"]), progress=False)
    for name in ("cat", "Cat"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(pixels[i].permute(1, 2, 0).numpy()).save(tmp_path / name / f"{i}.png")
        one = tmp_path / f"only {name}"
        one.mkdir()
        shutil.move(tmp_path / name, one / name)
        assert learner.learn(one, progress=False).classes == [name]
    with pytest.raises(DualLoRAError, match=r"did you mean 'dog' by 'dogs'\?"):
        learner.evaluate((pixels[:2], ["dogs", "cat"]))


def test_the_home_folder_may_be_written_short(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    learner = Learner.create(method="ncm")
    learner.learn(images(2, 4), progress=False)
    assert learner.save("~/zoo") == tmp_path / "zoo"
    assert Learner.load("~/zoo").classes == learner.classes


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "0", True])
def test_a_seed_that_is_none(seed: int) -> None:
    with pytest.raises(DualLoRAError, match=r"seed is .*; give a whole number from 0 to 4294967295"):
        Learner.create(method="ncm", seed=seed)


def test_weights_are_found_from_anywhere(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"")  # the backbone of this file's learners does not read it
    learner = Learner.create(method="ncm", weights="w.safetensors")
    learner.learn(images(2, 4), progress=False)
    learner.save("zoo")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Learner.load("../zoo").origin["weights"] == str(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(DualLoRAError, match="not there any more; give the file: weights=FILE, in a shell --weights"):
        Learner.load("../zoo")


def test_the_callers_random_numbers_go_on(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Learner.create("bundled", "probe", training=TRAINING)
    assert torch.equal(torch.rand(2), expected)


def test_a_name_of_a_task_is_looked_at_before_training(images: Callable[..., ImageSet]) -> None:
    learner = Learner.create("bundled", "ncm", training=TRAINING)
    learner.learn(images(2, 4), name="task 2", progress=False)
    with pytest.raises(DualLoRAError, match="has a task 'task 2' already"):
        learner.learn(images(2, 4, names="other "), name="task 2", progress=False)
    report = learner.learn(images(2, 4, names="other "), progress=False)
    assert report.task == "task 3"


def test_saving_undoes_nothing_that_came_while_the_model_was_read(
    tmp_path: Path, images: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner.create("bundled", "ncm", training=TRAINING)
    learner.learn(images(2, 4), progress=False)
    learner.save(tmp_path / "zoo")
    other = Learner.load(tmp_path / "zoo")
    other.learn(images(2, 4, names="other "), progress=False)
    read = artefact.load_artefact

    def slowly(folder: Path) -> object:
        held = read(folder)
        other.save(tmp_path / "zoo", overwrite=True)
        return held

    monkeypatch.setattr("duallora.learner.load_artefact", slowly)
    late = Learner.load(tmp_path / "zoo")
    late.learn(images(2, 4, names="third "), progress=False)
    with pytest.raises(DualLoRAError, match="saved by somebody else since"):
        late.save(tmp_path / "zoo", overwrite=True)

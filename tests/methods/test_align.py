"""Classifier alignment: its arithmetic by hand, the methods that carry it, saving and loading."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from duallora import Learner
from duallora.backbone import Backbone
from duallora.data import ImageSet
from duallora.errors import DualLoRAError
from duallora.methods import get_method, list_methods
from duallora.methods.align import AlignSettings, alignable, aligned_heads, faded, logit_normalised
from duallora.methods.rows import Rows
from tests_support import learn, take_a_step


def contract_suite() -> ModuleType:
    """The common contract's tests, as functions."""
    path = Path(__file__).with_name("test_contract.py")
    spec = importlib.util.spec_from_file_location("contract_of_aligned_methods", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTRACT = contract_suite()
CHECKS = (
    "test_it_answers_for_every_class_so_far",
    "test_every_readout_can_be_decoded",
    "test_a_saved_state_predicts_the_same_and_learns_on_the_same",
    "test_state_is_tensors_and_cost_is_their_size",
    "test_passes_per_image_are_those_that_the_first_block_sees",
    "test_features_of_several_levels_serve",
    "test_nothing_kept_grows_with_the_number_of_images",
    "test_the_backbone_stays_frozen",
    "test_bfloat16_gives_finite_scores_and_a_state_that_gives_the_same",
    "test_distance_tells_noise_from_what_was_learned",
)


@pytest.mark.parametrize("name", ["lora+align", "duallora+align", "probe+align"])
@pytest.mark.parametrize("check", CHECKS)
def test_an_aligned_method_keeps_the_contract(check: str, name: str, request: pytest.FixtureRequest) -> None:
    test = getattr(CONTRACT, check)
    fixtures = {p: request.getfixturevalue(p) for p in inspect.signature(test).parameters if p != "name"}
    test(name=name, **fixtures)


@pytest.mark.parametrize("name", [name for name in list_methods() if alignable(get_method(name))])
def test_every_method_that_trains_heads_apart_can_be_aligned(name: str, backbones: Callable[..., Backbone]) -> None:
    check = CONTRACT.test_a_saved_state_predicts_the_same_and_learns_on_the_same
    check(name=f"{name}+align", backbones=backbones)


def rows_of(*tasks: tuple[int, ...]) -> Rows:
    rows = Rows()
    for t, classes in enumerate(tasks):
        rows.add(t, classes)
    return rows


def test_logits_are_divided_by_the_mean_norm_of_the_tasks() -> None:
    """|(3, 4)| = 5 and |15| = 15 have mean 10; |(6, 8)| = 10 and |0| = 0 have mean 5; with 0.1 that is 1 and 0.5."""
    z = torch.tensor([[3.0, 4.0, 15.0], [6.0, 8.0, 0.0]])
    torch.testing.assert_close(logit_normalised(z, [2, 1], 0.1), torch.tensor([[3.0, 4, 15], [12, 16, 0]]))
    assert logit_normalised(z, [2, 1], None) is z


def test_means_of_older_tasks_fade() -> None:
    """With fade 0.3 over three tasks: factors 1 - 0.3 * 2/3, 1 - 0.3 * 1/3, 1."""
    found = faded(torch.ones(4, 1), [1, 2, 1], 0.3).flatten()
    torch.testing.assert_close(found, torch.tensor([0.8, 0.9, 0.9, 1.0]))


def test_the_descent_is_torch_s_sgd_with_a_half_cosine_per_epoch() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(3, 5), torch.randn(3), torch.randn(6, 5)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    settings = AlignSettings(epochs=4, batch_size=6, learning_rate=0.3, weight_decay=0.1)
    found = aligned_heads(weight, bias, [2, 1], rows_of((0, 1), (2,)), lambda: (x, y), settings)

    size = weight.square().sum(1).sqrt().mean()  # all heads by one factor: no answer changes, the rate means the same
    w, b = torch.nn.Parameter(weight / size), torch.nn.Parameter(bias / size)
    sgd = torch.optim.SGD([w, b], lr=0.3, momentum=0.9, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=4)
    for _ in range(4):
        z = x @ w.T + b
        n = (z[:, :2].square().sum(1).sqrt() + z[:, 2].abs()) / 2
        sgd.zero_grad()
        F.cross_entropy(z / n[:, None] / 0.1, y).backward()
        sgd.step()
        schedule.step()
    torch.testing.assert_close(found[0], w.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], b.data, rtol=1e-4, atol=1e-5)


def test_alignment_finds_the_discriminant_of_two_gaussians() -> None:
    """Two tasks of one class each, whose heads know nothing of each other; LDA's normal is Sigma^-1 (mu1 - mu0)."""
    torch.manual_seed(0)
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    factor = torch.tensor([[1.6, 0.0], [1.2, 1.0]])

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(2).repeat_interleave(2000)
        return means[y] + torch.randn(4000, 2) @ factor.T, y

    settings = AlignSettings(epochs=20, logit_norm=None, weight_decay=0, learning_rate=0.1)
    weight, bias = torch.tensor([[-3.0, 0.0], [0.5, 0.5]]), torch.tensor([2.0, 0.0])
    w, b = aligned_heads(weight, bias, [1, 1], rows_of((0,), (1,)), draw, settings)
    normal = np.linalg.solve((factor @ factor.T).numpy(), np.array([-1.0, 1.0]))
    np.testing.assert_allclose((w[1] - w[0]).numpy(), normal, rtol=0.15)
    # the boundary passes through the middle of the means
    assert abs(float((w[1] - w[0]) @ means.mean(0) + b[1] - b[0])) < 0.2


def test_rows_of_one_class_do_not_compete() -> None:
    """The same single class in two tasks: there is nothing to tell apart, so nothing moves."""
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 3), torch.randn(2)
    x, y = torch.randn(8, 3), torch.tensor([0, 1] * 4)
    settings = AlignSettings(weight_decay=0, batch_size=4, rescale=False)
    w, b = aligned_heads(weight, bias, [1, 1], rows_of((0,), (0,)), lambda: (x, y), settings)
    assert torch.equal(w, weight)
    assert torch.equal(b, bias)


def test_training_and_the_other_readouts_are_those_of_the_method_alone(backbones: Callable[..., Backbone]) -> None:
    """The draws come after the training of a task, which starts from a seed of its own."""
    outputs = []
    for name in ("lora", "lora+align"):
        kind = get_method(name)
        torch.manual_seed(0)
        method = kind(backbones(), kind.Config(rank=2))
        for t, classes in enumerate([(0, 1), (2, 3)]):
            torch.manual_seed(t)
            learn(method, t, torch.randn(12, 3, 16, 16), classes, take_a_step)
        x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        encoding = method.encode_for(x, method.readouts)
        outputs.append([method.decode(encoding, r).rows for r in ("heads", "gaussian")])
        last = method.decode(encoding).rows
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert not torch.equal(last, outputs[1][0])


def test_the_ridge_widens_what_is_drawn(backbone: Backbone) -> None:
    kind = get_method("probe+align")
    method = kind(backbone, kind.Config(align={"samples": 20000, "ridge": 4.0, "fade": 0.0, "epochs": 1}))
    x = [torch.randn(80, 3, 16, 16, generator=torch.Generator().manual_seed(t)) for t in range(2)]
    for t, classes in enumerate([(0, 1), (2, 3)]):
        learn(method, t, x[t], classes)
    own = method.encode(x[1]).features[torch.arange(80) % 2 == 0, : backbone.dim].detach().double()
    drawn, rows = method._drawing([2, 2], torch.device("cpu"))()
    expected = np.cov(own.numpy().T) + 4.0 * np.eye(backbone.dim)
    np.testing.assert_allclose(np.cov(drawn[rows == 2].double().numpy().T), expected, atol=0.15)


@pytest.mark.parametrize("covariance", ["class", "shared"])
def test_drawn_features_have_each_class_s_mean_and_covariance(covariance: str, backbone: Backbone) -> None:
    kind, spread = get_method("probe+align"), (0.1, 1.0, 0.4, 0.4)
    settings = {"covariance": covariance, "samples": 20000, "ridge": 0.0, "fade": 0.5, "epochs": 1}
    method, features, labels = kind(backbone, kind.Config(align=settings)), [], []
    for t, classes in enumerate([(0, 1), (2, 3)]):
        y = torch.tensor(classes).repeat(40)
        x = (
            torch.randn(80, 3, 16, 16, generator=torch.Generator().manual_seed(t))
            * torch.tensor(spread)[y][:, None, None, None]
        )
        learn(method, t, x, classes)
        features.append(method.encode(x).features[:, : backbone.dim].detach().double())
        labels.append(y)
    x, y = torch.cat(features), torch.cat(labels)
    torch.manual_seed(0)
    drawn, rows = method._drawing([2, 2], torch.device("cpu"))()
    shared = method.read.gaussians.covariance().numpy()[: backbone.dim, : backbone.dim]
    for row in range(4):
        own, found = x[y == row].numpy(), drawn[rows == row].double().numpy()
        expected = np.cov(own.T) if covariance == "class" else shared
        fade = (0.75, 0.75, 1, 1)[row]  # with fade 0.5 the first of two tasks' means are drawn a quarter of the way
        size = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        np.testing.assert_allclose(np.cov(found.T) / size, expected / size, atol=0.05)
        np.testing.assert_allclose(found.mean(0), fade * own.mean(0), atol=0.05 * np.sqrt(expected.diagonal().max()))


@pytest.mark.parametrize("covariance", ["class", "shared"])
def test_heads_that_shout_are_brought_into_line(covariance: str, backbone: Backbone) -> None:
    """One task's head is scaled up, so that all answers are of that task; alignment brings the other one back."""
    kind = get_method("probe+align")
    torch.manual_seed(0)
    method = kind(backbone, kind.Config(head_init="gaussian", align={"covariance": covariance, "epochs": 20}))
    patterns = torch.randn(4, 3, 16, 16) * 2
    tasks = [(0, 1), (2, 3)]
    x, y = [], []
    for t, classes in enumerate(tasks):
        labels = torch.tensor([classes[i % 2] for i in range(80)])
        images = patterns[labels] + 0.3 * torch.randn(80, 3, 16, 16)
        shout = (lambda m: m.read.heads.biases[-1].data.add_(2500)) if t else (lambda m: None)
        learn(method, t, images, classes, shout)
        x, y = [*x, images], [*y, labels]
    encoding = method.encode(torch.cat(x))

    def right(readout: str) -> float:
        rows = method.decode(encoding, readout).rows
        return float((method.rows.class_scores(rows).argmax(1) == torch.cat(y)).float().mean())

    assert right("heads") <= 0.5
    assert right("align") > 0.9
    plain = get_method("probe")(backbone, get_method("probe").Config())
    extra = {key for key in method.state() if not key.startswith("align.")} - set(plain.state())
    drawn_with = {"class": {"read.covariances.packed"}, "shared": set()}[covariance]  # means are the read-out's
    assert extra - {"read.heads.weight", "read.heads.bias"} == drawn_with


def test_answers_are_normalised_and_the_next_alignment_starts_from_the_heads_as_trained(backbone: Backbone) -> None:
    kind = get_method("probe+align")
    method = kind(backbone, kind.Config(align={"epochs": 0, "logit_norm": 0.2, "rescale": False}))
    for t in range(3):
        learn(method, t, torch.randn(8, 3, 16, 16), (2 * t, 2 * t + 1), take_a_step)
        with torch.no_grad():  # what an alignment would have left; the next one is not to see it
            for parameter in method.aligned.parameters():
                parameter.fill_(9.0)
    heads = method.read.heads.state()
    learn(method, 3, torch.randn(8, 3, 16, 16), (6, 7), take_a_step)
    assert torch.equal(method.aligned.state()["weight"][:6], heads["weight"])
    encoding = method.encode(torch.randn(3, 3, 16, 16))
    z = encoding.features[:, : backbone.dim] @ method.aligned.state()["weight"].T + method.aligned.state()["bias"]
    norms = torch.stack([part.norm(dim=1) for part in z.split(2, 1)]).mean(0)
    torch.testing.assert_close(method.decode(encoding, "align").rows, z / (0.2 * norms[:, None]), rtol=1e-4, atol=1e-5)


def test_saved_and_loaded_by_name(
    tmp_path: Path,
    images: Callable[..., ImageSet],
    monkeypatch: pytest.MonkeyPatch,
    backbones: Callable[..., Backbone],
) -> None:
    monkeypatch.setattr("duallora.learner.load_backbone", lambda name, **kw: backbones())
    config = {"rank": 2, "align": {"epochs": 3, "samples": 16}}
    learner = Learner.create(method="lora+align", config=config, training={"epochs": 1, "batch_size": 8})
    for t in range(2):
        learner.learn(images(2, 8, seed=1000 * t, names="ab"[t]), progress=False)
    learner.save(tmp_path / "zoo")
    loaded = Learner.load(tmp_path / "zoo")
    assert (loaded.method.name, loaded.method.readout) == ("lora+align", "align")
    assert loaded.method.config == learner.method.config
    for each in (learner, loaded):
        each.learn(images(2, 8, seed=3000, names="c"), progress=False)
    kept = learner.method.state()
    assert all(torch.equal(v, loaded.method.state()[k]) for k, v in kept.items())
    assert len(kept["align.bias"]) == 6


def test_names_are_parsed() -> None:
    kind = get_method("lora+align")
    assert kind is get_method("lora+align")  # one class, not one per call
    assert kind.recommended == get_method("lora").recommended
    assert not any(name.endswith("+align") for name in list_methods())
    with pytest.raises(DualLoRAError, match="did you mean 'lora'"):
        get_method("lor+align")
    for name in ("slda", "ncm", "joint", "slca", "lora+align"):
        with pytest.raises(DualLoRAError, match=r"cannot carry '\+align'.*These serve: .*lora\+align"):
            get_method(f"{name}+align")
    with pytest.raises(DualLoRAError, match=r"unknown key 'align.epoch'; did you mean 'epochs'"):
        Learner.create(method="lora+align", config={"align": {"epoch": 3}})

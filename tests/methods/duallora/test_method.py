"""DualLoRA as a whole: what it protects, folds, gates, reports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duallora.backbone import Backbone
from duallora.methods.base import TaskInfo
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.method import DualLoRA
from duallora.methods.duallora.site import DualLinear
from tests_support import learn


def disturbed(method: DualLoRA) -> None:
    """Stand in for training: random factors of what would train."""
    for parameter in method.trainable():
        torch.nn.init.normal_(parameter, std=0.1)


def sites(method: DualLoRA) -> list[DualLinear]:
    return list(method.sites)


def test_features_of_a_protected_task_do_not_move_in_a_one_block_network(backbones: Callable[..., Backbone]) -> None:
    """Invariant 8: the class-attention feature and the value update of old images stay.

    Residual off, eps = 1, one block.
    """
    method = DualLoRA(backbones(depth=1), DualLoRAConfig(residual="none", energy=1.0, reserve=0, carry=False))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    learn(method, 0, images, (0, 1), disturbed)
    before = method.encode(images).features
    other = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    learn(method, 1, other, (2, 3), disturbed)
    change = float((method.encode(images).features - before).abs().max())
    moved = DualLoRA(backbones(depth=1), DualLoRAConfig(residual="none", energy=0.01, reserve=0, carry=False))
    learn(moved, 0, images, (0, 1), disturbed)
    start = moved.encode(images).features
    learn(moved, 1, other, (2, 3), disturbed)
    free = float((moved.encode(images).features - start).abs().max())
    assert change < 1e-4 < free
    assert change < free / 100


def test_bases_are_mutually_orthogonal_and_capacity_grows(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(energy=0.9, reserve=2))
    last = [0.0, 0.0]
    for t in range(4):
        images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(t))
        learn(method, t, images, (t,), disturbed)
        for site in sites(method):
            gram = site.bases.Phi.T @ site.bases.Phi
            torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
        assert all(new >= old for new, old in zip(method.capacity, last, strict=True))
        assert max(method.capacity) <= 30 / 32
        last = method.capacity


SLOW = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLACEMENTS = st.sets(st.sampled_from(["query", "key", "value", "proj"]), min_size=1).map(lambda s: tuple(sorted(s)))
BFLOAT16 = 0.05  # a few of its steps of 2^-8, of features of size 1: what a fold may move under bfloat16


@SLOW
@given(PLACEMENTS, st.integers(1, 6), st.integers(0, 10**6), st.booleans())
def test_folding_changes_no_output(
    backbones: Callable[..., Backbone], placement: tuple[str, ...], images: int, seed: int, half: bool
) -> None:
    """Invariant 5: not beyond rounding, in float32 and, to the tolerance above, in bfloat16."""
    method = DualLoRA(backbones(), DualLoRAConfig(residual="none", placement=placement, carry=False))
    x = torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    during = []

    def features() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return method.encode(x).features.float()

    torch.manual_seed(seed)
    learn(method, 0, x, (0,), lambda m: (disturbed(m), during.append(features())))
    tolerance = BFLOAT16 if half else 1e-5
    torch.testing.assert_close(features(), during[0], atol=tolerance, rtol=tolerance)


def gated(backbone: Backbone, gate: str, seed: int = 0, tasks: int = 3) -> DualLoRA:
    method = DualLoRA(backbone, DualLoRAConfig(residual="maps", gate=gate, energy=0.8, carry=False))
    torch.manual_seed(seed)
    for t in range(tasks):
        images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed + t))
        learn(method, t, images, (2 * t, 2 * t + 1), disturbed)
    return method


@SLOW
@given(st.integers(0, 10**6), st.integers(2, 4))
def test_gates_at_one_are_the_static_model_and_at_zero_the_orthogonal_one(
    backbones: Callable[..., Backbone], seed: int, tasks: int
) -> None:
    """Invariant 4, through the whole network."""
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(seed + 9))
    method = gated(backbones(), "basis", seed, tasks)
    features = {}
    for kind in (torch.ones, torch.zeros):

        def same_for_all(
            rho: torch.Tensor, gate: str, basis: str, fill: Callable[..., torch.Tensor] = kind
        ) -> torch.Tensor:
            return fill(len(rho), rho.shape[1] + 1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{DualLinear.__module__}.gates_of", same_for_all)
            features[kind] = method.encode(images).features
    merged = [(s, rows, s.residual[name].merged()) for s in sites(method) for name, rows in s.rows.items()]
    for s in sites(method):
        for name in s.rows:
            s.residual[name].B.zero_()
    orthogonal = method.encode(images).features
    torch.testing.assert_close(features[torch.zeros], orthogonal, atol=1e-5, rtol=1e-5)
    for s, (first, width), update in merged:
        s.base.weight.data[first : first + width] += update
    torch.testing.assert_close(features[torch.ones], method.encode(images).features, atol=1e-4, rtol=1e-4)
    assert float((features[torch.ones] - orthogonal).abs().max()) > 1e-3


@SLOW
@given(
    st.sampled_from(["class", "maps", "both", "none"]),
    st.booleans(),
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.integers(0, 10**6),
)
def test_a_round_trip_changes_neither_answers_nor_what_is_learned_next(
    backbones: Callable[..., Backbone], residual: str, orthogonal: bool, sizes: list[int], seed: int
) -> None:
    """Invariant 7."""
    config = DualLoRAConfig(residual=residual, orthogonal=orthogonal, energy=0.8)

    def task(method: DualLoRA, t: int, classes: int) -> None:
        first = sum(sizes[:t])
        torch.manual_seed(seed + t)
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed + t))
        learn(method, t, images, tuple(range(first, first + classes)), disturbed)

    method = DualLoRA(backbones(), config)
    for t, classes in enumerate(sizes):
        task(method, t, classes)
    loaded = DualLoRA(backbones(), config)
    loaded.load_state({k: v.clone() for k, v in method.state().items()})
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    for after in (False, True):
        if after:
            for each in (method, loaded):
                task(each, len(sizes), 2)
        ours, theirs = (m.encode_for(x, m.readouts) for m in (method, loaded))
        for readout in method.readouts:
            assert torch.equal(method.decode(ours, readout).rows, loaded.decode(theirs, readout).rows)


@pytest.mark.parametrize("gate", ["off", "basis", "task", "posterior"])
@pytest.mark.parametrize("residual_basis", ["previous", "own", "all"])
def test_every_residual_variant_learns_predicts_and_survives_a_save(
    backbones: Callable[..., Backbone], gate: str, residual_basis: str
) -> None:
    config = DualLoRAConfig(residual="maps", gate=gate, residual_basis=residual_basis, readout="energy", energy=0.7)
    method = DualLoRA(backbones(), config)
    for t in range(3):
        learn(method, t, torch.randn(6, 3, 16, 16), (2 * t, 2 * t + 1), disturbed)
    x = torch.randn(4, 3, 16, 16)
    encoding = method.encode_for(x, method.readouts)
    outputs = {r: method.decode(encoding, r).rows for r in method.readouts}
    assert all(torch.isfinite(o).all() and o.shape == (4, 6) for o in outputs.values())
    other = DualLoRA(backbones(), config)
    other.load_state(method.state())
    again = other.encode_for(x, other.readouts)
    for r in method.readouts:
        assert torch.equal(other.decode(again, r).rows, outputs[r])
    assert any(site.has_residual for site in sites(method))


@pytest.mark.parametrize("feature", ["class_attention", "all_tokens", "per_head"])
def test_features_without_a_class_token(backbones: Callable[..., Backbone], feature: str) -> None:
    method = DualLoRA(backbones(class_token=False), DualLoRAConfig(residual="both", feature=feature, gate="basis"))
    for t in range(2):
        learn(method, t, torch.randn(5, 3, 16, 16), (t,), disturbed)
    assert torch.isfinite(method(torch.randn(2, 3, 16, 16)).rows).all()


def test_lambda_zero_leaves_the_heads_bit_identical(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(readout="energy", calibration=0.0))
    for t in range(2):
        learn(method, t, torch.randn(5, 3, 16, 16), (t, t + 2), disturbed)
    encoding = method.encode(torch.randn(3, 3, 16, 16))
    assert torch.equal(method.decode(encoding, "energy").rows, method.decode(encoding, "heads").rows)


def test_a_full_network_says_so_and_goes_on(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(energy=1.0, reserve=0))
    for t in range(3):
        learn(method, t, torch.randn(20, 3, 16, 16), (t,), disturbed)
    assert min(method.capacity) >= 31 / 32  # a normalised token has mean zero: one direction is used by rounding only
    assert torch.isfinite(method(torch.randn(2, 3, 16, 16)).rows).all()
    tight = DualLoRA(type(backbone)(*fresh(backbone)), DualLoRAConfig(energy=1.0, reserve=8, first_rate=None))
    learn(tight, 0, torch.randn(20, 3, 16, 16), (0, 1), disturbed)
    assert "full" in tight.log.notes[0]
    assert "Lower `energy`" in tight.log.notes[0]


def fresh(backbone: Backbone) -> tuple[torch.nn.Module, str, object]:
    """The parts of another tiny backbone."""
    from duallora.backbone.bundled import build

    shape = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return build(shape), "tiny", backbone.preprocessing


@pytest.mark.parametrize("count", [1, 2])
def test_one_image_one_class_and_duplicates(backbone: Backbone, count: int) -> None:
    method = DualLoRA(backbone, DualLoRAConfig())
    for t in range(3):
        learn(method, t, torch.randn(1, 3, 16, 16).expand(count, -1, -1, -1), (t,), disturbed)
    assert torch.isfinite(method(torch.randn(2, 3, 16, 16)).rows).all()
    assert all(0 < c < 1 for c in method.capacity)


def test_first_task_may_be_bolder(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(rank=2, first_rank=6))
    ranks = []
    for t in range(2):
        learn(
            method, t, torch.randn(4, 3, 16, 16), (t,), lambda m: ranks.append(len(sites(m)[0].orthogonal["value"].Z))
        )
    assert ranks == [6, 2]


@pytest.mark.parametrize(("first", "expected"), [(None, [0.1, 0.1]), (2.0, [2.0, 0.1])])
def test_first_task_may_train_faster(backbone: Backbone, first: float | None, expected: list[float]) -> None:
    method = DualLoRA(backbone, DualLoRAConfig(rank=2, first_rate=first, first_share=0.5))
    rates: list[float] = []

    def training(m: DualLoRA) -> None:
        group = m.groups()[0]
        rates.extend([group.rate] if group.parameters else [])  # none in the stage after the network's own

    for t in range(2):
        learn(method, t, torch.randn(4, 3, 16, 16), (t,), training)
    assert rates == expected


def test_the_head_of_a_first_session_starts_at_random(backbone: Backbone) -> None:
    """A head that is right at once leaves the network nothing to learn from; later it starts as the discriminant."""
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    starts: list[float] = []

    def note(method: DualLoRA) -> None:
        logits = method.read.heads.newest(method.encode_for(x, ("gaussian",)).features)
        starts.append(logits.detach().abs().max().item())

    for first in (2.0, None):
        method = DualLoRA(backbone, DualLoRAConfig(first_rate=first, first_share=0.5))
        ahead = []
        for t in range(2):
            batches = [(x, torch.arange(8) % 2 + 2 * t)]
            method.begin_task(TaskInfo(t, (2 * t, 2 * t + 1), 8), batches)
            method.begin_stage(0, batches)
            ahead.append(method.looks_ahead)
            note(method)
            method.end_task(batches)
        assert ahead == [first is None, True]
        backbone = Backbone(*fresh(backbone))  # type: ignore[arg-type]
    bold, later, gentle, _ = starts
    assert bold < 1 < min(later, gentle)
    alone = DualLoRA(backbone, DualLoRAConfig(orthogonal=False))
    assert alone.capacity is None  # nothing is kept from any direction
    alone.begin_task(TaskInfo(0, (0, 1), 8), [(x, torch.arange(8) % 2)])
    alone.begin_stage(0, [])
    assert alone.looks_ahead  # without the orthogonal adapter the network stays as it came


def test_a_class_whose_images_are_all_missing_does_not_spoil_the_others(backbone: Backbone) -> None:
    method = DualLoRA(backbone, DualLoRAConfig())
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batches = [(x, torch.zeros(8, dtype=torch.int64))]
    method.begin_task(TaskInfo(0, (0, 1), 8), batches)
    method.begin_stage(0, batches)
    assert torch.isfinite(method.loss(*batches[0]))
    method.end_task(batches)
    for readout in method.readouts:
        scores = method.decode(method.encode_for(x, method.readouts), readout).rows
        assert scores.argmax(1).eq(0).all() or readout in ("heads", "energy", "tasks")
        assert not scores.isnan().any()

"""One contract for every registered method."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save

from duallora.backbone import Backbone
from duallora.errors import DualLoRAError
from duallora.methods import Method, get_method, list_methods
from tests_support import infos, learn, take_a_step

OPTIONS: dict[str, dict[str, object]] = {  # that make another method of one
    "lora, sparse": {"sparse": True},
    "sdlora, as coded": {"norm": "factors", "current": "plain", "magnitude": 0.8, "restart": True},
}
METHODS = [*list_methods(), "inflora+align", *OPTIONS]  # and one that carries classifier alignment


def kind_of(name: str) -> type[Method]:
    return get_method(name.partition(",")[0])


def made(name: str, backbone: Backbone, seed: int = 0) -> Method:
    kind = kind_of(name)
    torch.manual_seed(seed)
    return kind(backbone, kind.Config(**OPTIONS.get(name, {})))


def images(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


TASKS = [(0, 1), (2,), (3, 4, 5), (1, 6)]  # uneven, a task of one class, a class that comes again


def taught(name: str, backbone: Backbone, count: int = len(TASKS), seed: int = 0) -> Method:
    method = made(name, backbone)
    for t, classes in enumerate(TASKS[:count]):
        learn(method, t, images(4 * len(classes), seed + t), classes, take_a_step, members=tuple(TASKS[: t + 1]))
    return method


@pytest.mark.parametrize("name", METHODS)
def test_it_answers_for_every_class_so_far(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone)
    output = method(images(3, 99))
    assert output.rows.shape == (3, len(method.rows))
    scores = method.rows.class_scores(output.rows)
    assert scores.shape == (3, 7)
    assert torch.isfinite(scores).all()
    assert method.rows.members == TASKS


@pytest.mark.parametrize("name", METHODS)
def test_every_readout_can_be_decoded(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 2)
    encoding = method.encode_for(images(3, 98), method.readouts)
    shown = set()
    for readout in method.readouts:
        assert method.decode(encoding, readout).rows.shape == (3, 3)
        shown.add(method.displayed(readout))
    assert len(shown) == len(method.readouts)
    assert name.partition(",")[0] in shown


@pytest.mark.parametrize("name", METHODS)
def test_a_saved_state_predicts_the_same_and_learns_on_the_same(name: str, backbones: Callable[..., Backbone]) -> None:
    """Invariant 7, and after a class has come again too; through the bytes of a file."""
    for count in (2, len(TASKS)):
        method = taught(name, backbones(), count)
        other = made(name, backbones(), seed=123)  # nothing that is drawn may be left out of the state
        other.load_state(load(save({k: v.contiguous() for k, v in method.state().items()})))
        x, tasks = images(5, 97), (*TASKS[:count], (7, 8, 0))
        assert torch.equal(method(x).rows, other(x).rows)
        for m in (method, other):
            torch.manual_seed(5)
            learn(m, count, images(12, 2), tasks[-1], take_a_step, members=tasks)
        for readout in method.readouts:
            mine, theirs = (m.decode(m.encode_for(x, m.readouts), readout).rows for m in (method, other))
            torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_the_first_task_may_be_one_class_and_come_again(name: str, backbone: Backbone) -> None:
    tasks, method = ((0,), (1, 2), (0, 3)), made(name, backbone)
    for t, classes in enumerate(tasks):
        learn(method, t, images(4 * len(classes), t), classes, take_a_step, members=tasks[: t + 1])
    scores = method.rows.class_scores(method(images(3, 95)).rows)
    assert scores.shape == (3, 4)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", METHODS)
def test_no_image_is_kept_anywhere(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 3, seed=50)  # not the seed that methods draw their own numbers from
    if method.cumulative:
        return  # keeps none itself: it is given all of them each time
    del method.batch  # the tests' own
    gc.collect()
    pixels = [p for t, c in enumerate(TASKS[:3]) for p in images(4 * len(c), 50 + t).flatten(1)]

    def shows(tensor: torch.Tensor) -> bool:
        """Whether any image's pixels stand in it one after another, as flattened or stacked images would have them."""
        numbers = {round(x, 6) for x in tensor.detach().float().flatten().tolist()}
        return any({round(x, 6) for x in p[:50].tolist()} <= numbers for p in pixels)

    gc.collect()
    alive = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor) and t.is_floating_point()]
    own = {id(p) for p in pixels} | {id(p._base) for p in pixels}
    assert any(shows(t) for t in pixels)
    assert not [t.shape for t in alive if id(t) not in own and t.numel() >= 768 and shows(t)]
    assert not [key for key, tensor in method.state().items() if tensor.numel() >= 768 and shows(tensor)]


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_state_of_it_is_refused(name: str, backbones: Callable[..., Backbone]) -> None:
    method = taught(name, backbones(), 2)
    whole = method.state()
    for key in whole:
        with pytest.raises(DualLoRAError):
            made(name, backbones()).restore({k: v for k, v in whole.items() if k != key})
        with pytest.raises(DualLoRAError):
            made(name, backbones()).restore(whole | {key: whole[key].unsqueeze(0)})
    with pytest.raises(DualLoRAError, match=r"holds 'stray', which this method does not know"):
        made(name, backbones()).restore(whole | {"stray": torch.zeros(1)})
    with pytest.raises(DualLoRAError, match="has learned already"):
        method.restore(whole)
    fresh = made(name, backbones())
    fresh.restore({k: v.clone() for k, v in whole.items()})
    assert torch.equal(fresh(images(3, 96)).rows, method(images(3, 96)).rows)


@pytest.mark.parametrize("name", METHODS)
def test_state_is_tensors_and_cost_is_their_size(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 2)
    state = method.state()
    assert all(isinstance(v, torch.Tensor) and not v.requires_grad for v in state.values())
    assert method.cost().bytes_kept == sum(v.numel() * v.element_size() for v in state.values())
    header = len(save({k: v.contiguous().clone() for k, v in state.items()})) - method.cost().bytes_kept
    assert 8 <= header <= 8 + 200 * (len(state) + 1)  # what a file of them takes besides
    assert (method.cost().images_kept > 0) == method.cumulative  # only the upper bound keeps images


@pytest.mark.parametrize("name", METHODS)
def test_passes_per_image_are_those_that_the_first_block_sees(name: str, backbone: Backbone) -> None:
    method = taught(name, backbone, 2)
    seen = []
    handle = backbone.vit.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    method(images(4, 94))
    handle.remove()
    assert method.cost().passes_per_image == sum(seen) / 4


@pytest.mark.parametrize("name", METHODS)
def test_features_of_several_levels_serve(name: str, backbones: Callable[..., Backbone]) -> None:
    """Read-outs, save and load, cost, where a backbone gives more features than a token is wide: the usual case."""
    method, other = taught(name, backbones(levels=2), 2), made(name, backbones(levels=2))
    assert method.backbone.features > method.backbone.dim
    other.load_state({k: v.clone() for k, v in method.state().items()})
    for m in (method, other):
        torch.manual_seed(5)
        learn(m, 2, images(8, 2), TASKS[3], take_a_step, members=(*TASKS[:2], TASKS[3]))
    x = images(4, 93)
    encoding, again = (m.encode_for(x, m.readouts) for m in (method, other))
    for readout in method.readouts:
        rows = method.decode(encoding, readout).rows
        assert rows.shape == (4, len(method.rows))
        assert torch.isfinite(rows).all()
        torch.testing.assert_close(rows, other.decode(again, readout).rows, atol=0, rtol=0)
    assert method.cost().bytes_kept == sum(v.numel() * v.element_size() for v in method.state().values())


@pytest.mark.parametrize("name", METHODS)
def test_a_domain_may_lack_a_class(name: str, backbone: Backbone) -> None:
    """As DomainNet's do: the class is answered for by the rows of other domains, and nothing is spoilt."""
    method = made(name, backbone)
    for t, count in enumerate((6, 2, 6)):  # two images for three classes in the second domain
        learn(method, t, images(count, t), (0, 1, 2), take_a_step, members=((0, 1, 2),) * (t + 1))
    encoding = method.encode_for(images(4, 92), method.readouts)
    for readout in method.readouts:
        output = method.decode(encoding, readout)
        assert torch.isfinite(method.rows.class_scores(output.rows)).all()
        assert not method.rows.task_scores(output.rows).isnan().any()


@pytest.mark.parametrize("name", METHODS)
def test_nothing_kept_grows_with_the_number_of_images(name: str, backbones: Callable[..., Backbone]) -> None:
    sizes = []
    for n in (8, 40):
        method = made(name, backbones())
        # the same few images again and again: their span, and with it the bases, is the same
        learn(method, 0, images(8, 0).repeat(n // 8, 1, 1, 1), (0, 1), members=((0, 1),))
        sizes.append(method.cost().bytes_kept)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", METHODS)
def test_one_thread_or_two_come_to_the_same(name: str, backbones: Callable[..., Backbone]) -> None:
    """To rounding: the number of threads decides in which order sums are taken."""
    before, rows = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            rows.append(taught(name, backbones(), 2)(images(5, 91)).rows)
    finally:
        torch.set_num_threads(before)
    rows = [r.detach() for r in rows]
    scale = float(rows[0].abs().max())
    torch.testing.assert_close(rows[0] / scale, rows[1] / scale, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", METHODS)
def test_it_has_a_loss_where_something_trains(name: str, backbone: Backbone) -> None:
    method = made(name, backbone)
    method.begin_task(infos(0, (0, 1), 4, ((0, 1),)), [(images(4, 0), torch.tensor([0, 1, 0, 1]))])
    x = images(4, 0)
    if not method.trainable():
        with pytest.raises(RuntimeError, match="nothing of it trains"):
            method.loss(x, torch.tensor([0, 1, 0, 1]))
    else:
        features = method.encode(x).features.detach() if method.cached else x
        assert method.loss(features, torch.tensor([0, 1, 0, 1])).requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_of_a_batch_is_the_mean_over_its_images(name: str, backbone: Backbone) -> None:
    """Each image with its own label: a loss that mixed them up would still fall."""
    method = taught(name, backbone, 1)
    classes = (2, 3, 4)
    x, y = images(3, 1), torch.tensor(classes)
    method.begin_task(infos(1, classes, 3, (TASKS[0], classes)), [(x, y)])
    if not method.trainable():
        return
    if method.cumulative:
        y = torch.arange(3)
    with torch.no_grad():
        for parameter in method.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(7)), alpha=0.05)
    method.after_step()
    x = method.encode(x).features.detach() if method.cached else x
    each = torch.stack([method.loss(x[i : i + 1], y[i : i + 1]).detach() for i in range(3)]).mean()
    torch.testing.assert_close(method.loss(x, y).detach(), each, rtol=1e-4, atol=1e-6)
    assert not torch.isclose(method.loss(x, y.flip(0)).detach(), each, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [m for m in METHODS if not kind_of(m).cached])
def test_labels_may_be_shares(name: str, backbones: Callable[..., Backbone]) -> None:
    """Of blended images: sure shares are as good as indices; otherwise the loss is between those of the two labels."""
    one, other = torch.tensor([2, 3, 2, 3]), torch.tensor([3, 3, 2, 2])
    shares = F.one_hot(one, 5).float(), 0.75 * F.one_hot(one, 5) + 0.25 * F.one_hot(other, 5)
    losses = []
    for labels in (one, shares[0], shares[1], other):
        torch.manual_seed(3)
        method = made(name, backbones())
        learn(method, 0, images(6, 0), (0, 1, 4), take_a_step, members=((0, 1, 4),))
        method.begin_task(infos(1, (3, 2), 4, ((0, 1, 4), (3, 2))), [(images(4, 1), one)])
        if not method.trainable():
            return
        losses.append(method.loss(images(4, 1), labels).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # Only cross-entropy looks at labels, and it is linear in the shares.
    assert losses[2] == pytest.approx(0.75 * losses[0] + 0.25 * losses[3], rel=1e-4)


@pytest.mark.parametrize("name", [m for m in METHODS if kind_of(m).frozen])
def test_the_backbone_stays_frozen(name: str, backbone: Backbone) -> None:
    method = made(name, backbone)
    method.begin_task(infos(0, (0, 1), 8, ((0, 1),)), [])
    inner = {id(p) for n, p in method.named_parameters() if ".base." in n or "patch_embed" in n or ".mlp." in n}
    assert not inner & {id(p) for p in method.trainable()}
    assert all(p.requires_grad for p in method.trainable())


def test_a_new_head_is_where_the_network_is(backbone: Backbone) -> None:
    """Also where nothing that follows would move it, such as training for no epoch."""
    method = made("probe", backbone).to("meta")
    method.begin_task(infos(0, (0, 1), 8, ((0, 1),)), [])
    assert {p.device.type for p in method.parameters()} == {"meta"}


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_gives_finite_scores_and_a_state_that_gives_the_same(
    name: str, backbones: Callable[..., Backbone]
) -> None:
    method, other = made(name, backbones()), made(name, backbones())
    for t, classes in enumerate(TASKS):
        with torch.autocast("cpu", torch.bfloat16):
            learn(method, t, images(4 * len(classes), t), classes, take_a_step, members=tuple(TASKS[: t + 1]))
    other.load_state({k: v.clone() for k, v in method.state().items()})
    with torch.autocast("cpu", torch.bfloat16):  # anew: weights stay converted as long as it lasts
        found = method(images(3, 96)).rows
        assert torch.isfinite(found).all()
        assert torch.equal(other(images(3, 96)).rows, found)


@pytest.mark.parametrize("name", [m for m in METHODS if kind_of(m).readouts != ("default",)])
def test_distance_tells_noise_from_what_was_learned(name: str, backbone: Backbone) -> None:
    method = made(name, backbone)
    x = images(1, 0) + 0.05 * images(64, 1)
    learn(method, 0, x, (0, 1), members=((0, 1),))
    near, far = method(x).distance, method(images(16, 95) * 5).distance
    assert (near <= 1).float().mean() > 0.9
    assert far.min() > near.median()


SGD = {"optimizer": "sgd", "weight_decay": 5e-4, "clip": 1e6}
CONSTANT = {"schedule": "constant", "warmup": 0.0}
ALIGN = {"epochs": 5, "samples": 256, "batch_size": 256, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
ALIGN |= {"logit_norm": 0.1, "ridge": 1e-4, "fade": 0.1}
MAPS = ("query", "key", "value", "proj")
PUBLISHED: dict[str, tuple[dict[str, object], dict[str, object]]] = {  # of the papers or scripts: training, and options
    "inflora": ({"learning_rate": 5e-4, "epochs": 20}, {"rank": 10, "lamb": 0.95, "placement": ("key", "value")}),
    "sdlora": (
        {"learning_rate": 8e-3, "epochs": 20},
        {"rank": 10, "magnitude": 1.0, "norm": "product", "placement": ("query", "value")},
    ),
    "sora": (
        {"learning_rate": 8e-4, "epochs": 20},
        {"placement": MAPS, "rank": 8, "scale": 2.0, "xi": 3e-4, "gate_penalty": 10.0, "threshold": "prox"},
    ),
    "codaprompt": ({"learning_rate": 1e-3, "epochs": 20}, {"components": 10, "length": 8, "orthogonality": 0.0}),
    "l2p": (
        CONSTANT | {"learning_rate": 7.5e-3},
        {"pool": 10, "length": 5, "top": 5, "key_loss": 1.0, "pooled": "prompts"},
    ),
    "dualprompt": (
        CONSTANT | {"learning_rate": 7.5e-3},
        {"general_length": 5, "expert_length": 20, "expert_start": "previous", "key_loss": 1.0},
    ),
    "ranpac": ({"epochs": 20}, {"projection": None, "first_session": True}),
    "slca": (SGD | {"learning_rate": 1e-2, "epochs": 20}, {"backbone_rate": 0.01, "align": ALIGN}),
    "ease": ({"epochs": 20}, {"alpha": 0.1, "beta": 0.0, "scale": 0.1}),
    "olora": ({}, {"orthogonality": 0.5, "penalty": "absolute", "placement": ("query", "value")}),
    "inflora+align": ({"learning_rate": 5e-4, "epochs": 20}, {"align": ALIGN}),  # of InfLoRA; its +CA has SGD
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_settings_that_are_known_to_be_good(name: str) -> None:
    kind, (training, options) = get_method(name), PUBLISHED[name]
    assert dict(kind.recommended) == training
    held = kind.Config().model_dump()
    for key, value in options.items():
        assert (value.items() <= held[key].items()) if isinstance(value, dict) else (held[key] == value), key

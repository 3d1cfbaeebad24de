"""Classifier alignment: heads that were trained task by task, trained once more together on drawn features."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, create_model
from torch import Tensor

from duallora.methods.base import BackboneLike, Batches, Encoding, Method, MethodConfig, Output, State, part, prefixed
from duallora.methods.covariances import ClassCovariances
from duallora.methods.heads import Heads
from duallora.methods.reading import ReadingMethod
from duallora.methods.rows import Rows

Drawing = Callable[[], tuple[Tensor, Tensor]]  # -> features (n, d) and their rows (n,)


class AlignSettings(MethodConfig):
    """How heads are aligned; the defaults are those of the public code of SLCA."""

    epochs: int = Field(5, ge=0, description="passes over freshly drawn features after each task; 0 aligns nothing")
    samples: int = Field(256, ge=1, description="features drawn per class and epoch")
    batch_size: int = Field(256, ge=1, description="drawn features per step")
    learning_rate: float = Field(0.01, gt=0, description="of SGD; falls by a half cosine, epoch by epoch")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="of the heads")
    logit_norm: float | None = Field(
        0.1, gt=0, description="temperature of the normalised logits; None leaves the logits as they are"
    )
    rescale: bool = Field(
        True,
        description="with normalised logits: bring all heads by one factor to rows of mean norm 1 first, so that "
        "a rate means the same for heads of any size; no answer changes by it",
    )
    covariance: Literal["class", "shared"] = Field(
        "class",
        description="that features are drawn with: each class's own (kept), or the one of the Gaussian read-out",
    )
    ridge: float = Field(1e-4, ge=0, description="added to the diagonal of a class's own covariance")
    fade: float = Field(
        0.1, ge=0, lt=1, description="how far the means of the oldest classes are drawn towards 0; 0 leaves them"
    )


def logit_normalised(logits: Tensor, sizes: Sequence[int], temperature: float | None) -> Tensor:
    """z / (temperature * mean over tasks of |z_t|), z_t the logits of one head: (b, R) -> (b, R); `sizes` sum to R.

    >>> logit_normalised(torch.tensor([[3.0, 4.0, 15.0]]), [2, 1], 0.1)
    tensor([[ 3.,  4., 15.]])
    """
    if temperature is None:
        return logits
    norms = torch.stack([z.norm(dim=1) for z in logits.split(list(sizes), 1)]).mean(0)
    return logits / (norms.clamp_min(1e-7) * temperature).unsqueeze(1)


def faded(means: Tensor, sizes: Sequence[int], fade: float) -> Tensor:
    """Means (R, d) with those of task t = 1 .. T multiplied by 1 - fade (1 - t / T); `sizes` are rows per task."""
    age = 1 - torch.arange(1, len(sizes) + 1, device=means.device) / len(sizes)
    return means * (1 - fade * age).repeat_interleave(torch.tensor(list(sizes), device=means.device)).unsqueeze(1)


def aligned_heads(
    weight: Tensor, bias: Tensor, sizes: Sequence[int], rows: Rows, draw: Drawing, settings: AlignSettings
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over all classes on drawn features, by SGD with momentum: weight (R, d), bias (R,) trained on.

    The score of a class is the best of its rows, as in predictions: rows of one class do not compete. Batches are drawn
    on the CPU by torch's default generator.
    """
    unit = weight.norm(dim=1).mean().clamp_min(1e-12) if settings.rescale and settings.logit_norm is not None else 1.0
    heads = [(p.detach() / unit).requires_grad_() for p in (weight, bias)]
    speed = [torch.zeros_like(p) for p in heads]
    device, classes = weight.device, torch.tensor(rows.classes, device=weight.device)
    for epoch in range(settings.epochs):
        rate = settings.learning_rate * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
        x, y = draw()
        for at in torch.randperm(len(y)).to(device).split(settings.batch_size):
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                z = logit_normalised(F.linear(x[at], *heads), sizes, settings.logit_norm)
                loss = F.cross_entropy(rows.class_scores(z), classes[y[at]])
                gradients = torch.autograd.grad(loss, heads)
            with torch.no_grad():
                for p, v, g in zip(heads, speed, gradients, strict=True):
                    v.mul_(settings.momentum).add_(g).add_(p, alpha=settings.weight_decay)
                    p.sub_(v, alpha=rate)
    return heads[0].detach(), heads[1].detach()


class Aligned(ReadingMethod):
    """Classifier alignment (SLCA, Zhang et al. 2023, arXiv 2303.05118; InfLoRA+CA) on top of any `ReadingMethod`.

    After each task but the first, in each epoch, `samples` features per class c are drawn from N(f_c mu_c, Sigma_c) and
    all heads are trained on them together, by cross-entropy of z / (tau n) with z the logits of all heads and n the
    mean over tasks of the norm of that task's logits; tau is `logit_norm`. f_c = 1 - fade (1 - t / T) for a class of
    task t of T. The aligned heads answer as read-out "align". The heads as trained stay as they are: the next alignment
    starts from them, and the method's own read-outs, which remain beside it, are those that it has without alignment.

    Trains, beside what the method trains: a copy of all heads. Kept beside what the method keeps: the aligned
    heads, and Sigma_c of the final feature. mu_c is that of the method's own Gaussian read-outs, moved where the method
    moves it. No pass over images or per prediction is added.

    From the public code of SLCA, and of InfLoRA+CA but for what is said: the defaults of `AlignSettings`; the fading of
    means, of which the paper is not known here to speak; the restored heads (InfLoRA+CA goes on from the aligned ones).
    That code's InfLoRA differs from `inflora`, which "inflora+align" is built on: GPM that only stores what is used, on
    CIFAR-100 with rank 5, SGD at 0.001, heads at 0.01 and logits that are not normalised. Chosen here: `rescale`, since
    heads of other methods may be larger by orders of magnitude, and the gradient of normalised logits smaller by as
    much (the heads of `slca` itself hardly mind: it gains or loses less than a point by `rescale=False`, as its authors
    have it); rows of one class, where a class comes again, do not compete; confidence is that of the normalised logits,
    whose argmax is that of the plain ones; a class of one image is drawn with the shared covariance.
    """

    config: Any  # has .align

    def __init__(self, backbone: BackboneLike, config: MethodConfig, *rest: float | str) -> None:
        """The method's own set-up, and no aligned head yet."""
        super().__init__(backbone, config, *rest)
        self.aligned = Heads(backbone.dim)
        self.covariances = ClassCovariances(backbone.dim)
        if self.alignment.covariance == "class":
            self.read.kept["covariances"] = self.covariances

    @property
    def alignment(self) -> AlignSettings:
        """How the heads are aligned."""
        return cast(AlignSettings, self.config.align)

    def end_task(self, batches: Batches) -> None:
        """The method's own pass, which feeds the Gaussians, then the alignment."""
        super().end_task(batches)
        heads = self.read.heads.state()
        sizes = heads["sizes"].tolist()
        if len(sizes) > 1:
            draw = self._drawing(sizes, heads["weight"].device)
            trained = aligned_heads(heads["weight"], heads["bias"], sizes, self.rows, draw, self.alignment)
            heads["weight"], heads["bias"] = trained
        self.aligned.load_state(heads)

    def _drawing(self, sizes: list[int], device: torch.device) -> Drawing:
        """A draw of features of all rows that have images, their rows beside them."""
        gaussians, n = self.read.gaussians, self.alignment.samples
        means = faded(gaussians.means[:, : self.backbone.dim], sizes, self.alignment.fade).float()
        seen = gaussians.counts.nonzero().flatten().tolist()
        factor = self._factors()

        def drawn(row: int) -> Tensor:
            noise = torch.randn(n, means.shape[1]).to(device)
            with torch.autocast(device.type, enabled=False):
                return means[row].to(device) + noise @ factor(row).to(device).T

        def draw() -> tuple[Tensor, Tensor]:
            return torch.cat([drawn(row) for row in seen]), torch.tensor(seen, device=device).repeat_interleave(n)

        return draw

    def _factors(self) -> Callable[[int], Tensor]:
        """Row -> Cholesky factor (d, d) of the covariance that its features are drawn with."""
        d, gaussians = self.backbone.dim, self.read.gaussians
        shared = torch.linalg.cholesky(gaussians.covariance()[:d, :d]).float()
        if self.alignment.covariance == "shared":
            return lambda row: shared
        held = {  # once, not for every draw
            row: self.covariances.factor(row, self.alignment.ridge) if count > 1 else shared
            for row, count in enumerate(gaussians.counts.tolist())
        }
        return held.__getitem__

    def encode_for(self, images: Tensor, readouts: Iterable[str]) -> Encoding:
        """As the method does; the aligned heads read what the heads read."""
        return super().encode_for(images, ["heads" if r == "align" else r for r in readouts])

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Argmax over the aligned heads, or one of the method's own read-outs."""
        if (readout or self.readout) != "align":
            return super().decode(encoding, readout)
        features = encoding.features
        with torch.autocast(features.device.type, enabled=False):
            logits = self.aligned(features.float())
            scores = logit_normalised(logits, [len(b) for b in self.aligned.biases], self.alignment.logit_norm)
        return Output(scores, measure=self.read.measure(features))

    def state(self) -> State:
        """The method's own, and the aligned heads."""
        return super().state() | prefixed("align", self.aligned.state())

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        self.aligned.load_state(part("align", state))
        super().load_state({k: v for k, v in state.items() if not k.startswith("align.")})


def alignable(kind: type[Method]) -> bool:
    """Whether a method trains heads task by task, and does not align them itself."""
    heads = issubclass(kind, ReadingMethod) and "heads" in kind.readouts and not kind.cumulative
    return heads and "align" not in kind.readouts


@functools.cache
def aligned(kind: type[ReadingMethod]) -> type[Aligned]:
    """The method `kind` with alignment: named "<name>+align", read out by "align" unless told otherwise.

    >>> from duallora.methods.lora import LoRA
    >>> aligned(LoRA).name, aligned(LoRA).readouts, aligned(LoRA).Config(rank=4).align.epochs
    ('lora+align', ('align', 'heads', 'tasks', 'gaussian', 'quadratic', 'product'), 5)
    """
    readouts = ("align", *kind.readouts)
    choice: Any = Literal[readouts]
    config = create_model(
        f"Aligned{kind.Config.__name__}",
        __base__=kind.Config,
        __module__=__name__,
        readout=(choice, Field("align", description=f"aligned heads, or as without: {', '.join(kind.readouts)}")),
        align=(AlignSettings, Field(AlignSettings(), description="how the heads are aligned after each task")),
    )
    told = f"`{kind.name}` with classifier alignment, see `Aligned`.\n\n    {kind.__doc__ or ''}"
    body = {"name": f"{kind.name}+align", "Config": config, "readouts": readouts, "__doc__": told}
    return cast(type[Aligned], type(f"Aligned{kind.__name__}", (Aligned, kind), body | {"__module__": __name__}))

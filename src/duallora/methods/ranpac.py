"""RanPAC: ridge regression on a random projection of the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from duallora.lowrank import slots
from duallora.lowrank.bank import Banks
from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import (
    BackboneLike,
    Batches,
    Encoding,
    MethodConfig,
    Output,
    Shrinkage,
    State,
    TaskInfo,
    each,
    part,
    prefixed,
)
from duallora.methods.lora import Placement
from duallora.methods.reading import ReadingMethod
from duallora.methods.readout import Sample
from duallora.methods.ridge import Ridge

TEMPERATURE = 0.1  # turns regressed indicators into logits whose softmax serves as a confidence; argmax untouched

PER_FEATURE, MOST = 13, 10000  # random features by default, about as in the paper: 10000 for d = 768


class RanPACConfig(MethodConfig):
    """Options of `ranpac`."""

    projection: int | None = Field(
        None,
        ge=0,
        description="M, random features; by default 13 per feature, at most 10000 (the paper: 10000 for d = 768). "
        "0: the features themselves",
    )
    first_session: bool = Field(True, description="adapt the network on the first task, before it is frozen")
    rank: int = Field(8, ge=1, description="r of the first task's updates")
    scale: float = Field(1.0, gt=0, description="factor of the update, alpha / r in LoRA's terms")
    placement: Placement = Field(("query", "value"), min_length=1, description="adapted maps of each block")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    readout: Literal["ridge", "gaussian", "quadratic"] = "ridge"
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")

    def width(self, features: int) -> int:
        """M for D features; 0 where they are not projected.

        >>> [RanPACConfig().width(d) for d in (64, 768, 2304)], RanPACConfig(projection=500).width(768)
        ([832, 9984, 10000], 500)
        """
        return min(PER_FEATURE * features, MOST) if self.projection is None else self.projection


class RanPAC(ReadingMethod):
    """RanPAC (McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel 2023, arXiv 2307.02251).

    The first task trains a LoRA adapter and a head (first-session adaptation); then all of the network is frozen and
    the head thrown away. With f (D,) the features and P (D, M) drawn once from N(0, 1),

        h = ReLU(f P),   G = sum h h^T,   C = sum h y^T over the images of all tasks,   scores = h (G + lambda I)^-1 C.

    lambda is chosen for each task among powers of ten: fitted on 80 % of that task's images alone, the least squared
    error on the other 20 %. Trains: in the first task a LoRA adapter and a head, later nothing. Frozen: the backbone,
    after the first task the adapter too, P. Kept: P, G and a covariance in all; per class a column of C, and for the
    other read-outs a mean and what `ClassSpreads` holds. One pass per image.

    Choices: the adapter of the paper is a bottleneck, scale and shift, or prompts; here it is LoRA, so that methods
    differ in one thing less, trained as other methods are (public scripts: SGD at 0.01, batches of 48, and 20 epochs,
    which alone are `recommended`). A first task of one class teaches it nothing, and there is no second chance. What is
    held out is each fifth image in the order of the classes rather than a random fifth; a task of fewer than five
    images keeps the lambda before it. A class that comes again has a column for each of its tasks; the solution is
    linear in C, so the sum of its columns' scores is exactly the score of the one column that the authors' code sums
    over domains, and each of its rows gets that sum; the task is told by the single columns. "gaussian" and "quadratic"
    are the library's common read-outs, on the features f.
    """

    name: ClassVar[str] = "ranpac"
    Config: ClassVar[type[MethodConfig]] = RanPACConfig
    recommended: ClassVar[Mapping[str, object]] = {"epochs": 20}  # of the first task; later ones train nothing
    readouts: ClassVar[tuple[str, ...]] = ("ridge", "gaussian", "quadratic")
    config: RanPACConfig
    P: Tensor

    def __init__(self, backbone: BackboneLike, config: RanPACConfig) -> None:
        """Wrap the chosen maps of the backbone, if any is to be adapted."""
        super().__init__(backbone, config, config.shrinkage)
        where = slots(backbone.attention, config.placement, config.blocks) if config.first_session else []
        self.banks = Banks(where, config.rank, config.scale)
        self.projection = config.width(backbone.features)
        self.ridge = Ridge(self.projection or backbone.features)
        self.register_buffer("P", torch.zeros(backbone.features, 0), persistent=False)

    def trainable(self) -> list[nn.Parameter]:
        """Adapter and head of the first task; later nothing."""
        return super().trainable() if self.config.first_session and len(self.rows.members) == 1 else []

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Rows; in the first task also the adapter and P."""
        if not self.rows.members:
            self.P = torch.randn(self.backbone.features, self.projection).to(self.P.device)
            if self.config.first_session:
                self.banks.grow()
                self.banks.use(0)
        super().begin_task(task, batches)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the first head."""
        return self.read.local_loss(self.backbone(images, levels=False).float(), labels)

    def _lift(self, features: Tensor) -> Tensor:
        """h (b, M), float32; the features themselves where there is no projection."""
        with torch.autocast(features.device.type, enabled=False):
            return F.relu(features.float() @ self.P.to(features.device)) if self.projection else features.float()

    def end_task(self, batches: Batches) -> None:
        """One pass: class Gaussians, lambda, G and C; the features of the task are held until it ends."""
        self.banks.freeze()
        sample, held = Sample(), []
        for images, labels in each(batches):
            features = self.encode(images).features
            self.read.collect(features, labels)
            sample.add(features, labels)
            held.append((features, self.read.local(labels)))
        self.read.finish(sample.features, sample.labels)
        h, local = self._lift(torch.cat([x for x, _ in held])), torch.cat([y for _, y in held])
        self.ridge.learn(h, local, len(self.rows.members[-1]))
        self.read.heads.clear()

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Regressed indicators over TEMPERATURE, or linear or quadratic discriminant scores."""
        if (readout or self.readout) != "ridge":
            return self.read.output(encoding, readout or self.readout)
        h = self._lift(encoding.features)
        with torch.autocast(h.device.type, enabled=False):
            scores = h @ self.ridge.weight(h.device).T / TEMPERATURE
            classes = torch.tensor(self.rows.classes, device=h.device)
            summed = scores @ (classes.unsqueeze(1) == classes).float()
        return Output(summed, self.rows.task_scores(scores), self.read.measure(encoding.features))

    def state(self) -> State:
        """Sums, P, the adapter, Gaussians and rows; the head is not kept."""
        kept = {k: v for k, v in super().state().items() if ".heads." not in k}
        return kept | prefixed("ridge", self.ridge.state()) | prefixed("banks", self.banks.state()) | {"P": self.P}

    def load_state(self, state: State) -> None:
        """Restore `state()`.

        Raises:
            DualLoRAError: a tensor is missing or has another shape.
        """
        ridge = part("ridge", state)
        saved_tensor(ridge, "G", self.ridge.G.shape, f"projection={self.projection}: ridge.")
        P = saved_tensor(state, "P", (self.backbone.features, None))
        super().load_state(state | {"read.heads.sizes": self.rows.task_index()[:0]})
        self.ridge.load_state(ridge)
        self.banks.load_state(part("banks", state))
        self.banks.use(0 if len(self.banks) else None)
        self.P = P.to(self.P.device, copy=True)

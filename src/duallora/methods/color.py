"""CoLoR: an adapter and a head per task, chosen for each image by the nearest centroid of frozen features."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from duallora.lowrank import slots
from duallora.lowrank.bank import Banks
from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import (
    BackboneLike,
    Batches,
    Cost,
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
from duallora.methods.kmeans import kmeans
from duallora.methods.lora import Placement
from duallora.methods.reading import ReadingMethod
from duallora.methods.readout import Sample

GAP = 100.0  # log-score by which the rows of the tasks that were not chosen lie below: finite, yet no row bridges it


class CoLoRConfig(MethodConfig):
    """Options of `color`."""

    rank: int = Field(8, ge=1, description="r of every update")
    scale: float = Field(1.0, gt=0, description="factor of the update, alpha / r in LoRA's terms")
    placement: Placement = Field(("query", "value"), min_length=1, description="adapted maps of each block")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    clusters: int = Field(5, ge=1, description="k, centroids per task")
    features: Literal["frozen", "first"] = Field(
        "frozen",
        description="the task is chosen by features of the frozen network, or of the one adapted to the first task; "
        "the latter is CoLoR++ as we remember it, which we could not check",
    )
    readout: Literal["heads", "tasks", "gaussian", "quadratic", "product"] = "heads"
    head_init: Literal["random", "gaussian"] = Field(
        "random",
        description="start of a new head: small random weights, or the discriminant of the features before training",
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class CoLoR(ReadingMethod):
    """CoLoR (Wistuba, Sivaprasad, Balles & Zappella 2023, arXiv 2311.17601), made for domain-incremental streams.

    Task t trains A_t (r, d), B_t (rows, r) of every adapted map and a head, by cross-entropy over the task's own
    classes, each adapter beside the frozen weights alone: W_t = W_0 + s B_t A_t. With f_0 the features of the frozen
    network, k-means of f_0 / |f_0| over the task's images gives c_{t,1..k}. An image x is answered by

        t(x) = argmin_t min_j | f_0(x) / |f_0(x)| - c_{t,j} |,      y(x) = argmax of head t(x) on f_{t(x)}(x).

    Trains: the newest adapter and head. Frozen: the backbone, earlier adapters and heads. Kept per task: an adapter, a
    head, k centroids (and class Gaussians for the other read-outs). Two passes per image: the frozen one, then the
    chosen one.

    Where public sources are silent or were not seen: that the k-means is that of S-Prompts (l2 norm, k = 5, centroids
    not normalised again) is inferred from the authors' library; rank and placement were not seen, and are the library's
    rank and LoRA's own choice of queries and values; nor whether heads are shared (here one per task) or which feature
    is clustered (here the final one). The head of the chosen task alone answers, so rows of other tasks
    get their log-probability within their task less a constant that nothing bridges. "gaussian" is the library's common
    read-out: all rows compete on the features of the chosen adapter, so a wrong choice can still be put right.
    """

    name: ClassVar[str] = "color"
    Config: ClassVar[type[MethodConfig]] = CoLoRConfig
    config: CoLoRConfig
    centroids: Tensor

    def __init__(self, backbone: BackboneLike, config: CoLoRConfig) -> None:
        """Wrap the chosen maps of the backbone."""
        super().__init__(backbone, config, config.shrinkage)
        self.banks = Banks(slots(backbone.attention, config.placement, config.blocks), config.rank, config.scale)
        self.register_buffer("centroids", torch.zeros(0, config.clusters, backbone.dim), persistent=False)
        self._learning = False  # between begin_task and end_task every pass is that of the newest adapter

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A fresh adapter and head."""
        self.banks.grow()
        self._learning = True
        super().begin_task(task, batches)

    def _pass(self, images: Tensor, adapter: int | None, levels: bool = True) -> Tensor:
        """Features (b, D), or (b, d), under an adapter, or of the frozen network."""
        self.banks.use(adapter)
        return self.backbone(images, levels).float()

    def _selecting(self, images: Tensor) -> Tensor:
        """Normalised features (b, d) by which tasks are told apart."""
        return F.normalize(self._pass(images, 0 if self.config.features == "first" else None, levels=False), dim=1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy of the newest head under the newest adapter."""
        return self.read.local_loss(self._pass(images, len(self.banks) - 1, levels=False), labels)

    def end_task(self, batches: Batches) -> None:
        """One look at the images: class Gaussians under the new adapter, centroids of the selecting features."""
        sample, seen = Sample(), []
        for images, labels in each(batches):
            features = self._pass(images, len(self.banks) - 1)
            self.read.collect(features, labels)
            sample.add(features, labels)
            seen.append(self._selecting(images).cpu())
        self.read.finish(sample.features, sample.labels)
        new = kmeans(torch.cat(seen), self.config.clusters).to(self.centroids)
        self.centroids = torch.cat([self.centroids, new.unsqueeze(0)])
        self.banks.freeze()
        self._learning = False

    def encode(self, images: Tensor) -> Encoding:
        """Features under the chosen adapter; the evidence of a task is minus the distance to its nearest centroid."""
        if self._learning:
            return Encoding(self._pass(images, len(self.banks) - 1))
        x = self._selecting(images)
        with torch.autocast(x.device.type, enabled=False):  # exact: tasks may lie close together
            away = torch.cdist(x, self.centroids.flatten(0, 1), compute_mode="donot_use_mm_for_euclid_dist")
        evidence = -away.unflatten(1, self.centroids.shape[:2]).amin(2)
        chosen, features = evidence.argmax(1), x.new_empty(len(x), self.backbone.features)
        for task in chosen.unique().tolist():
            features[chosen == task] = self._pass(images[chosen == task], task)
        return Encoding(features, evidence)

    def encode_given(self, images: Tensor, task: int) -> Encoding:
        """As `encode`, had the task been chosen rightly: one pass."""
        features = self._pass(images, task)
        evidence = torch.zeros(len(images), len(self.centroids), device=features.device)
        evidence[:, task] = 1
        return Encoding(features, evidence)

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """The chosen task's head, or the Gaussians of all rows.

        Raises:
            RuntimeError: the encoding has no evidence of tasks, as before the end of the first.
        """
        if (readout or self.readout) != "heads":
            return self.read.output(encoding, readout or self.readout)
        if encoding.evidence is None:
            raise RuntimeError("the heads read-out needs an encoding made after end_task, with its evidence of tasks")
        logits = self.read.scores(encoding.features, "heads")
        strange = self.rows.task_index(logits.device) != encoding.evidence.argmax(1, keepdim=True)
        return Output(
            self.rows.within_tasks(logits) - GAP * strange, encoding.evidence, self.read.measure(encoding.features)
        )

    def state(self) -> State:
        """Adapters, centroids and read-out."""
        return super().state() | prefixed("banks", self.banks.state()) | {"centroids": self.centroids}

    def load_state(self, state: State) -> None:
        """Restore `state()`.

        Raises:
            DualLoRAError: a tensor is missing or has another shape.
        """
        centroids = saved_tensor(state, "centroids", (None, *self.centroids.shape[1:]))
        super().load_state(state)
        self.banks.load_state(part("banks", state))
        self.centroids = centroids.to(self.centroids.device, copy=True)
        self._learning = False

    def cost(self) -> Cost:
        """As measured, at two passes per image."""
        return replace(super().cost(), passes_per_image=2.0)

"""EASE: a subspace per task, prototypes in all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank.bottleneck import Bottleneck, mlps
from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import (
    BackboneLike,
    Batches,
    Cost,
    Encoding,
    Method,
    MethodConfig,
    Output,
    State,
    TaskInfo,
    each,
    part,
    prefixed,
)
from duallora.methods.prototypes import complement, shares

TEMPERATURE = 0.05  # turns cosines into logits whose softmax serves as a confidence; the argmax is untouched


class EASEConfig(MethodConfig):
    """Options of `ease`."""

    rank: int = Field(16, ge=1, description="width r of every bottleneck; the authors' code has 64 for d = 768")
    scale: float = Field(0.1, gt=0, description="s, factor of the adapters")
    blocks: tuple[int, ...] | None = Field(None, description="adapted blocks; all by default")
    alpha: float = Field(0.1, ge=0, description="weight, in all, of the subspaces of other tasks")
    beta: float = Field(0.0, ge=0, description="weight of the frozen network's subspace, which costs a pass; 0: none")
    fresh: bool = Field(
        True, description="synthesise prototypes anew with every task, from all classes that came since"
    )
    sigma: float = Field(10.0, gt=0, description="start of the trained factor of the cosines in the training loss")


class EASE(Method):
    """Expandable subspace ensemble (Zhou, Sun, Ye & Zhan 2024, arXiv 2403.12030).

    Task t trains one adapter per block beside the MLP, y = MLP(x) + s ReLU(x D_t^T + a_t) U_t^T + s b_t, and a cosine
    head that is thrown away: cross-entropy of sigma cos(f_t, w) over the task's own classes. After it the means of f_0,
    ..., f_t over each new class are its prototypes in the subspaces 0 .. t; those of older classes in subspace t are
    synthesised (`complement`). The score of a class c of task i is

        cos(f_i, p_i^c) + alpha / (T - 1) sum_{s != i} cos(f_s, p_s^c).

    f_t are the features of all levels of the backbone, as every method's statistics here are; the paper's are the
    final class token alone (`levels: 0`, row `ease-final` of the suites).

    Trains: the newest adapter and head. Frozen: the backbone and earlier adapters. Kept per task: an adapter, and for
    each class of task t its t + 1 measured prototypes (synthesised ones follow from these). T passes per image after T
    tasks, one more with `beta`.

    Choices: alpha is divided by the number of other subspaces, weights are 0.1 and 0 and synthesis is renewed with
    every task, all as the authors' public code has it. That code feeds the adapter with the residual stream; here it
    gets the MLP's own input, after the norm. It starts sigma at 1 and trains by SGD for 20 epochs with dropout 0.1;
    here sigma starts where few epochs suffice, and there is no dropout. A class that comes again has rows in each of
    its tasks, with prototypes of that task's images.
    """

    name: ClassVar[str] = "ease"
    recommended: ClassVar[Mapping[str, object]] = {"epochs": 20}  # of the authors' configurations
    Config: ClassVar[type[MethodConfig]] = EASEConfig
    config: EASEConfig
    head: nn.Parameter | None
    sigma: nn.Parameter | None
    classifier: Tensor

    def __init__(self, backbone: BackboneLike, config: EASEConfig) -> None:
        """Hook the MLPs of the chosen blocks; the adapters themselves stay outside of the backbone."""
        super().__init__(backbone, config)
        self.mlps = len(found := mlps(cast(nn.Module, backbone), backbone.attention, config.blocks))
        for i, mlp in enumerate(found):
            mlp.register_forward_hook(partial(self._beside, i))
        self.adapters = nn.ModuleList()
        self.register_parameter("head", None)
        self.register_parameter("sigma", None)
        self.measured: list[Tensor] = []  # per task (classes, subspaces, D), float32
        self.register_buffer("classifier", torch.zeros(0, 0), persistent=False)  # (R, subspaces D)
        self._active: int | None = None
        self._order = torch.zeros(0, dtype=torch.int64)

    def _beside(self, i: int, mlp: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of MLP i: add what the adapter in use makes of the same input."""
        if self._active is None:
            return output
        adapter = cast(nn.ModuleList, self.adapters[self._active])[i]
        return output + cast(Tensor, adapter(inputs[0]))

    def _grow(self) -> None:
        """Another adapter; the earlier ones stop training."""
        self.adapters.requires_grad_(False)
        make = partial(Bottleneck, self.backbone.dim, self.config.rank, self.config.scale)
        new = nn.ModuleList(make() for _ in range(self.mlps))
        self.adapters.append(new.to(next(cast(nn.Module, self.backbone).parameters()).device))

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """Rows, a fresh adapter, a fresh cosine head."""
        self.rows.add(task.index, task.classes)
        self._order = torch.tensor(task.classes)
        self._grow()
        device, bound = next(self.adapters.parameters()).device, 1 / math.sqrt(self.backbone.features)
        head = torch.empty(len(task.classes), self.backbone.features).uniform_(-bound, bound)
        self.head = nn.Parameter(head.to(device))
        self.sigma = nn.Parameter(torch.tensor(self.config.sigma, device=device))

    def _local(self, labels: Tensor) -> Tensor:
        """Class indices (b,) -> positions among the newest task's classes (b,); shares (b, C) -> (b, classes)."""
        if labels.is_floating_point():
            return labels[:, self._order.to(labels.device)]
        return (labels.unsqueeze(1) == self._order.to(labels.device)).long().argmax(1)

    def _features(self, images: Tensor, subspace: int | None) -> Tensor:
        """Features (b, D) under an adapter, or of the frozen network."""
        self._active = subspace
        return self.backbone(images).float()

    def _subspaces(self, images: Tensor) -> list[Tensor]:
        """Features (b, D) in the subspace of each task, last in the frozen one where it counts."""
        subspaces: list[int | None] = [*range(len(self.adapters)), *([None] if self.config.beta else [])]
        return [self._features(images, s) for s in subspaces]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the cosine head over the task's own classes, under the newest adapter."""
        features = self._features(images, len(self.adapters) - 1)
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.normalize(features, dim=1) @ F.normalize(cast(Tensor, self.head), dim=1).T
            return F.cross_entropy(cast(Tensor, self.sigma) * cosines, self._local(labels))

    def end_task(self, batches: Batches) -> None:
        """One look at the images: prototypes of the new classes in every subspace; the head goes."""
        subspaces = len(self.adapters) + bool(self.config.beta)
        sums = torch.zeros(len(self._order), subspaces, self.backbone.features, dtype=torch.float64)
        counts = torch.zeros(len(self._order), dtype=torch.float64)
        for images, labels in each(batches):
            at = self._local(labels).cpu()
            sums.index_add_(0, at, torch.stack(self._subspaces(images), 1).cpu().double())
            counts += torch.bincount(at, minlength=len(counts))
        self.measured.append((sums / counts.clamp_min(1).reshape(-1, 1, 1)).float())
        self.adapters.requires_grad_(False)
        self.head = self.sigma = None
        self._build()

    def _build(self) -> None:
        """The cosine classifier over all rows, subspaces side by side, from the prototypes."""
        weights = shares(self.rows.task_index(), len(self.measured), self.config.alpha)
        beta = bool(self.config.beta)
        # float64: autocast leaves it alone, so that a loaded method builds the same
        full = complement([p[:, : t + 1].double() for t, p in enumerate(self.measured)], self.config.fresh)
        if beta:
            full = torch.cat([full, torch.cat([p[:, -1:].double() for p in self.measured])], 1)
            weights = torch.cat([weights, torch.full((len(weights), 1), self.config.beta)], 1)
        classifier = (F.normalize(full, dim=2) * weights.unsqueeze(2)).flatten(1).float()
        self.classifier = classifier.to(next(self.adapters.parameters()).device)

    def encode(self, images: Tensor) -> Encoding:
        """Features in all subspaces, side by side: (b, subspaces D)."""
        return Encoding(torch.cat(self._subspaces(images), 1))

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Weighted cosines, over TEMPERATURE."""
        x = F.normalize(encoding.features.float().unflatten(1, (-1, self.backbone.features)), dim=2).flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            return Output(x @ self.classifier.to(x.device).T / TEMPERATURE)

    def state(self) -> State:
        """Adapters, measured prototypes, rows."""
        return (
            prefixed("rows", self.rows.state())
            | prefixed("adapters", self.adapters.state_dict())
            | {f"prototypes.{t}": p for t, p in enumerate(self.measured)}
        )

    def load_state(self, state: State) -> None:
        """Restore `state()`.

        Raises:
            DualLoRAError: a tensor is missing, unexpected, or has another shape.
        """
        self.rows.load_state(part("rows", state))
        self.adapters, self.head, self.sigma = nn.ModuleList(), None, None
        for _ in self.rows.members:
            self._grow()
        try:
            self.adapters.load_state_dict(part("adapters", state))
        except RuntimeError as error:
            raise DualLoRAError(f"the saved adapters do not fit the method's options: {error}") from error
        self.adapters.requires_grad_(False)
        self.measured = [
            saved_tensor(state, f"prototypes.{t}", (len(classes), None, None)).clone()
            for t, classes in enumerate(self.rows.members)
        ]
        if self.measured:
            self._build()

    def cost(self) -> Cost:
        """As measured, at one pass per subspace."""
        return replace(super().cost(), passes_per_image=float(len(self.adapters) + bool(self.config.beta)))

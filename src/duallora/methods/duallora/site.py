"""One adapted map of one block: the frozen map, both adapters, the bases of its input, its share of the memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from duallora.lowrank import Extension, SecondMoment, Slot, class_attention, extend_basis, head_features
from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import part
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.memory import Bases, gates_of
from duallora.methods.duallora.orthogonal import OrthogonalAdapter
from duallora.methods.duallora.residual import ResidualAdapter, add_gated
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.lora import Placement


@dataclass
class Reading:
    """What the memory gathers on one pass through the network, block after block.

    Attributes:
        wanted: whether energies are to be kept as evidence of the task.
        relevance: one (b, T) per block read.
        scores: (b, R) summed class scores of the blocks so far, for the posterior gate.
    """

    wanted: bool = False
    relevance: list[tuple[int, Tensor]] = field(default_factory=list)
    scores: Tensor | None = None


class DualLinear(nn.Module):
    """A linear map of an attention module with DualLoRA's updates of some of its outputs.

    The orthogonal updates of finished tasks are folded into the map's weight and cost nothing; live are only the one in
    training and the residuals.
    """

    def __init__(self, slot: Slot, config: DualLoRAConfig, class_token: bool) -> None:
        """Wrap the slot's map; `slot.attach(self)` puts it in place."""
        super().__init__()
        self.base = slot.linear
        self.block, self.rows, self.config = slot.block, dict(slot.rows), config
        self.fused, self.class_token = slot.attribute == "qkv", class_token
        self.attention = (slot.owner,)  # in a tuple: a child of its own child would make a cycle of modules
        d = self.base.in_features
        self.bases = Bases(d)
        self.orthogonal = nn.ModuleDict()
        self.residual = nn.ModuleDict({name: ResidualAdapter(d, width) for name, (_, width) in self.rows.items()})
        self.folded: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.rows}
        self.gaussians = ClassGaussians(d, config.shrinkage) if self.gates_by_posterior else None
        self.row_task: list[int] = []
        self.reading = Reading()
        self.learning = False
        self.moment: SecondMoment | None = None
        self.moment_xbar: SecondMoment | None = None
        self.labels: Tensor | None = None  # rows of the batch, set while statistics are collected

    @property
    def weight(self) -> Tensor:
        """The map's weight with all folded updates."""
        return self.base.weight

    @property
    def gates_by_posterior(self) -> bool:
        """Whether class Gaussians of this map's features feed the gates."""
        return self.config.residual_maps and self.config.gate == "posterior"

    @property
    def has_residual(self) -> bool:
        """Whether any residual is live."""
        return any(self._residual(name).rank for name in self.rows)

    def _orthogonal(self, name: str) -> OrthogonalAdapter:
        """The orthogonal update of one target; live only in training."""
        return cast(OrthogonalAdapter, self.orthogonal[name])

    def _residual(self, name: str) -> ResidualAdapter:
        """The residual of one target."""
        return cast(ResidualAdapter, self.residual[name])

    def forward(self, x: Tensor) -> Tensor:
        """x (b, N, d) -> (b, N, outputs)."""
        if not (self.learning or self.moment is not None or self.reading.wanted or self.config.residual_maps):
            return cast(Tensor, self.base(x))  # nothing is live, nobody reads
        device = x.device.type
        # Under autocast the map, the memory and the updates would each convert x for themselves: once is enough.
        low = x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
        y: Tensor = self.base(low)
        gates = self._read(x, low, y)
        for name, (first, width) in self.rows.items():
            if name in self.orthogonal or self._residual(name).rank:
                add_gated(y.narrow(-1, first, width), low, *self._factors(name, gates))
        return y

    def _factors(self, name: str, gates: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Both live updates of a target as one low-rank product: A (R, d), B (rows, R), weights (b, R) or None."""
        A, B, scale = self._residual(name).factors(gates)
        if name not in self.orthogonal:
            return A, B, scale
        orthogonal = self._orthogonal(name)
        down = orthogonal.down()
        if scale is not None:
            scale = torch.cat([scale, scale.new_ones(len(scale), len(down))], 1)
        return torch.cat([A, down]), torch.cat([B, orthogonal.B], 1), scale

    @torch.no_grad()
    def _read(self, x: Tensor, low: Tensor, y: Tensor) -> Tensor | None:
        """Feed memory and statistics; return the gates of the residuals, None where nothing is gated.

        Statistics are taken from x itself, relevance from `low`, x in the precision of the pass.
        """
        collecting = self.moment is not None
        gated = self.has_residual and self.config.gate != "off"
        if not (collecting or gated or (self.reading.wanted and self.bases.sizes)):
            return None
        heads = self._features(x, y) if collecting else None
        xbar = self._feature(low, y) if heads is None else heads.mean(1)
        if heads is not None and self.moment is not None and self.moment_xbar is not None:
            kind = self.config.feature
            self.moment.update(x if kind == "all_tokens" else heads if kind == "per_head" else xbar)
            self.moment_xbar.update(torch.nn.functional.normalize(xbar, dim=1))
            if self.gaussians is not None and self.labels is not None:
                self.gaussians.update(xbar, self.labels)
        relevance = None
        if self.bases.sizes and (self.reading.wanted or (gated and not self.gates_by_posterior)):
            relevance = self.bases.relevance(xbar)
            self.reading.relevance.append((self.block, relevance))
        if not gated:
            return None
        if self.gates_by_posterior:
            return self._posterior(xbar)
        return None if relevance is None else gates_of(relevance, self.config.gate, self.config.residual_basis)

    def _features(self, x: Tensor, y: Tensor) -> Tensor:
        """Per-head features (b, H, d).

        Class attention for the qkv map, the class token's own row for the output projection.
        """
        if self.fused:
            return head_features(x, y, self.attention[0], self.class_token)
        return (x[:, :1] if self.class_token else x.mean(1, keepdim=True)).float()

    def _feature(self, x: Tensor, y: Tensor) -> Tensor:
        """Their mean xbar (b, d), from one row of attention: all that prediction needs."""
        if not self.fused or not self.class_token:
            return self._features(x, y).mean(1)
        weights = class_attention(y, self.attention[0]).mean(1, keepdim=True)
        return (weights.to(x.dtype) @ x).squeeze(1).float()

    def _posterior(self, xbar: Tensor) -> Tensor | None:
        """Gates (b, T): posterior of each task from the class scores of this block and those before it."""
        if not self.row_task or self.gaussians is None:
            return None
        tasks = max(self.row_task) + 1
        if self.learning:
            # In training: the images are known to belong to the new task, so to none of the earlier ones.
            return xbar.new_zeros(len(xbar), tasks)
        scores = self.gaussians.scores(xbar)[:, : len(self.row_task)]
        before = self.reading.scores
        scores = scores if before is None else scores + before
        self.reading.scores = scores
        owner = torch.tensor(self.row_task, device=scores.device)
        mass = scores.new_zeros(len(scores), tasks).index_add_(1, owner, torch.softmax(scores, 1))
        return mass

    def begin(self, task: int, rows: int, own: Extension | None, adapts: Placement) -> None:
        """Start a task: fresh orthogonal update, a residual where there is a basis for it.

        Args:
            task: index from 0.
            rows: number of classes of the task.
            own: for `residual_basis` "own", what the task's features would add before any training.
            adapts: the maps whose orthogonal updates train.
        """
        device, cfg = self.base.weight.device, self.config
        self.learning = True
        self.bases.to(device)
        if self.gaussians is not None:
            self.gaussians.grow(rows)
        rank = cfg.first_rank if task == 0 and cfg.first_rank else cfg.rank
        for name, (_, width) in self.rows.items():
            if name in adapts:
                self.orthogonal[name] = OrthogonalAdapter(self.bases.Phi, width, rank)
            if cfg.residual_maps and name in cfg.placement and task > 0:
                if cfg.residual_basis == "own":
                    basis = own.basis.float().to(device) if own else self.bases.Phi[:, :0]
                else:
                    basis = self.bases.task(task - 1) if cfg.residual_basis == "previous" else self.bases.Phi
                self._residual(name).begin(task, basis, cfg.residual_rank)

    def collect(self) -> None:
        """From now on every forward pass feeds the statistics."""
        self.moment, self.moment_xbar = SecondMoment(self.base.in_features), SecondMoment(self.base.in_features)

    def extension(self, task: int) -> Extension:
        """What the collected statistics would add to the bases; collecting goes on.

        Raises:
            RuntimeError: nothing was collected.
        """
        if self.moment is None:
            raise RuntimeError("no statistics were collected: call collect() and run the task's images first")
        return extend_basis(self.moment.value(), self.bases.Phi.cpu(), self.config.energy_at(task), self.config.reserve)

    def stop(self) -> None:
        """Stop collecting."""
        self.moment = self.moment_xbar = self.labels = None

    def settle(self, share: float = 1.0) -> None:
        """Fold so much of the orthogonal updates; from here on the map stands still."""
        for name in list(self.orthogonal):
            A, B = self._orthogonal(name).factors()
            self.fold(name, A, share * B)
            del self.orthogonal[name]

    def end(self, task: int, rows: int) -> Extension:
        """Finish a task: fold the orthogonal update, freeze the residual, extend the bases."""
        extension = self.extension(task)
        usual = 0.0
        if self.moment_xbar is not None and extension.basis.shape[1]:
            C = self.moment_xbar.value()
            usual = float(((extension.basis.T @ C) * extension.basis.T).sum())
        self.bases.add(extension.basis, usual)
        self.stop()
        self.learning = False
        self.settle()
        for name in self.rows:
            self._residual(name).end()
        self.row_task += [task] * rows
        return extension

    def fold(self, name: str, A: Tensor, B: Tensor) -> None:
        """W_O <- W_O + B A for one target, remembered by its factors."""
        first, width = self.rows[name]
        with torch.no_grad(), torch.autocast(A.device.type, enabled=False):
            self.base.weight[first : first + width] += (B @ A).to(self.base.weight.dtype)
        self.folded[name].append((A.cpu(), B.cpu()))

    def state(self) -> dict[str, Tensor]:
        """Bases, factors, residuals, Gaussians."""
        state = {f"bases.{k}": v for k, v in self.bases.state().items()}
        state["row_task"] = torch.tensor(self.row_task, dtype=torch.int64)
        for name in self.rows:
            r = self._residual(name)
            state |= {f"residual.{name}.A": r.A, f"residual.{name}.B": r.B, f"residual.{name}.owner": r.owner}
            for t, (A, B) in enumerate(self.folded[name]):
                state |= {f"orthogonal.{name}.{t}.A": A, f"orthogonal.{name}.{t}.B": B}
        if self.gaussians is not None:
            state |= {f"gaussians.{k}": v for k, v in self.gaussians.state().items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()` into a fresh site.

        The folds are repeated in order, so that the weights come out the same.
        """
        device = self.base.weight.device
        self.bases.load_state(part("bases", state))
        self.bases.to(device)
        self.row_task = saved_tensor(state, "row_task", (None,)).tolist()
        for name in self.rows:
            r = self._residual(name)
            for key, shape in (("A", (None, r.A.shape[1])), ("B", (len(r.B), None)), ("owner", (None,))):
                setattr(r, key, saved_tensor(state, f"residual.{name}.{key}", shape).to(device))
            for t in range(self._folds(name, state)):
                A, B = (state[f"orthogonal.{name}.{t}.{key}"].to(device) for key in "AB")
                self.fold(name, A, B)
        if self.gaussians is not None:
            self.gaussians.load_state(part("gaussians", state))

    def _folds(self, name: str, state: dict[str, Tensor]) -> int:
        """How many orthogonal updates of a target a saved state holds: a first session may have been left out."""
        tasks, cfg = len(self.bases.sizes), self.config
        if not tasks:
            return 0
        counts = {(name in cfg.adapts(first)) + (tasks - 1) * (name in cfg.adapts(False)) for first in (False, True)}
        return next((n for n in sorted(counts, reverse=True) if f"orthogonal.{name}.{n - 1}.A" in state), min(counts))

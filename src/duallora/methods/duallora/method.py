"""DualLoRA as a method on the common contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.errors import DualLoRAError
from duallora.lowrank import Extension, block_indices, capacity, slots
from duallora.methods.base import (
    BackboneLike,
    Batches,
    Encoding,
    Group,
    MethodConfig,
    Output,
    State,
    TaskInfo,
    TaskLog,
    each,
    part,
    prefixed,
)
from duallora.methods.duallora.carry import Carry
from duallora.methods.duallora.class_residual import ClassResiduals
from duallora.methods.duallora.config import DualLoRAConfig
from duallora.methods.duallora.memory import calibrate, confidence, task_posterior
from duallora.methods.duallora.rehearsal import FEWEST
from duallora.methods.duallora.session import FirstSession
from duallora.methods.duallora.site import DualLinear, Reading
from duallora.methods.reading import ReadingMethod
from duallora.methods.readout import Sample

WITHOUT_HEADS = ("quadratic", "gaussian")  # read-outs that ask no head


class DualLoRA(ReadingMethod):
    """Dual low-rank adaptation (Chen et al. 2024, arXiv 2411.00623).

    "Dual Low-Rank Adaptation for Continual Learning with Pre-Trained Models". With the columns of Phi (d, k) an
    orthonormal basis of the inputs that earlier tasks use, a map W (rows, d) of a block's attention becomes in task t

        W + B A,    A = Z (I - Phi Phi^T)    with Z (r, d) random and B (rows, r) = 0 at first, folded into W after it,

    so that what earlier tasks read there stays as it was. The residual of task t adds delta_t to the final feature f,
    head t reads f + delta_t, and a posterior over tasks, from Gaussians or from energies in the bases, weighs the
    heads.

    Trains: Z and B of the orthogonal adapter, whose input side is kept orthogonal to the bases of earlier tasks; A and
    B of the residual of the task's own class token (`ClassResiduals`), or Z and B of residuals in the maps; the newest
    heads. Frozen: the backbone, earlier adapters and heads. Kept per task: factors, bases, heads; per class a mean and
    how it spreads (`ClassSpreads`); one covariance in all; no image. One pass per image.

    The public sources give the idea, not every equation; what is chosen is, but for the constants of `readout` and
    `spreads`, a field of `DualLoRAConfig` each.
    """

    name: ClassVar[str] = "duallora"
    Config: ClassVar[type[MethodConfig]] = DualLoRAConfig
    # What residuals of the class token learn reaches no other task, so they may train long: validation parts of the
    # digits and of PACS still gain from 5 to 10 epochs, PACS to 20.
    recommended: ClassVar[Mapping[str, object]] = {"epochs": 10}
    readouts: ClassVar[tuple[str, ...]] = ("product", "quadratic", "gaussian", "posterior", "tasks", "energy", "heads")
    config: DualLoRAConfig

    def __init__(self, backbone: BackboneLike, config: DualLoRAConfig) -> None:
        """Wrap the chosen maps of the backbone."""
        super().__init__(backbone, config, config.shrinkage)
        self.sites = nn.ModuleList()
        for slot in slots(backbone.attention, config.sites, config.blocks):
            site = DualLinear(slot, config, backbone.has_class_token)
            slot.attach(site)
            self.sites.append(site)
        self.residuals: ClassResiduals | None = None
        self.evidence = frozenset(block_indices(backbone.depth, config.evidence_blocks, "evidence_blocks"))
        if not self.evidence & {site.block for site in self._sites()}:
            raise DualLoRAError(
                f"evidence_blocks {list(config.evidence_blocks or ())} are none of the adapted blocks {config.blocks}; "
                "energies are read there: name one of them"
            )
        if config.residual_class:
            self.residuals = ClassResiduals(backbone, config.class_rank, config.class_blocks_of(backbone.depth))
        self.carry: Carry | None = None
        self.session: FirstSession | None = None  # in the first task, where it has one
        self._task, self._learning = -1, False

    def _sites(self) -> list[DualLinear]:
        return cast(list[DualLinear], list(self.sites))

    @property
    def _wants_own(self) -> bool:
        """Whether the task's own basis is to be measured before training."""
        return self.config.residual_maps and self.config.residual_basis == "own" and self._task > 0

    @property
    def starts_as_discriminant(self) -> bool:
        """Not in the first session: a head that is right at once leaves the network nothing to learn from."""
        return super().starts_as_discriminant and self.session is None

    @property
    def looks_ahead(self) -> bool:
        """Whether old features, the task's own basis or a start of its head are asked for."""
        return self.carry is not None or self._wants_own or super().looks_ahead

    def saw(self, features: Tensor) -> None:
        """Features before training, for the drift."""
        if self.carry:
            self.carry.before(features)

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A new head and fresh adapters."""
        self._task, self._learning = task.index, True
        self.session = self._first_session(len(task.classes))
        self.carry = Carry() if self.config.carry and self.config.moves and task.index > 0 else None
        own: list[Extension | None] = [None] * len(self.sites)
        if self._wants_own:
            for site in self._sites():
                site.collect()
        super().begin_task(task, batches)
        if task.index == 0 and self.config.has_first_session and not self.session:
            few = f"its rehearsal takes {FEWEST} classes, the task has {len(task.classes)}"
            self.log.notes.append(f"first session: none; {few}")
        if self._wants_own:
            own = [site.extension(task.index) for site in self._sites()]
        for site, extension in zip(self._sites(), own, strict=True):
            site.stop()
            site.begin(task.index, len(task.classes), extension, self.config.adapts(self.session is not None))

    def _first_session(self, classes: int) -> FirstSession | None:
        """For the first task, where it is asked for and there are classes enough."""
        cfg = self.config
        if self._task > 0 or not cfg.has_first_session:
            return None
        if cfg.first_share is None and classes < FEWEST:
            return None
        return FirstSession(self._sites(), cfg.first_share, classes, self.backbone.dim, cfg.shrinkage)

    @property
    def stages(self) -> int:
        """More than one in a first session: what the network learns must stand still before heads are learned on it."""
        return len(self.session.plan) if self.session else 1

    def begin_stage(self, stage: int, batches: Batches) -> None:
        """A first session's own stages; then the network moves as gently as it always will, and the residual begins."""
        if self.session:
            note = self.session.begin_stage(stage, self._features, self.read.local, batches)
            self.log.notes += [note] if note else []
            if self.session.moves:
                return
        if self.residuals:
            self.residuals.begin(len(self.rows.members[-1]))

    def groups(self) -> list[Group]:
        """What changes the network for every task, gently; the network's head; the residuals of the class token.

        The last are small, and what they do reaches no other task: they bear more. In a first session the head keeps
        pace with the network, which would otherwise learn what the head should.
        """
        cfg = self.config
        first = cfg.first_rate if self.session and self.session.moves else None
        parts = (
            (self.sites, first or cfg.orthogonal_rate),
            (self.read, first or 1.0),
            (self.residuals, cfg.class_rate),
            (self.session, first or 1.0),
        )
        return [Group([p for p in part.parameters() if p.requires_grad], rate) for part, rate in parts if part]

    def _pass(
        self, images: Tensor, evidence: bool, residuals: bool = False, levels: bool = True
    ) -> tuple[Tensor, Reading]:
        """One pass through the network with a fresh reading in every site."""
        reading = Reading(wanted=evidence)
        if self.residuals:
            self.residuals.listen(residuals)
        for site in self._sites():
            site.reading = reading
        return self.backbone(images, levels).float(), reading

    def _features(self, images: Tensor) -> Tensor:
        return self._pass(images, evidence=False)[0]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the newest head over its own classes, or against the Gaussians of earlier ones too.

        To it comes that of the newest residual's head. Both share the pass and the norm that gradients are clipped to,
        but no parameter.
        """
        rehearsal = self.session and self.session.rehearsal
        if rehearsal:
            local = self.read.local(labels)
            inside = rehearsal.inside(local)
            features = self._pass(images[inside], evidence=False, levels=False)[0] if inside.any() else images[inside]
            return rehearsal.loss(features, local[inside])
        seen = self.config.loss == "seen"  # the Gaussians that it asks read all D features
        own = self.residuals is not None and self.residuals.learning
        features, _ = self._pass(images, evidence=False, residuals=own, levels=seen)
        loss = self.read.seen_loss(features, labels) if seen else self.read.local_loss(features, labels)
        if self.residuals and own:
            logits = self.residuals.logits(self.residuals.features(features))
            target, smoothing = self.read.local(labels), self.config.class_smoothing
            loss = loss + F.cross_entropy(logits, target, label_smoothing=smoothing)
        return loss

    def end_task(self, batches: Batches) -> None:
        """One pass: second moments of every site, class Gaussians, drift; then fold and extend."""
        sample, first = Sample(), len(self.rows) - len(self.rows.members[-1])
        for site in self._sites():
            site.collect()
        for images, labels in each(batches):
            for site in self._sites():
                site.labels = self.read.local(labels) + first
            features = self._features(images)
            self.read.collect(features, labels)
            sample.add(features, labels)
            if self.carry:
                self.carry.after(features)
        if self.carry:
            # Class spreads stay as they were measured: the fitted change tells where means go, not how they spread.
            self.read.gaussians.carry(first, *self.carry.solve())
            self.carry = None
        for site in self._sites():
            extension = site.end(self._task, len(self.rows.members[-1]))
            if extension.full and self.config.orthogonal:
                self.log.notes.append(
                    f"block {site.block}: full, {site.bases.Phi.shape[1]} of {site.bases.Phi.shape[0]} directions "
                    f"used; {extension.captured:.1%} of this task's energy is protected instead of "
                    f"{self.config.energy_at(self._task):.1%}. Lower `energy`, or use a wider backbone."
                )
        self.log.capacity = self.capacity
        if self.residuals:
            self.residuals.end()
        self._learning = False
        self.read.finish(sample.features, sample.labels)

    def encode(self, images: Tensor) -> Encoding:
        """Features and, where the configured read-out uses them, energies in the bases or logits of the residuals."""
        return self.encode_for(images, (self.readout,))

    def encode_for(self, images: Tensor, readouts: Iterable[str]) -> Encoding:
        """The same for several read-outs."""
        readouts = tuple(readouts)
        wanted, own = "energy" in readouts, not self._learning and any(r not in WITHOUT_HEADS for r in readouts)
        features, reading = self._pass(images, wanted, own)
        logits = self.residuals.logits(self.residuals.features(features)) if own and self.residuals else None
        if not reading.relevance or not wanted:
            return Encoding(features, logits=logits)
        kept = [r for b, r in reading.relevance if b in self.evidence]
        return Encoding(features, torch.stack(kept).mean(0), logits)

    def decode(self, encoding: Encoding, readout: str | None = None) -> Output:
        """Scores by one of the read-outs; see `DualLoRAConfig.readout`.

        Raises:
            RuntimeError: the encoding was made for other read-outs.
        """
        chosen, cfg = readout or self.readout, self.config
        if chosen in WITHOUT_HEADS:
            return self.read.output(encoding, chosen)
        if self.residuals and encoding.logits is None:
            raise RuntimeError(f"the read-out {chosen} needs encode_for(images, ['{chosen}']), between tasks")
        if chosen in ("product", "tasks"):
            return self.read.output(encoding, chosen)
        logits = self.read.scores(encoding.features, "heads") if encoding.logits is None else encoding.logits
        owner, measure = self.rows.task_index(logits.device), self.read.measure(encoding.features)
        if chosen == "heads":
            return Output(logits, measure=measure)
        if chosen == "energy":
            if encoding.evidence is None:
                raise RuntimeError("the energy read-out needs encode_for(images, ['energy'])")
            pi = task_posterior(encoding.evidence, cfg.temperature)
        else:
            scores = self.read.gaussians.scores(encoding.features)
            mass = torch.softmax(scores, 1)
            pi = mass.new_zeros(len(mass), int(owner.max()) + 1).index_add_(1, owner, mass)
            log_pi = pi.clamp_min(1e-12).log()
            empty = (self.read.gaussians.counts == 0).to(logits.device)  # heads know nothing of what had no images
            joint = self.rows.within_tasks(logits) + log_pi[:, owner]
            return Output(joint.masked_fill(empty, -torch.inf), log_pi, measure)
        c = confidence(pi, cfg.confidence)
        return Output(calibrate(logits, owner, pi, c, cfg.calibration), pi.clamp_min(1e-12).log(), measure)

    @property
    def capacity(self) -> list[float] | None:
        """Used share of the directions of each site, in [0, 1]; None where nothing that moves keeps clear of them."""
        return [capacity(site.bases.Phi) for site in self._sites()] if self.config.moves else None

    def state(self) -> State:
        """Read-out and all sites."""
        state = super().state()
        for i, site in enumerate(self._sites()):
            state |= prefixed(f"site.{i}", site.state())
        return state | (prefixed("residuals", self.residuals.state()) if self.residuals else {})

    def load_state(self, state: State) -> None:
        """Restore `state()` into a fresh method; see `DualLinear.load_state`."""
        super().load_state(state)
        for i, site in enumerate(self._sites()):
            site.load_state(part(f"site.{i}", state))
        if self.residuals:
            self.residuals.load_state(part("residuals", state))
        self._task = len(self.rows.members) - 1
        self.log = TaskLog(capacity=self.capacity)

"""CODA-Prompt: prompts put together from components, by weights that are learned with everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from duallora.methods.base import BackboneLike, Batches, State, TaskInfo
from duallora.methods.prompts.components import gram_schmidt, penalty, weights
from duallora.methods.prompts.grown import Grown
from duallora.methods.prompts.prefix import attach, inserted
from duallora.methods.prompts.two_pass import PromptConfig, TwoPassMethod


class CODAPromptConfig(PromptConfig):
    """Options of `codaprompt`."""

    components: int = Field(10, ge=1, description="components that a task adds in each block")
    length: int = Field(8, ge=2, multiple_of=2, description="L_p of a component: half are keys, half values")
    blocks: tuple[int, ...] | None = Field(None, description="0 to 4, as far as the backbone has them")
    orthogonality: float = Field(0.0, ge=0, description="lambda, weight of the orthogonality penalty")


class Components(nn.Module):
    """The components of one block: prompts P (M, L_p, d), keys K (M, d), attention vectors A (M, d)."""

    def __init__(self, dim: int, length: int) -> None:
        """None yet."""
        super().__init__()
        self.P, self.K, self.A = Grown(length, dim), Grown(dim), Grown(dim)

    def parts(self) -> list[tuple[str, Grown]]:
        """All three by name."""
        return [("P", self.P), ("K", self.K), ("A", self.A)]

    def prefix(self, query: Tensor) -> Tensor:
        """sum_m alpha_m P_m for queries (b, d), as keys and values: (b, 2, L_p / 2, d)."""
        alpha = weights(query, self.A(), self.K())
        with torch.autocast(query.device.type, enabled=False):
            p = torch.einsum("bm,mld->bld", alpha, self.P().float())
        halves: Tensor = p.unflatten(1, (2, -1))  # of the L_p rows: keys, values
        return halves


class CODAPrompt(TwoPassMethod):
    """CODA-Prompt (Smith et al. 2023, arXiv 2211.13218): an image's prompt is a weighted sum of learned components.

    In each of the first five blocks p = sum_m alpha_m P_m with alpha_m = cos(q(x) * A_m, K_m), q(x) the frozen
    network's feature; the first half of p extends the keys, the second the values of all heads (`PrefixSite`). The
    weights are differentiable: one loss trains all, local cross-entropy + lambda sum over blocks and over B in
    {P, K, A} of ||B B^T - I||^2, where B holds the components of all tasks so far as rows.

    Trains: the components P, K, A of the newest task, the newest head. Frozen: the backbone, earlier components and
    heads. Kept per task: `components` x (L_p + 2) x d per block, a head (and class Gaussians for the other read-outs).
    Task identity is used nowhere but in the local cross-entropy: at prediction the components of all tasks are summed.
    Two passes per image, in training too.

    The authors' script shares 100 components out over 10 tasks; here their number need not be known: each adds 10. They
    start by Gram-Schmidt against all earlier ones, as in the authors' later code; when a block has no free direction
    left (K and A have d), as random unit vectors, which is this library's choice and noted in the log. The penalty is
    the mean over the entries of the squared matrix; its weight lambda is 0 by default, as the authors' scripts have it
    since they start by Gram-Schmidt (before, they had 0.1 times a millionth of that mean). Rate and epochs
    (`recommended`) are those of the authors' scripts on CIFAR-100, there for batches of 128.
    """

    name: ClassVar[str] = "codaprompt"
    Config: ClassVar[type[CODAPromptConfig]] = CODAPromptConfig
    recommended: ClassVar[Mapping[str, object]] = {"learning_rate": 1e-3, "epochs": 20}
    config: CODAPromptConfig

    def __init__(self, backbone: BackboneLike, config: CODAPromptConfig) -> None:
        """No component yet."""
        super().__init__(backbone, config, config.shrinkage)
        chosen = range(min(5, backbone.depth)) if config.blocks is None else config.blocks
        self.sites = attach(backbone.attention, tuple(chosen))
        self.components = nn.ModuleDict({str(b): Components(backbone.dim, config.length) for b in self.sites})

    def _blocks(self) -> list[tuple[int, Components]]:
        return [(int(b), cast(Components, components)) for b, components in self.components.items()]

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A new head and new components."""
        super().begin_task(task, batches)
        for block, components in self._blocks():
            for name, part in components.parts():
                part.grow(gram_schmidt(part(), self.config.components))
                if len(part()) > part.width:
                    self.log.notes.append(
                        f"block {block}: {len(part())} components {name} of {part.width} dimensions cannot all be "
                        "orthogonal; lower `components`, or use a wider backbone"
                    )

    def prompted(self, images: Tensor, query: Tensor, levels: bool = True) -> Tensor:
        """Features with each image's own sum of components."""
        with inserted(self.sites, {block: components.prefix(query) for block, components in self._blocks()}):
            return self.backbone(images, levels).float()

    def penalty(self) -> Tensor:
        """Sum of the penalties of all components of all blocks."""
        return torch.stack([penalty(part()) for _, c in self._blocks() for _, part in c.parts()]).sum()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy + lambda x penalty."""
        loss = self.read.local_loss(self.prompted(images, self.query(images), levels=False), labels)
        return loss + self.config.orthogonality * self.penalty() if self.config.orthogonality else loss

    def _parts(self) -> list[tuple[str, Grown]]:
        return [(f"block.{b}.{name}", part) for b, c in self._blocks() for name, part in c.parts()]

    def state(self) -> State:
        """Components and read-out."""
        return super().state() | {name: part().detach() for name, part in self._parts()}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state)
        for name, part in self._parts():
            part.load(state, name)

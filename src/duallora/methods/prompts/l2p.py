"""L2P: a pool of prompt tokens, of which each image gets the few whose keys are nearest to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from duallora.methods.base import BackboneLike, State
from duallora.methods.prompts.tokens import InputTokens, Pooled
from duallora.methods.prompts.two_pass import PromptConfig, TwoPassMethod, cosines, restore, small_uniform


class L2PConfig(PromptConfig):
    """Options of `l2p`."""

    pool: int = Field(10, ge=1, description="M, prompts in the pool; all tasks share them")
    length: int = Field(5, ge=1, description="L_p, tokens of a prompt")
    top: int = Field(5, ge=1, description="N, prompts that an image gets")
    key_loss: float = Field(1.0, ge=0, description="lambda, weight of the term that pulls chosen keys to the query")
    pooled: Pooled = Field(
        "prompts",
        description="the feature: mean of the prompt tokens' outputs, or the class token (mean of the patch tokens "
        "in a backbone without)",
    )

    @model_validator(mode="after")
    def _choose_from_the_pool(self) -> Self:
        if self.top > self.pool:
            raise ValueError(f"top = {self.top} prompts cannot be chosen from a pool of {self.pool}; raise `pool`")
        return self


class L2P(TwoPassMethod):
    """Learning to Prompt (Wang et al. 2022, arXiv 2112.08654): a shared pool of prompts, chosen by matching keys.

    The frozen network's feature is the query q(x). Of the pool {(k_m, P_m)}, m = 1..M, an image gets the N prompts with
    the largest cos(q(x), k_m). Their N L_p tokens join the embedded image before the first block, and the feature is
    the mean of the prompt tokens' outputs after the final norm. Loss: local cross-entropy + lambda sum over chosen m of
    (1 - cos(q(x), k_m)), mean over the batch; the choice itself passes no gradient, so this term alone moves keys.

    Trains: all keys (M, d) and prompts (M, L_p, d) in every task, the newest head. Frozen: the backbone and the earlier
    heads. Kept per task: a head (and class Gaussians for the other read-outs); the pool does not grow. Task identity
    is used nowhere but in the local cross-entropy. Two passes per image, in training too.

    Defaults are those of the authors' CIFAR-100 code (start of keys and prompts, lambda = 1, rate 0.03 per 256 images,
    constant, 5 epochs) but for N and L_p, which are 5 and 5 here, as notes on the paper say of its CIFAR-100, and 4 and
    10 there: 25 tokens instead of 40. The choice is made for each image, also where that code takes a majority over the
    batch. The paper's optional penalty on prompts that earlier tasks used much is left out, as in that code's CIFAR-100
    settings. Position embeddings are not added to prompts. Without a class token the query is the mean patch token (the
    paper has no such network).
    """

    name: ClassVar[str] = "l2p"
    Config: ClassVar[type[L2PConfig]] = L2PConfig
    # 0.03 x 64 / 256 images, and constant, in the authors' configurations
    recommended: ClassVar[Mapping[str, object]] = {"learning_rate": 7.5e-3, "schedule": "constant", "warmup": 0.0}
    config: L2PConfig

    def __init__(self, backbone: BackboneLike, config: L2PConfig) -> None:
        """A random pool."""
        super().__init__(backbone, config, config.shrinkage)
        self.keys = nn.Parameter(small_uniform(config.pool, backbone.dim))
        self.prompts = nn.Parameter(small_uniform(config.pool, config.length, backbone.dim))
        self.input = InputTokens(backbone, config.pooled)

    def choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (b, N) of the prompts with the nearest keys, and their cosines (b, N)."""
        near, chosen = cosines(query, self.keys).topk(self.config.top, dim=1)
        return chosen, near

    def _run(self, images: Tensor, chosen: Tensor, levels: bool = True) -> Tensor:
        """The prompted pass: features (b, D), or (b, d)."""
        with self.input.inserted(self.prompts[chosen].flatten(1, 2)):  # (b, N, L, d) -> (b, N L, d)
            return self.backbone(images, levels).float()

    def prompted(self, images: Tensor, query: Tensor) -> Tensor:
        """Features with the prompts of the nearest keys."""
        return self._run(images, self.choose(query)[0])

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy + lambda x key loss."""
        chosen, near = self.choose(self.query(images))
        pull = (1 - near).sum(1).mean()
        return self.read.local_loss(self._run(images, chosen, levels=False), labels) + self.config.key_loss * pull

    def state(self) -> State:
        """Pool and read-out."""
        return super().state() | {"keys": self.keys.detach(), "prompts": self.prompts.detach()}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state)
        restore([("keys", self.keys), ("prompts", self.prompts)], state)

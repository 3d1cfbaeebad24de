"""DualPrompt: one prefix that all tasks share, and one per task that a key calls up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from duallora.methods.base import BackboneLike, Batches, Encoding, State, TaskInfo
from duallora.methods.prompts.grown import Grown
from duallora.methods.prompts.prefix import attach, inserted
from duallora.methods.prompts.two_pass import PromptConfig, TwoPassMethod, cosines, restore, small_uniform

Blocks = tuple[int, ...]


class DualPromptConfig(PromptConfig):
    """Options of `dualprompt`."""

    general_length: int = Field(5, ge=1, description="keys (and as many values) of the shared prefix, per block")
    general_blocks: Blocks | None = Field(None, description="its blocks; 0 and 1, fewer in a very shallow backbone")
    expert_length: int = Field(20, ge=1, description="keys (and as many values) of a task's own prefix, per block")
    expert_blocks: Blocks | None = Field(None, description="its blocks; 2, 3 and 4, as far as the backbone has them")
    expert_start: Literal["previous", "random"] = Field(
        "previous", description="a new task's prefix starts as a copy of the last task's, or random"
    )
    key_loss: float = Field(1.0, ge=0, description="lambda, weight of the term that pulls a task's key to its images")


def default_blocks(depth: int) -> tuple[Blocks, Blocks]:
    """Blocks of the shared and of the tasks' own prefixes: (0, 1) and (2, 3, 4), both shortened to fit the depth.

    >>> default_blocks(12), default_blocks(3), default_blocks(1)
    (((0, 1), (2, 3, 4)), ((0, 1), (2,)), ((), (0,)))
    """
    general = min(2, depth - 1)
    return tuple(range(general)), tuple(range(general, min(5, depth)))


class DualPrompt(TwoPassMethod):
    """DualPrompt (Wang et al. 2022, arXiv 2204.04799): a general prefix, and an expert prefix and key per task.

    Prefix tuning (`PrefixSite`): the G-prompt extends keys and values of the first blocks and is trained on and on;
    E-prompt e_t extends those of the following blocks for task t alone. The frozen network's feature is the query q(x).
    Training on task t uses e_t, known from the task boundary, and pulls its key: loss = local cross-entropy
    + lambda (1 - cos(q(x), k_t)). Whenever features are read, at prediction and for the statistics at the end of a task
    alike, the image's own query decides: t = argmax cos(q(x), k_t). Where the true task is given (`encode_given`), its
    E-prompt is taken; class Gaussians stay those of prompts that queries chose.

    Trains: the G-prompt, the newest E-prompt and key, the newest head. Frozen: the backbone, earlier E-prompts, keys
    and heads. Kept per task: an E-prompt (blocks, 2, L_e, d), a key (d), a head (and class Gaussians for the other
    read-outs). Two passes per image, in training too.

    Blocks, L_g = 5, lambda, the start and the copy of the last task's E-prompt are those of the authors' code, L_e = 20
    that of its ImageNet-R settings, the rate (0.03 per 256 images, constant, 5 epochs; there 0.005 and 50) that of its
    CIFAR-100 settings. A length counts keys, with as many values beside them, as in that code. The choice is made for
    each image, also where that code takes a majority over the batch. Pool and keys grow with the tasks, whose number
    need not be known.
    """

    name: ClassVar[str] = "dualprompt"
    Config: ClassVar[type[DualPromptConfig]] = DualPromptConfig
    # 0.03 x 64 / 256 images, and constant, in the authors' configurations
    recommended: ClassVar[Mapping[str, object]] = {"learning_rate": 7.5e-3, "schedule": "constant", "warmup": 0.0}
    config: DualPromptConfig

    def __init__(self, backbone: BackboneLike, config: DualPromptConfig) -> None:
        """A random G-prompt, no task yet."""
        super().__init__(backbone, config, config.shrinkage)
        depth, d = backbone.depth, backbone.dim
        general, expert = default_blocks(depth)
        general = general if config.general_blocks is None else config.general_blocks
        expert = expert if config.expert_blocks is None else config.expert_blocks
        self.sites = attach(backbone.attention, (*general, *expert))
        self.general_blocks = tuple(dict.fromkeys(b % depth for b in general))
        self.expert_blocks = tuple(dict.fromkeys(b % depth for b in expert))
        self.general = nn.Parameter(small_uniform(len(self.general_blocks), 2, config.general_length, d))
        self.experts = Grown(len(self.expert_blocks), 2, config.expert_length, d)
        self.keys = Grown(d)

    def begin_task(self, task: TaskInfo, batches: Batches) -> None:
        """A new head, a new E-prompt and its key."""
        super().begin_task(task, batches)
        copied = len(self.keys()) > 0 and self.config.expert_start == "previous"
        self.experts.grow(self.experts()[-1:] if copied else small_uniform(1, *self.experts.earlier.shape[1:]))
        self.keys.grow(small_uniform(1, self.backbone.dim))

    def match(self, query: Tensor) -> Tensor:
        """Task (b,) whose key is nearest to each query (b, d)."""
        return cosines(query, self.keys()).argmax(1)

    def _run(self, images: Tensor, expert: Tensor, levels: bool = True) -> Tensor:
        """The prompted pass with E-prompts (b, blocks, 2, L_e, d): features (b, D), or (b, d)."""
        prefixes = {
            b: p.expand(len(images), -1, -1, -1) for b, p in zip(self.general_blocks, self.general, strict=True)
        }
        for b, p in zip(self.expert_blocks, expert.unbind(1), strict=True):
            prefixes[b] = torch.cat([prefixes[b], p], dim=2) if b in prefixes else p
        with inserted(self.sites, prefixes):
            return self.backbone(images, levels).float()

    def prompted(self, images: Tensor, query: Tensor) -> Tensor:
        """Features with the E-prompt of the nearest key."""
        return self._run(images, self.experts()[self.match(query)])

    def encode_given(self, images: Tensor, task: int) -> Encoding:
        """Features with the E-prompt of the images' true task: one pass."""
        return Encoding(self._run(images, self.experts()[task].expand(len(images), -1, -1, -1, -1)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy with the task's own E-prompt + lambda x key loss."""
        pull = (1 - cosines(self.query(images), self.keys.newest)).mean()
        features = self._run(images, self.experts.newest.expand(len(images), -1, -1, -1, -1), levels=False)
        return self.read.local_loss(features, labels) + self.config.key_loss * pull

    def state(self) -> State:
        """Prompts, keys and read-out."""
        own = {"general": self.general, "experts": self.experts(), "keys": self.keys()}
        return super().state() | {name: tensor.detach() for name, tensor in own.items()}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state)
        restore([("general", self.general)], state)
        self.experts.load(state, "experts")
        self.keys.load(state, "keys")

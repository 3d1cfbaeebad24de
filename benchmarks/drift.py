#!/usr/bin/env python3
"""How far class-attention features of the first task move while later tasks are learned: DualLoRA against LoRA.

    python benchmarks/drift.py [CONFIG.yaml] [--set key=value ...] [--json FILE]

Relative drift of a block: mean over the first task's test images of ||xbar_after - xbar_before|| / ||xbar_before||,
before = after the first task, after = after the last. Same backbone, stream, seed and training; the residual is off, so
that only the orthogonal adapter is judged.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from duallora.config import MethodChoice, RunConfig, load_config
from duallora.evaluation.runner import build_stream
from duallora.learner import Learner
from duallora.lowrank import class_attention


@torch.no_grad()
def features(learner: Learner, images: object) -> list[Tensor]:
    """Class-attention feature (n, d) of every block."""
    attention = learner.backbone.attention
    held: list[list[Tensor]] = [[] for _ in attention]

    def hook(block: int):
        def read(module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            weights = class_attention(output, attention[block]).mean(1, keepdim=True)
            held[block].append((weights @ inputs[0].float()).squeeze(1).cpu())

        return read

    hooks = [owner.qkv.register_forward_hook(hook(b)) for b, owner in enumerate(attention)]
    for x, _ in learner.batches(images):
        with torch.autocast(x.device.type, enabled=False):
            learner.method.encode(x)
    for handle in hooks:
        handle.remove()
    return [torch.cat(parts) for parts in held]


def drift(config: RunConfig, method: str, options: dict[str, object]) -> list[float]:
    """Relative drift per block of one method over the stream."""
    stream = build_stream(config.stream)
    learner = Learner.of(config.model_copy(update={"method": MethodChoice(name=method, options=options)}))
    learner.learn(stream[0].train, progress=False)
    before = features(learner, stream[0].test)
    for task in stream[1:]:
        learner.learn(task.train, progress=False)
    after = features(learner, stream[0].test)
    return [float(((b - a).norm(dim=1) / b.norm(dim=1)).mean()) for b, a in zip(before, after, strict=True)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="digits")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = load_config(args.config, args.settings)
    rows = {
        "lora": drift(config, "lora", {}),
        "duallora, orthogonal only": drift(
            config, "duallora", {"residual": "none", "orthogonal_rate": 1.0, "head_init": "random"}
        ),
        "duallora, orthogonal only, eps 0.99": drift(
            config, "duallora", {"residual": "none", "orthogonal_rate": 1.0, "head_init": "random", "energy": 0.99}
        ),
    }
    base = rows["lora"]
    factors = {
        name: [b / max(r, 1e-12) if b else None for b, r in zip(base, row, strict=True)] for name, row in rows.items()
    }
    text = json.dumps({"relative_drift": rows, "factor_against_lora": factors}, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

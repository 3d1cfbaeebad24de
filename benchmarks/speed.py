#!/usr/bin/env python3
"""Speed as ratios in one run.

Inference against plain timm, a training step against PEFT's LoRA, statistics against training.

    python benchmarks/speed.py [--tasks 10] [--rounds 12] [--json FILE]

Figures of one machine are noise; the two sides of a ratio alternate within the same minute and the median of the
pairwise ratios is told. Inference is measured on the bundled backbone, in batches as `predict` and `evaluate` take on a
processor and elsewhere, and on backbones of the sizes that people use (their weights random: timing needs no sense in
them). Plain timm is timm's own forward pass with the attention that it chooses; so is the network under PEFT, but with
the attention that we choose for training, which is the faster one there. PEFT is optional
(`pip install duallora[bench]`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from duallora.backbone import load_backbone
from duallora.backbone.bundled import load_bundled
from duallora.compat import import_timm
from duallora.methods import TaskInfo, get_method
from duallora.methods.base import Method, begin_stages
from duallora.training.device import Session, choose_device

INFERENCE = (  # backbones, images per pass
    ("bundled", 64),
    ("bundled", 256),
    ("vit_small_patch16_224", 32),
    ("vit_base_patch16_224", 16),
)
TASK_IMAGES = 2048  # of a task whose statistics are timed; what does not grow with them weighs less in larger tasks


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median of theirs / ours over alternating rounds: above 1 we are faster."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
        "ours_seconds": statistics.median(a for a, _ in pairs),
        "theirs_seconds": statistics.median(b for _, b in pairs),
    }


def learned(tasks: int, device: torch.device, name: str = "bundled") -> Method:
    """DualLoRA with its defaults after so many tasks of two classes on random images.

    Timing needs no sense in them.
    """
    backbone = load_backbone(name, pretrained=name == "bundled", levels=None).to(device)  # as Learner and runs take it
    kind = get_method("duallora")
    method = kind(backbone, kind.Config()).to(device)
    size = backbone.preprocessing.size
    for t in range(tasks):
        images = torch.randn(32, 3, size, size, device=device)
        labels = torch.arange(32, device=device) % 2 + 2 * t
        method.begin_task(TaskInfo(t, (2 * t, 2 * t + 1), 32), [(images, labels)])
        for _ in begin_stages(method, [(images, labels)]):
            for parameter in method.trainable():
                torch.nn.init.normal_(parameter, std=0.02)
        method.end_task([(images, labels)])
    return method


def plain_timm(name: str) -> torch.nn.Module:
    """The same network as timm gives it, frozen."""
    vit = load_bundled() if name == "bundled" else import_timm().create_model(name, num_classes=0)
    return vit.requires_grad_(False).eval()


def statistics_share(
    method: Method, images: torch.Tensor, step_of: Callable[[], Callable[[torch.Tensor], None]], session: Session
) -> float:
    """Time of a whole `end_task` over that of 20 epochs on the same images; the median of three tasks.

    It comprises second moments, Gaussians, drift and bases.
    """
    shares = []
    for _ in range(3):
        task = len(method.rows.members)
        first = method.rows.class_count
        labels = torch.arange(len(images), device=images.device) % 2 + first
        batches = [(images, labels)] * (TASK_IMAGES // len(images))
        with torch.no_grad(), session.autocast():
            method.begin_task(TaskInfo(task, (first, first + 1), TASK_IMAGES), batches)
        step = partial(step_of(), labels)
        training = statistics.median(seconds(step) for _ in range(6)) * 20 * len(batches)
        with torch.no_grad(), session.autocast():
            shares.append(seconds(partial(method.end_task, batches)) / training)
    return statistics.median(shares)


def inference(method: Method, name: str, batch: int, session: Session, rounds: int) -> dict[str, object]:
    """Scores of a batch by a method, against the final tokens of the same batch by plain timm."""
    size, device = method.backbone.preprocessing.size, session.device
    images = torch.randn(batch, 3, size, size, device=device)
    plain = plain_timm(name).to(device)

    @torch.no_grad()
    def infer(network: Callable[[torch.Tensor], object]) -> None:
        with session.autocast():
            network(images)

    found = ratio(partial(infer, method), partial(infer, plain.forward_features), rounds)
    return {"backbone": name, "image_size": size, "batch": batch, **found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = choose_device("auto")
    session = Session.of("auto", device)
    figures: dict[str, object] = {
        "device": str(device),
        "precision": "bf16" if session.bfloat16 else "no",
        "tasks": args.tasks,
    }
    method = learned(args.tasks, device)
    size = method.backbone.preprocessing.size
    figures["inference_vs_timm"] = [
        inference(method if name == "bundled" else learned(args.tasks, device, name), name, batch, session, args.rounds)
        for name, batch in INFERENCE
    ]

    images = torch.randn(args.batch, 3, size, size, device=device)
    labels = torch.arange(args.batch, device=device) % 2 + 2 * args.tasks
    method.begin_task(TaskInfo(args.tasks, (2 * args.tasks, 2 * args.tasks + 1), args.batch), [(images, labels)])

    def step_of(parameters: list[torch.nn.Parameter], loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)

        def step() -> None:
            optimizer.zero_grad()
            with session.autocast():
                value = loss()
            value.backward()
            optimizer.step()

        return step

    ours = step_of(method.trainable(), lambda: method.loss(images, labels))
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        figures["training_step_vs_peft"] = "peft is not installed: pip install duallora[bench]"
    else:
        other = plain_timm("bundled")
        rank = method.config.rank + (method.config.residual_rank if method.config.residual_maps else 0)
        inject_adapter_in_model(LoraConfig(r=rank, target_modules=["qkv"]), other)
        other.to(device)
        ours()
        for block, attention in zip(other.blocks, method.backbone.attention, strict=True):
            block.attn.fused_attn = attention.fused_attn  # what is fastest in training for both
        head = torch.nn.Linear(method.backbone.dim, 2).to(device)
        trained = [p for n, p in other.named_parameters() if "lora_" in n]
        for p in trained:
            p.requires_grad_(True)
        theirs = step_of(
            [*trained, *head.parameters()],
            lambda: torch.nn.functional.cross_entropy(head(other(images)).float(), labels * 0),
        )
        figures["training_step_vs_peft"] = ratio(ours, theirs, args.rounds)

    method.end_task([(images, labels)])

    def fresh_step() -> Callable[[torch.Tensor], None]:
        now = torch.zeros_like(labels)
        step = step_of(method.trainable(), lambda: method.loss(images, now))
        return lambda y: (now.copy_(y), step())[1]

    figures["statistics_share_of_20_epochs"] = statistics_share(method, images, fresh_step, session)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

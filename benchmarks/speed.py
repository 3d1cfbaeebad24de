#!/usr/bin/env python3
"""Speed as ratios in one run.

Inference against plain timm, a training step against PEFT's LoRA, statistics against training.

    python benchmarks/speed.py [--tasks 10] [--rounds 12] [--json FILE]

Figures of one machine are noise; the two sides of a ratio alternate within the same minute and the median of the
pairwise ratios is told. PEFT is optional (`pip install duallora[bench]`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from duallora.backbone import load_backbone
from duallora.methods import TaskInfo, get_method
from duallora.methods.base import Method
from duallora.training.device import accelerator, choose_device


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


def learned(tasks: int, device: torch.device) -> Method:
    """DualLoRA with its defaults after so many tasks of two classes on random images.

    Timing needs no sense in them.
    """
    backbone = load_backbone().to(device)
    kind = get_method("duallora")
    method = kind(backbone, kind.Config()).to(device)
    size = backbone.preprocessing.size
    for t in range(tasks):
        images = torch.randn(32, 3, size, size, device=device)
        labels = torch.arange(32, device=device) % 2 + 2 * t
        method.begin_task(TaskInfo(t, (2 * t, 2 * t + 1), 32), [(images, labels)])
        for parameter in method.trainable():
            torch.nn.init.normal_(parameter, std=0.02)
        method.end_task([(images, labels)])
    return method


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = choose_device("auto")
    accelerate = accelerator("auto", device)
    figures: dict[str, object] = {"device": str(device), "precision": accelerate.mixed_precision, "tasks": args.tasks}
    method = learned(args.tasks, device)
    size = method.backbone.preprocessing.size
    images = torch.randn(args.batch, 3, size, size, device=device)
    labels = torch.zeros(args.batch, dtype=torch.int64, device=device)
    plain = load_backbone().to(device)

    @torch.no_grad()
    def infer(network: Callable[[torch.Tensor], object]) -> None:
        with accelerate.autocast():
            network(images)

    figures["inference_vs_timm"] = ratio(lambda: infer(method), lambda: infer(plain), args.rounds)

    labels = labels + 2 * args.tasks
    method.begin_task(TaskInfo(args.tasks, (2 * args.tasks, 2 * args.tasks + 1), args.batch), [(images, labels)])

    def step_of(parameters: list[torch.nn.Parameter], loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)

        def step() -> None:
            optimizer.zero_grad()
            with accelerate.autocast():
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
        other = load_backbone()
        rank = method.config.rank * 2 if method.config.residual else method.config.rank
        inject_adapter_in_model(LoraConfig(r=rank, target_modules=["qkv"]), other.vit)
        other.to(device)
        head = torch.nn.Linear(other.dim, 2).to(device)
        trained = [p for n, p in other.named_parameters() if "lora_" in n]
        for p in trained:
            p.requires_grad_(True)
        theirs = step_of(
            [*trained, *head.parameters()],
            lambda: torch.nn.functional.cross_entropy(head(other(images)).float(), labels * 0),
        )
        figures["training_step_vs_peft"] = ratio(ours, theirs, args.rounds)

    def epochs() -> None:
        ours()

    def statistics_pass() -> None:
        with torch.no_grad(), accelerate.autocast():
            for site in method.sites:
                site.collect()
                site.labels = method.read.local(labels) + len(method.rows) - 2
            method.encode(images)
            for site in method.sites:
                site.stop()

    cost = ratio(statistics_pass, epochs, args.rounds)
    figures["statistics_share_of_20_epochs"] = 1 / cost["ratio"] / 20
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()

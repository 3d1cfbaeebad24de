#!/usr/bin/env python3
"""Train the bundled backbone: a small plain ViT, supervised, on any labelled set of images.

    python scripts/pretrain_backbone.py IMAGES OUT [--epochs 22] [--depth 6] ...

IMAGES is a folder with one sub-folder per class, or an .npz with `train_x` (n, s, s, 3) uint8 and `train_y` (n,).
OUT receives `backbone.safetensors` (float16, timm's parameter names), `recipe.json` (every setting, the loss per epoch,
versions, seconds) and, while training, `checkpoint.pt`, from which the same command goes on.

The defaults are made for a processor without accelerator, where the number of images seen is what is dear:

* the resolution grows during training (``--sizes``): 17 tokens at 32 px cost a quarter of 65 tokens at 64 px;
* Muon (Jordan et al. 2024, `torch.optim.Muon`) updates the matrices of the blocks, AdamW everything else;
* a bfloat16 copy of the network computes, a float32 master of its weights is updated;
* random resized crops, flips and colour changes are drawn for a whole batch at once, where the network is.

With an accelerator the images are what runs out: more epochs, a deeper network, and all that keeps it from learning
them by heart; the model card of the bundled weights has the command. ``--size-per-step`` draws one of ``--sizes`` for
every step, so that the network serves at all of them; ``--compile`` compiles one block for all, which is why it goes
without ``--drop-path``. All images lie on the accelerator, as bytes: 1.2 GB for Tiny-ImageNet.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from duallora.compat import import_timm

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHECKPOINT_SECONDS = 60  # at least, between two checkpoints


def read_images(source: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """All images as one uint8 array (n, size, size, 3) and their labels (n,)."""
    if source.suffix == ".npz":
        with np.load(source) as arrays:
            return arrays["train_x"], arrays["train_y"].astype(np.int64)
    from PIL import Image

    classes = sorted(p for p in source.iterdir() if p.is_dir())
    if not classes:
        raise SystemExit(f"{source}: no class folders found; expected {source}/<class>/<image>")
    images, labels = [], []
    for label, folder in enumerate(classes):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".bmp"}:
                with Image.open(path) as image:
                    images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)))
                labels.append(label)
    return np.stack(images), np.asarray(labels)


def augment(
    images: Tensor, size: int, rng: torch.Generator, scale: tuple[float, float], jitter: float, three: bool = False
) -> Tensor:
    """Random resized crop, flip, brightness and contrast of a batch: uint8 (b, s, s, 3) -> float (b, 3, size, size).

    Args:
        images: on the device of `rng`.
        size: pixels a side of what comes back.
        rng: draws all.
        scale: area of the crop, as shares.
        jitter: brightness and contrast change by up to this share.
        three: each image also turns gray, is solarised or is blurred (3-Augment, DeiT III, arXiv:2204.07118).
    """
    b, device = len(images), images.device
    draw = lambda low, high: low + (high - low) * torch.rand(b, generator=rng, device=device)  # noqa: E731
    area, log_ratio = draw(*scale), draw(math.log(3 / 4), math.log(4 / 3))
    height = (area / log_ratio.exp()).sqrt().clamp(max=1)  # sides as shares of the whole image
    width = (area * log_ratio.exp()).sqrt().clamp(max=1)
    flip = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2], theta[:, 1, 2] = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    x = images.permute(0, 3, 1, 2).float().div_(255)
    x = F.grid_sample(x, F.affine_grid(theta, [b, 3, size, size], align_corners=False), align_corners=False)
    if three:
        x = one_of_three(x, draw(0, 3))
    gray = x.mean((1, 2, 3), keepdim=True)
    contrast, brightness = (draw(1 - jitter, 1 + jitter).view(b, 1, 1, 1) for _ in range(2))
    x = ((x - gray) * contrast + gray) * brightness
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    return (x.clamp_(0, 1) - mean) / std


def one_of_three(x: Tensor, which: Tensor) -> Tensor:
    """Images (b, 3, s, s) from 0 to 1: gray where `which` (b,) is below 1, solarised below 2, else blurred."""
    which = which.view(-1, 1, 1, 1)
    row = x.new_tensor([1, 4, 6, 4, 1]) / 16  # binomial: a standard deviation of one pixel
    kernel = (row[:, None] * row).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    gray = (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).expand_as(x)
    solarised = torch.where(x < 0.5, x, 1 - x)
    return torch.where(which < 1, gray, torch.where(which < 2, solarised, blurred))


def mix(x: Tensor, target: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), evenly; targets are probabilities (b, classes)."""
    if not alpha:
        return x, target
    share = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    if rng.random() < 0.5:
        return x.mul(share).add_(x[order], alpha=1 - share), share * target + (1 - share) * target[order]
    side = x.shape[-1]
    cut = int(side * math.sqrt(1 - share))
    top, left = (int(rng.integers(0, side - cut + 1)) for _ in range(2))
    x = x.clone()
    x[..., top : top + cut, left : left + cut] = x[order][..., top : top + cut, left : left + cut]
    share = 1 - cut * cut / side / side
    return x, share * target + (1 - share) * target[order]


def optimisers(model: nn.Module, lr: float, weight_decay: float, muon: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms, biases and the head."""
    matrices = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2 and muon]
    ids = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in ids]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = rest[0].device.type == "cuda"
    chosen: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=fused)]
    if matrices:
        chosen.append(torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return chosen


def train(args: argparse.Namespace) -> None:
    timm = import_timm()
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = read_images(args.images, args.size)
    targets, pixels = torch.from_numpy(labels).to(device), torch.from_numpy(images).to(device)
    shape = {
        "img_size": args.size,
        "patch_size": args.patch,
        "embed_dim": args.width,
        "depth": args.depth,
        "num_heads": args.heads,
    }
    master = timm.models.vision_transformer.VisionTransformer(
        **shape, num_classes=int(targets.max()) + 1, dynamic_img_size=True, drop_path_rate=args.drop_path
    ).to(device)
    worker = copy.deepcopy(master).bfloat16()
    for block in worker.blocks:
        # the fused backward pass is five times slower than plain products on a CPU
        block.attn.fused_attn = device != "cpu"
        if args.compile:
            block.compile()
    ema = copy.deepcopy(master) if args.ema else None
    big, small = list(master.parameters()), list(worker.parameters())
    chosen = optimisers(master, args.lr, args.weight_decay, args.optimizer == "muon")
    steps = len(pixels) // args.batch
    total, warm, done, history, spent = args.epochs * steps, args.warmup * steps, 0, [], 0.0
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        master.load_state_dict(saved["model"])
        for opt, state in zip(chosen, saved["optimisers"], strict=True):
            opt.load_state_dict(state)
        if ema is not None:
            ema.load_state_dict(saved.get("ema") or saved["model"])  # of a run that has kept none it begins now
        done, history, spent = saved["epoch"], saved["history"], saved["seconds"]
    saved_at = time.perf_counter()
    for epoch in range(done, args.epochs):
        began, running = time.perf_counter(), torch.zeros((), device=device)
        size = (
            args.sizes[min(len(args.sizes) - 1, epoch * len(args.sizes) // args.epochs)]
            if not args.switch
            else args.sizes[sum(epoch >= s for s in args.switch)]
        )
        torch.manual_seed(args.seed * 1000 + epoch)  # for drop path
        draw = torch.Generator(device).manual_seed(args.seed * 1000 + epoch)
        rng = np.random.default_rng(args.seed * 1000 + epoch)
        order = torch.randperm(len(pixels), generator=draw, device=device)
        worker.train()
        for step in range(steps):
            at = epoch * steps + step
            rate = args.lr * min((at + 1) / max(warm, 1), 0.5 + 0.5 * math.cos(math.pi * at / total))
            for opt in chosen:
                for group in opt.param_groups:
                    group["lr"] = rate
            if args.size_per_step:
                size = int(rng.choice(args.sizes))
            with torch.no_grad():
                torch._foreach_copy_(small, big)
            rows = order[step * args.batch : (step + 1) * args.batch]
            x = augment(pixels[rows], size, draw, tuple(args.scale), args.jitter, args.three_augment)
            y = F.one_hot(targets[rows], master.num_classes).float()
            x, y = mix(x, y * (1 - args.smoothing) + args.smoothing / y.shape[1], args.mixup, rng)
            loss = F.cross_entropy(worker(x.bfloat16()).float(), y)
            loss.backward()
            for exact, rough in zip(big, small, strict=True):
                exact.grad, rough.grad = rough.grad.float(), None
            nn.utils.clip_grad_norm_(master.parameters(), 1.0)
            for opt in chosen:
                opt.step()
            if ema is not None:
                with torch.no_grad():
                    torch._foreach_lerp_(list(ema.parameters()), big, 1 - min(args.ema, (at + 1) / (at + 10)))
            running += loss.detach()
            if args.report and step % args.report == 0:
                print(
                    f"epoch {epoch} step {step}/{steps} size {size} loss {loss.item():.3f} "
                    f"{(step + 1) * args.batch / (time.perf_counter() - began):.0f} img/s",
                    flush=True,
                )
        loss_of_epoch = running.item() / steps  # waits for the device
        seconds = time.perf_counter() - began
        spent += seconds
        history.append(
            {
                "epoch": epoch,
                "of": args.epochs,
                "size": args.sizes if args.size_per_step else size,
                "loss": loss_of_epoch,
                "seconds": seconds,
            }
        )
        print(json.dumps(history[-1]), flush=True)
        if epoch + 1 < args.epochs and time.perf_counter() - saved_at < CHECKPOINT_SECONDS:
            continue
        saved_at = time.perf_counter()
        partial = checkpoint.with_suffix(".tmp")
        torch.save(
            {
                "model": master.state_dict(),
                "ema": None if ema is None else ema.state_dict(),
                "optimisers": [o.state_dict() for o in chosen],
                "epoch": epoch + 1,
                "history": history,
                "seconds": spent,
            },
            partial,
        )
        partial.replace(checkpoint)
    final = (ema or master).state_dict()
    weights = {k: v.half().contiguous().cpu() for k, v in final.items() if not k.startswith("head.")}
    save_file(weights, args.out / "backbone.safetensors", metadata={"format": "pt"})
    recipe = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in {"out", "report"}}
    recipe |= {
        "shape": shape,
        "mean": MEAN,
        "std": STD,
        "images": len(pixels),
        "history": history,
        "seconds": spent,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "device": device,
    }
    recipe["images"], recipe["source"] = len(pixels), args.images.name
    (args.out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    for name, default in {
        "size": 64,
        "patch": 8,
        "width": 192,
        "depth": 6,
        "heads": 3,
        "epochs": 22,
        "batch": 256,
        "seed": 0,
        "report": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in {
        "lr": 2e-3,
        "weight-decay": 0.05,
        "smoothing": 0.1,
        "mixup": 0.0,
        "ema": 0.0,
        "drop-path": 0.0,
        "jitter": 0.3,
        "warmup": 1.0,
    }.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--scale", type=float, nargs=2, default=(0.35, 1.0), help="area of the random crop, as shares")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 64], help="input size of each stage, pixels")
    parser.add_argument(
        "--switch", type=int, nargs="*", default=[], help="epochs at which the next size begins; default: equal stages"
    )
    parser.add_argument("--size-per-step", action="store_true", help="draw one of --sizes for every step")
    parser.add_argument("--three-augment", action="store_true", help="also gray, solarised or blurred")
    parser.add_argument("--compile", action="store_true", help="compile the blocks")
    args = parser.parse_args()
    if args.size_per_step and args.switch:
        parser.error("--size-per-step draws a size for every step; leave --switch out")
    if args.compile and args.drop_path:
        parser.error("--compile makes one block of all, but --drop-path differs from block to block; leave one out")
    train(args)


if __name__ == "__main__":
    main()

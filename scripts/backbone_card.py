#!/usr/bin/env python3
"""Measure a backbone that `pretrain_backbone.py` made and put it into the package, with its model card.

    python scripts/backbone_card.py RUN CIFAR100.npz

RUN is the script's output folder (`backbone.safetensors`, `recipe.json`); the .npz holds `train_x`, `train_y`,
`test_x`, `test_y` of images that the network never saw. Written into the package: `backbone.safetensors`,
`backbone.json` (architecture, preprocessing, sha256, figures, recipe) and `MODEL_CARD.md`, made from that file alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from duallora.backbone import Backbone, bundled
from duallora.backbone.quality import knn_accuracy, linear_probe_accuracy
from duallora.data.arrays import read_npz
from duallora.data.batches import Batches
from duallora.data.imageset import ImageSet
from duallora.data.transforms import Preprocessing
from duallora.errors import DualLoRAError
from duallora.files import write_text_atomic

K, WEIGHT_DECAY = 20, 0.01
MOST_BYTES = 12_000_000
PACKAGE = Path(__file__).resolve().parents[1] / "src" / "duallora" / "backbone" / "weights"
TITLES = {"cifar100": "CIFAR-100", "cifar10": "CIFAR-10", "tiny-imagenet": "Tiny-ImageNet"}
ARGUMENTS = (  # of pretrain_backbone.py, in the order in which the card repeats them
    *(
        "size",
        "patch",
        "width",
        "depth",
        "heads",
        "epochs",
        "batch",
        "seed",
        "lr",
        "weight_decay",
        "smoothing",
        "mixup",
    ),
    *("ema", "drop_path", "jitter", "warmup", "optimizer", "scale", "sizes", "switch"),
)
FLAGS = ("size_per_step", "three_augment", "compile")


def balanced(images: ImageSet, count: int, seed: int) -> ImageSet:
    """The same number of images of every class, `count` together at most, drawn by seed."""
    generator = torch.Generator().manual_seed(seed)
    each = count // len(images.classes)
    if each < 1:
        raise DualLoRAError(f"{count} images of {len(images.classes)} classes: take at least one of each")
    rows = [torch.nonzero(images.labels == label).flatten() for label in range(len(images.classes))]
    drawn = [row[torch.randperm(len(row), generator=generator)[:each]] for row in rows]
    return images.subset(torch.cat(drawn).sort().values)


def features(backbone: Backbone, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Class tokens (n, d) and labels (n,)."""
    with torch.inference_mode():
        pairs = [(backbone(x), y) for x, y in Batches(images, backbone.preprocessing, batch_size=128)]
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def quality(backbone: Backbone, train: ImageSet, test: ImageSet) -> dict[str, float]:
    """Nearest neighbours (each vote one, and weighted) and linear probe, as shares."""
    data = (*features(backbone, train), *features(backbone, test))
    return {
        "knn": knn_accuracy(*data, k=K, temperature=None),
        "knn_weighted": knn_accuracy(*data, k=K),
        "linear_probe": linear_probe_accuracy(*data, weight_decay=WEIGHT_DECAY),
    }


def describe(run: Path, source: Path, *, train: int, test: int, seed: int, machine: str | None) -> dict[str, Any]:
    """Everything that `backbone.json` says."""
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    weights = run / bundled.WEIGHTS
    state = load_file(weights)
    architecture = recipe["shape"]
    preprocessing = Preprocessing(architecture["img_size"], recipe["mean"], recipe["std"])
    trained = bundled.build(architecture)
    trained.load_state_dict(state)
    torch.manual_seed(recipe["seed"])
    untrained = bundled.build(architecture)
    backbones = {n: Backbone(v, n, preprocessing) for n, v in (("trained", trained), ("untrained", untrained))}
    split = read_npz(source)
    parts = balanced(split.train, train, seed), balanced(split.test, test, seed)
    cores = f"{os.cpu_count()} CPU cores, no GPU" if recipe["device"] == "cpu" else f"1 {recipe['device']} device"
    return {
        "format_version": 1,
        "architecture": architecture,
        "preprocessing": preprocessing.to_json(),
        "file": bundled.WEIGHTS,
        "bytes": weights.stat().st_size,
        "parameters": sum(t.numel() for t in state.values()),
        "dtype": "/".join(sorted({str(t.dtype).removeprefix("torch.") for t in state.values()})),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "weights_sha256": backbones["trained"].sha256,
        "figures": {
            "data": title(source.name),
            "classes": len(split.train.classes),
            "train_images": len(parts[0]),
            "test_images": len(parts[1]),
            "seed": seed,
            "k": K,
            "weight_decay": WEIGHT_DECAY,
            **{name: quality(backbone, *parts) for name, backbone in backbones.items()},
        },
        "machine": machine or cores,
        "recipe": recipe,
    }


def title(file: str) -> str:
    """The usual name of a data set, from the name of its file or folder."""
    return TITLES.get(Path(file).stem, Path(file).stem)


def command(recipe: dict[str, Any]) -> str:
    """The call of pretrain_backbone.py that a recipe came from, every argument spelled out."""
    words = ["python scripts/pretrain_backbone.py IMAGES OUT"]
    for name in (*ARGUMENTS, *FLAGS):
        value = recipe.get(name, False) if name in FLAGS else recipe[name]  # older recipes have no flags
        values = value if isinstance(value, list) else [value]
        if isinstance(value, bool):
            words += [f"--{name.replace('_', '-')}"] if value else []
        elif values:
            words.append(f"--{name.replace('_', '-')} {' '.join(map(str, values))}")
    return " ".join(words)


def schedule(recipe: dict[str, Any]) -> str:
    """`11 epochs at 32 px, 4 at 48 px`; sizes that are drawn for every step stand as `32, 48 or 64 px`."""
    stages = [(size, len(list(epochs))) for size, epochs in groupby(recipe["history"], key=lambda epoch: epoch["size"])]
    unit = " epoch" if stages[0][1] == 1 else " epochs"
    return ", ".join(f"{n}{unit if i == 0 else ''} at {pixels(size)} px" for i, (size, n) in enumerate(stages))


def pixels(size: int | list[int]) -> str:
    """`64`, or `32, 48 or 64`."""
    *others, last = size if isinstance(size, list) else [size]
    return f"{', '.join(map(str, others))} or {last}" if others else str(last)


def cosine(recipe: dict[str, Any]) -> str:
    """Over how many epochs the rate was to decay; where that changed in training, which epochs followed which plan."""
    plans = [
        (total, [entry["epoch"] for entry in entries])
        for total, entries in groupby(recipe["history"], key=lambda entry: entry.get("of", recipe["epochs"]))
    ]
    if [total for total, _ in plans] == [recipe["epochs"]]:
        return "cosine decay to 0"
    told = ", ".join(f"epochs {held[0]} to {held[-1]} along a cosine over {total}" for total, held in plans)
    return (
        f"the plan was shortened during training: {told}. The command below follows one cosine, "
        "so it gives weights that are near, not equal"
    )


def data_notes(card: dict[str, Any]) -> tuple[str, str]:
    """What the training data are with their terms, and how they relate to the data of the figures."""
    recipe, measured = card["recipe"], card["figures"]["data"]
    source = title(recipe["source"])
    if source != "Tiny-ImageNet":
        return (
            f"{recipe['images']:,} images of {source}. Their terms apply to what is derived from them.",
            f"The network never saw {measured}.",
        )
    return (
        f"The training part of Tiny-ImageNet: {recipe['images']:,} images of {recipe['size']} px, a subset of ImageNet "
        "(Deng et al. 2009; Russakovsky et al. 2015), with their labels. The images belong to their owners; ImageNet's "
        "terms of access allow use for non-commercial research and education only.",
        f"The network never saw an image of {measured} in training, but Tiny-ImageNet and CIFAR share many categories "
        "(animals, vehicles, household things), so these figures flatter it in comparison with data of another kind.",
    )


def table(rows: dict[str, str]) -> str:
    """A Markdown table of two columns without a head."""
    return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows.items())


def recipe_rows(card: dict[str, Any]) -> dict[str, str]:
    """How it was trained."""
    r = card["recipe"]
    muon = r["optimizer"] == "muon"
    crops = " to ".join(f"{100 * share:g} %" for share in r["scale"])
    return {
        "task": f"supervised classification from random weights, cross-entropy, label smoothing {r['smoothing']:g}",
        "resolution": schedule(r),
        "optimiser": "Muon for the matrices of the blocks, AdamW for the rest" if muon else "AdamW",
        "learning rate": f"{r['lr']:g}, gradient norm at most 1; {cosine(r)}",
        "warm-up, in epochs": f"{r['warmup']:g}",
        "weight decay": f"{r['weight_decay']:g}",
        "batch": f"{r['batch']} images",
        "augmentation": f"random resized crops of {crops} of the area, flips, brightness and contrast by up to "
        f"{100 * r['jitter']:g} %"
        + ("; one of gray, solarised, blurred (3-Augment)" if r.get("three_augment") else ""),
        "drop path": f"up to {r['drop_path']:g}" if r["drop_path"] else "none",
        "mixup and CutMix": f"alpha {r['mixup']:g}" if r["mixup"] else "none",
        "weight average (EMA)": f"{r['ema']:g}" if r["ema"] else "none",
        "precision": "a bfloat16 copy computes, a float32 master is updated",
        "took": f"{r['epochs']} epochs, {r['seconds'] / 60:.0f} minutes on {card['machine']}",
        "last training loss": f"{r['history'][-1]['loss']:.3f}",
        "versions": f"torch {r['torch']}, timm {r['timm']}",
    }


def render(card: dict[str, Any]) -> str:
    """`MODEL_CARD.md`, from `backbone.json` alone."""
    shape, figures, p = card["architecture"], card["figures"], card["preprocessing"]
    data, overlap = data_notes(card)
    network = {
        "network": f"timm `VisionTransformer({', '.join(f'{k}={v}' for k, v in shape.items())})`, no classifier",
        "parameters": f"{card['parameters']:,}, stored as {card['dtype']}, {card['bytes'] / 1e6:.1f} MB",
        "input": f"RGB, {p['size']} x {p['size']} px, {p['interpolation']}, mean {p['mean']}, std {p['std']}",
        "output": f"the class token after the final norm, {shape['embed_dim']} numbers",
        f"sha256 of `{card['file']}`": f"`{card['sha256']}`",
        "sha256 of the weights as loaded (`Backbone.sha256`)": f"`{card['weights_sha256']}`",
    }
    rows = "\n".join(
        f"| {label} | {100 * figures['trained'][key]:.1f} % | {100 * figures['untrained'][key]:.1f} % |"
        for label, key in (
            (f"cosine {figures['k']}-NN, each neighbour one vote", "knn"),
            (f"cosine {figures['k']}-NN, votes weighted by similarity", "knn_weighted"),
            ("linear probe", "linear_probe"),
        )
    )
    return f"""# The bundled backbone

A small plain vision transformer, so that everything in this package works without a download. This page is made from
`{bundled.CARD}` by `scripts/backbone_card.py`; do not edit it by hand.

{table(network)}

## Data and their terms

{data}

## Recipe

{table(recipe_rows(card))}

## Quality

Measured on {figures["data"]} with {figures["classes"]} classes: {figures["train_images"]:,} training images for the
neighbours and the probe, {figures["test_images"]:,} test images, evenly over the classes (seed {figures["seed"]}).
The linear probe is multinomial logistic regression on standardised features, weight decay {figures["weight_decay"]:g}.
Untrained: the same network with random weights.

| {figures["data"]} | this network | untrained |
|---|---|---|
{rows}

{overlap}

## Limits

Small, and of low resolution: {shape["depth"]} blocks, {p["size"]} px. Take it to try things out, for tests, and to
compare methods with each other; where accuracy matters take a large pre-trained network by its timm name. It is derived
from the data above: not for production where a licence for weights derived from them matters.

## Making it again

    {command(card["recipe"])}
    python scripts/backbone_card.py OUT CIFAR100.npz

{again(card["recipe"])}
"""


def compact(card: dict[str, Any]) -> str:
    """The card as JSON, each epoch of the history on a line of its own."""
    text = json.dumps(card, indent=2, ensure_ascii=False)
    return re.sub(r'\{\s+"epoch": [^}]*\}', lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def again(recipe: dict[str, Any]) -> str:
    """How near the command comes."""
    if recipe["device"] == "cpu":
        return "On a processor, with the same versions and threads, that gives the same weights."
    place = recipe["device"]
    return f"Trained on {place}, which draws and rounds in its own way: that gives weights that are near, not equal."


def publish(card: dict[str, Any], run: Path, out: Path) -> None:
    """Put weights, `backbone.json` and the model card into `out`, each of them whole or not at all."""
    if card["bytes"] > MOST_BYTES:
        raise DualLoRAError(f"the weights take {card['bytes']:,} bytes, the package {MOST_BYTES:,} at most")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{bundled.WEIGHTS}.tmp"
    shutil.copyfile(run / bundled.WEIGHTS, partial)
    partial.replace(out / bundled.WEIGHTS)
    write_text_atomic(out / bundled.CARD, compact(card))
    write_text_atomic(out / bundled.MODEL_CARD, render(card))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=PACKAGE, help="default: the package's own folder")
    parser.add_argument("--train", type=int, default=10_000, help="images that the probe and the neighbours have")
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0, help="draws the images")
    parser.add_argument("--machine", help="what the network was trained on, if not this machine")
    args = parser.parse_args(arguments)
    try:
        card = describe(args.run, args.source, train=args.train, test=args.test, seed=args.seed, machine=args.machine)
        publish(card, args.run, args.out)
    except (DualLoRAError, OSError) as error:
        raise SystemExit(f"backbone_card.py: {error}") from error
    print(json.dumps({k: card[k] for k in ("sha256", "bytes", "figures")}, indent=2))


if __name__ == "__main__":
    main()

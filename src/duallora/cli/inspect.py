"""`duallora inspect`: what a model folder holds, without loading its backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duallora.cli.options import AsJson, Debug, Model
from duallora.cli.output import Answer, bar, percent, size

if TYPE_CHECKING:
    from rich.console import Console

ALWAYS = ("format_version", "duallora_version", "method", "backbone", "training", "seed", "classes", "tasks")


def inspect(model: Model, as_json: AsJson = False, debug: Debug = False) -> Answer:
    """Show what is in a model folder.

    Tasks, classes, method, backbone, the capacity used per block, sizes; the backbone itself is not loaded.

    Example: duallora inspect zoo/
    """
    from duallora.artefact import MANIFEST, TENSORS, load_artefact, read_manifest
    from duallora.errors import DualLoRAError

    tensors, manifest = load_artefact(model)
    missing = [key for key in ALWAYS if key not in manifest]
    if missing:
        raise DualLoRAError(f"'{model / MANIFEST}' lacks '{missing[0]}'; it is no model that duallora learn has made")
    found: dict[str, Any] = {"model": str(model)} | {key: manifest[key] for key in ALWAYS}
    found |= {
        "format_version": read_manifest(model)["format_version"],  # of the folder, not as migrated in memory
        "capacity": manifest.get("capacity"),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": {name: (model / name).stat().st_size for name in (TENSORS, MANIFEST)},
        "library_versions": manifest["library_versions"],
    }
    return Answer(found, lambda console: _show(console, found))


def _show(console: Console, found: dict[str, Any]) -> None:
    from rich.table import Table

    backbone, total = found["backbone"], sum(found["bytes"].values())
    facts = Table(title=found["model"], title_justify="left", show_header=False)
    facts.add_row("method", found["method"]["name"])
    facts.add_row("backbone", f"{backbone['name']} (sha256 {backbone['sha256'][:12]})")
    facts.add_row("classes", str(len(found["classes"])))
    facts.add_row("size", f"{size(total)}: {found['parameters']:,} numbers in {found['tensors']} tensors; no images")
    facts.add_row("format", f"version {found['format_version']}, written by duallora {found['duallora_version']}")
    console.print(facts)
    tasks = Table("task", "images", "classes", title="tasks, in the order of learning", title_justify="left")
    tasks.columns[1].justify = "right"
    for task in found["tasks"]:
        tasks.add_row(task["name"], f"{task['images']:,}", ", ".join(task["classes"]))
    console.print(tasks)
    for label, used in zip(_sites(found), found["capacity"] or [], strict=False):
        console.print(f"{label:>9} {bar(used)} {percent(used):>5} % of the directions used")


def _sites(found: dict[str, Any]) -> list[str]:
    """What each entry of the capacity belongs to: the adapted maps, block by block."""
    count, options = len(found["capacity"] or []), found["method"]["options"]
    placement = set(options.get("placement", ()))
    first = options.get("first_rate") is not None and options.get("orthogonal", True)
    if first:  # DualLoRA's first session adapts maps of its own
        placement |= set(options.get("first_placement", ()))
    maps = ["", " proj"] if "proj" in placement and len(placement) > 1 else [""]
    blocks = options.get("blocks")
    if blocks is None:
        blocks = range(count // len(maps))
    elif any(block < 0 for block in blocks):  # counted from an end that is not known here
        return [f"map {i}" for i in range(count)]
    return [f"block {block}{name}" for block in sorted(set(blocks)) for name in maps]

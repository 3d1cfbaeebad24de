"""duallora.compat: the cure works where the plain import fails, and is not there where it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = str(Path(__file__).parents[1] / "src")


def fresh(code: str, *path: Path) -> dict[str, Any]:
    """What `code` prints as JSON in a new process, with `path` before everything else on the module path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, path), SOURCE])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def fake_torchvision(folder: Path, **files: str) -> Path:
    """A package called torchvision with these modules; returns what goes on the module path."""
    package = folder / "torchvision"
    package.mkdir()
    for name, code in files.items():
        (package / f"{name}.py").write_text(code)
    return folder


def test_the_installed_torchvision_and_timm_work() -> None:
    got = fresh(
        """
import json
try:
    import torchvision
    plain = "works"
except RuntimeError as error:
    plain = str(error)
from duallora.compat import import_timm, import_torchvision
first, second = import_torchvision(), import_torchvision()
import torch
from torchvision.transforms import v2
small = v2.Resize((8, 8), antialias=True)(torch.zeros(3, 20, 30, dtype=torch.uint8))
timm = import_timm()
from timm.models.vision_transformer import VisionTransformer
features = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=0)(
    torch.zeros(2, 3, 16, 16)
)
print(json.dumps({"plain": plain, "same": first is second, "small": list(small.shape), "timm": timm.__name__,
                  "features": list(features.shape)}))
"""
    )
    assert got["plain"] == "works" or "torchvision::nms does not exist" in got["plain"]
    assert got["same"] and got["timm"] == "timm"
    assert got["small"] == [3, 8, 8] and got["features"] == [2, 8]


def test_missing_operators_are_declared_and_the_half_imported_package_is_imported_anew(tmp_path: Path) -> None:
    path = fake_torchvision(
        tmp_path,
        __init__="""
import torch
from torchvision import part
for name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, name):
        raise RuntimeError(f"operator torchvision::{name} does not exist")
""",
        part="import builtins\nbuiltins.times = getattr(builtins, 'times', 0) + 1\n",
    )
    got = fresh(
        """
import json
from duallora.compat import import_torchvision
module = import_torchvision()
import builtins, torch
schema = str(torch.ops.torchvision.nms.default._schema)
print(json.dumps({"name": module.__name__, "times": builtins.times, "schema": schema}))
""",
        path,
    )
    assert got["name"] == "torchvision" and got["times"] == 2
    assert got["schema"] == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def test_nothing_is_declared_where_the_plain_import_works(tmp_path: Path) -> None:
    got = fresh(
        """
import json, sys
from duallora.compat import import_torchvision
module = import_torchvision()
without_torch = "torch" not in sys.modules
import torch
declared = hasattr(torch.ops.torchvision, "nms")
print(json.dumps({"fake": module.fake, "without_torch": without_torch, "declared": declared}))
""",
        fake_torchvision(tmp_path, __init__="fake = True\n"),
    )
    assert got == {"fake": True, "without_torch": True, "declared": False}


def test_another_error_is_passed_on(tmp_path: Path) -> None:
    got = fresh(
        """
import json, sys
from duallora.compat import import_timm, import_torchvision
said = []
for attempt in (import_torchvision, import_timm):
    try:
        attempt()
    except RuntimeError as error:
        said.append(str(error))
print(json.dumps({"said": said, "without_torch": "torch" not in sys.modules}))
""",
        fake_torchvision(tmp_path, __init__="raise RuntimeError('the disk is on fire')\n"),
    )
    assert got == {"said": ["the disk is on fire"] * 2, "without_torch": True}

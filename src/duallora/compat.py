"""Import torchvision and timm where a CUDA-built torchvision meets a CPU-only torch.

The torchvision wheel on the package index is built for the CUDA torch. Beside a CPU torch its compiled operators
cannot be loaded, and `import torchvision` (therefore `import timm`) dies with "operator torchvision::nms does not
exist": the pure-Python part registers fake kernels for operators that nobody declared. Declaring the two schemas
first is enough: duallora uses none of the compiled operators. Nothing is declared where the plain import works.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """Import and return torchvision, declaring its missing operators if, and only if, the plain import fails for them.

    Raises:
        RuntimeError: torchvision fails for another reason; the original error is passed on.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    import torch

    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half-initialised
    for name, schema in _SCHEMAS.items():
        torch.library.define(name, schema)
    return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """Import and return timm, which imports torchvision on the way."""
    import_torchvision()
    return importlib.import_module("timm")

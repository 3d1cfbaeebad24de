"""Teach a pre-trained vision transformer new classes, task after task, without keeping the images of earlier tasks.

The public names below are imported when they are first used, so that `import duallora` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duallora.backbone.load import load_backbone
    from duallora.errors import DualLoRAError
    from duallora.learner import Learner
    from duallora.methods.duallora.config import DualLoRAConfig
    from duallora.methods.registry import list_methods
    from duallora.stream import TaskStream
    from duallora.training.settings import TrainingSettings

    __version__: str

__all__ = [
    "DualLoRAConfig",
    "DualLoRAError",
    "Learner",
    "TaskStream",
    "TrainingSettings",
    "__version__",
    "list_methods",
    "load_backbone",
]

_HOMES = {
    "DualLoRAConfig": "duallora.methods.duallora.config",
    "DualLoRAError": "duallora.errors",
    "Learner": "duallora.learner",
    "TaskStream": "duallora.stream",
    "TrainingSettings": "duallora.training.settings",
    "list_methods": "duallora.methods.registry",
    "load_backbone": "duallora.backbone.load",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = importlib.import_module("duallora.versions").duallora_version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'duallora' has no attribute '{name}'; it has {', '.join(__all__)}")
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Names of methods; a method's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from duallora.errors import unknown

if TYPE_CHECKING:
    from duallora.methods.base import Method

# name -> (module, class); the order is that of tables.
_METHODS: dict[str, tuple[str, str]] = {
    "duallora": ("duallora.methods.duallora.method", "DualLoRA"),
    "lora": ("duallora.methods.lora", "LoRA"),
    "slda": ("duallora.methods.slda", "SLDA"),
    "ncm": ("duallora.methods.ncm", "NCM"),
    "probe": ("duallora.methods.probe", "Probe"),
    "joint": ("duallora.methods.joint", "Joint"),
}


def list_methods() -> list[str]:
    """All registered names.

    >>> "duallora" in list_methods()
    True
    """
    return list(_METHODS)


def get_method(name: str) -> type[Method]:
    """The class registered as `name`.

    Raises:
        DualLoRAError: no such method; the nearest name is given.
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    module, attribute = _METHODS[name]
    method: type[Method] = getattr(importlib.import_module(module), attribute)
    return method


def register_method(name: str, module: str, attribute: str) -> None:
    """Make a method of another package available by name: `module` is imported when it is first used."""
    _METHODS[name] = (module, attribute)

"""Names of methods; a method's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from duallora.errors import DualLoRAError, unknown

if TYPE_CHECKING:
    from duallora.methods.base import Method

# name -> (module, class); the order is that of tables.
_METHODS: dict[str, tuple[str, str]] = {
    "duallora": ("duallora.methods.duallora.method", "DualLoRA"),
    "lora": ("duallora.methods.lora", "LoRA"),
    "sora": ("duallora.methods.sora", "SoRA"),
    "olora": ("duallora.methods.olora", "OLoRA"),
    "inflora": ("duallora.methods.inflora", "InfLoRA"),
    "sdlora": ("duallora.methods.sdlora", "SDLoRA"),
    "clora": ("duallora.methods.clora", "CLoRA"),
    "color": ("duallora.methods.color", "CoLoR"),
    "ease": ("duallora.methods.ease", "EASE"),
    "ranpac": ("duallora.methods.ranpac", "RanPAC"),
    "slca": ("duallora.methods.slca", "SLCA"),
    "l2p": ("duallora.methods.prompts.l2p", "L2P"),
    "dualprompt": ("duallora.methods.prompts.dualprompt", "DualPrompt"),
    "codaprompt": ("duallora.methods.prompts.codaprompt", "CODAPrompt"),
    "slda": ("duallora.methods.slda", "SLDA"),
    "ncm": ("duallora.methods.ncm", "NCM"),
    "probe": ("duallora.methods.probe", "Probe"),
    "joint": ("duallora.methods.joint", "Joint"),
}

ALIGN = "+align"  # a name with this suffix is that method with classifier alignment, see duallora.methods.align


def list_methods() -> list[str]:
    """All registered names.

    >>> "duallora" in list_methods()
    True
    """
    return list(_METHODS)


def get_method(name: str) -> type[Method]:
    """The class registered as `name`; "NAME+align" is `NAME` with classifier alignment.

    Raises:
        DualLoRAError: no such method; the nearest name is given. Or a method that cannot be aligned; those that can are
            named.
    """
    if name not in _METHODS and name.endswith(ALIGN):
        return _aligned(name.removesuffix(ALIGN))
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    module, attribute = _METHODS[name]
    method: type[Method] = getattr(importlib.import_module(module), attribute)
    return method


def _aligned(name: str) -> type[Method]:
    from duallora.methods.align import alignable, aligned

    kind = get_method(name)
    if alignable(kind):
        return aligned(kind)
    serve = [f"{other}{ALIGN}" for other in list_methods() if alignable(get_method(other))]
    raise DualLoRAError(
        f"method '{name}' cannot carry '{ALIGN}': it trains no heads task by task, or aligns them already. "
        f"These serve: {', '.join(serve)}"
    )


def register_method(name: str, module: str, attribute: str) -> None:
    """Make a method of another package available by name: `module` is imported when it is first used."""
    _METHODS[name] = (module, attribute)

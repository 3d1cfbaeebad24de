"""`import duallora` is cheap, and what it promises is there when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import duallora
from duallora.errors import DualLoRAError

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "accelerate", "sklearn", "pydantic")


@pytest.mark.parametrize("module", ["duallora", "duallora.errors", "duallora.compat", "duallora.versions"])
def test_import_is_cheap(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", duallora.__all__)
def test_public_names_resolve(name: str) -> None:
    value = getattr(duallora, name)
    assert value is getattr(duallora, name)
    if name != "__version__":
        assert value.__name__ == name and value.__doc__


def test_exports_are_the_real_things() -> None:
    assert duallora.DualLoRAError is DualLoRAError
    assert "duallora" in duallora.list_methods()
    assert duallora.__version__[0].isdigit()
    assert set(duallora.__all__) <= set(dir(duallora))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Lerner'"):
        _ = duallora.Lerner
    with pytest.raises(ImportError):
        exec("from duallora import Lerner")

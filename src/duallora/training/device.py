"""Which device and precision a session computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from duallora.errors import DualLoRAError

if TYPE_CHECKING:
    from accelerate import Accelerator

Precision = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA, then Apple's MPS, then the CPU; otherwise any name torch knows.

    Raises:
        DualLoRAError: the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DualLoRAError(
            f"device '{name}' cannot be used here ({str(error).splitlines()[0]}); use device='cpu' or 'auto'"
        ) from error
    return device


def choose_precision(precision: Precision, device: torch.device) -> Literal["no", "bf16"]:
    """Accelerate's name of the precision; "auto" takes bfloat16 only where the hardware multiplies in it."""
    if precision == "float32":
        return "no"
    if precision == "bfloat16":
        return "bf16"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16") else "no"
    return "no"


def accelerator(precision: Precision, device: torch.device) -> Accelerator:
    """An Accelerator for the device.

    Accelerate's shared state is renewed where an earlier session asked for another one.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    return Accelerator(mixed_precision=choose_precision(precision, device), cpu=device.type == "cpu")

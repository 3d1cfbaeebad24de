"""Which device and precision a session computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

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
            f"device '{name}' cannot be used here ({str(error).splitlines()[0]}); 'cpu' and 'auto' always can"
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


@dataclass(frozen=True)
class Session:
    """Where and how precisely one learner computes, whatever others in the same process do.

    Accelerate's own state is one for the whole process, so an Accelerator is made anew for each training.

    >>> Session.of("float32", torch.device("cpu")).bfloat16
    False
    """

    device: torch.device
    bfloat16: bool

    @classmethod
    def of(cls, precision: Precision, device: torch.device) -> Self:
        """With a precision as settings have it."""
        return cls(device, choose_precision(precision, device) == "bf16")

    def autocast(self) -> torch.autocast:
        """The context of every pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def accelerator(self) -> Accelerator:
        """An Accelerator for the device, the newest in the process; earlier ones are not to be used any more."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)  # Accelerate knows "cuda" alone, which is the current one
        AcceleratorState._reset_state(True)
        return Accelerator(mixed_precision="bf16" if self.bfloat16 else "no", cpu=self.device.type == "cpu")

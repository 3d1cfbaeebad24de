"""Device and precision."""

from __future__ import annotations

import pytest
import torch

from duallora.errors import DualLoRAError
from duallora.training.device import accelerator, choose_device, choose_precision


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(DualLoRAError, match=r"device 'nonsense' cannot be used here.*device='cpu'"):
        choose_device("nonsense")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("found", "expected"), [({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "no"), ({}, "no")]
)
def test_auto_takes_bfloat16_only_where_the_processor_has_it(
    found: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("float32", torch.device("cpu")) == "no"
    assert choose_precision("bfloat16", torch.device("cpu")) == "bf16"


def test_sessions_of_different_precision_follow_each_other() -> None:
    assert accelerator("bfloat16", torch.device("cpu")).mixed_precision == "bf16"
    assert accelerator("float32", torch.device("cpu")).mixed_precision == "no"

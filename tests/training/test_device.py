"""Device and precision."""

from __future__ import annotations

import pytest
import torch

from duallora.errors import DualLoRAError
from duallora.training.device import Session, choose_device, choose_precision


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(DualLoRAError, match=r"device 'nonsense' cannot be used here.*'cpu' and 'auto' always can"):
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


def test_sessions_of_different_precision_live_side_by_side() -> None:
    half, whole = (Session.of(precision, torch.device("cpu")) for precision in ("bfloat16", "float32"))
    assert half.accelerator().mixed_precision == "bf16"
    assert whole.accelerator().mixed_precision == "no"
    x = torch.ones(2, 2)
    for session, expected in ((half, torch.bfloat16), (whole, torch.float32)):  # whatever was made last
        with session.autocast():
            assert (x @ x).dtype == expected


def test_a_numbered_device_becomes_the_one_that_accelerate_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    Session(torch.device("cuda:1"), bfloat16=False).accelerator()
    Session(torch.device("cuda"), bfloat16=False).accelerator()
    assert asked == [torch.device("cuda:1")]

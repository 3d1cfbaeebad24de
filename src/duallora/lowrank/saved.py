"""Taking back what was saved: the one check that a tensor is there and of the shape that it must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from duallora.errors import DualLoRAError

REMEDY = "load the model on the backbone and with the options that it was trained with"


def saved_tensor(state: Mapping[str, Tensor], key: str, shape: Sequence[int | None], where: str = "") -> Tensor:
    """The tensor of that key in a saved state, neither copied nor moved.

    Args:
        state: named tensors, as some part has given them.
        key: the tensor's name in it.
        shape: that it must have; None where any size will do.
        where: what the state is of, put before the key in messages.

    Raises:
        DualLoRAError: there is none, or it has another shape.

    >>> saved_tensor({"A": Tensor([[1, 2]])}, "A", (None, 2))
    tensor([[1., 2.]])
    """
    found = state.get(key)
    sizes = () if found is None else tuple(found.shape)
    fits = len(sizes) == len(shape) and all(b in (None, a) for a, b in zip(sizes, shape, strict=True))
    if found is not None and fits:
        return found
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    has = "missing" if found is None else f"shape {sizes}"
    raise DualLoRAError(f"{where}{key}: {has}, expected shape ({expected}); {REMEDY}")

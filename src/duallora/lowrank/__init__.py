"""Mathematics of low-rank updates beside a frozen map.

Second moments, orthonormal bases, projections, wrapped linears.
"""

from __future__ import annotations

from duallora.lowrank.adapted import AdaptedLinear, LowRank, Slot, block_indices, slots
from duallora.lowrank.attention import class_attention, head_features
from duallora.lowrank.bases import Extension, capacity, extend_basis, project_out
from duallora.lowrank.moments import SecondMoment

__all__ = [
    "AdaptedLinear",
    "Extension",
    "LowRank",
    "SecondMoment",
    "Slot",
    "block_indices",
    "capacity",
    "class_attention",
    "extend_basis",
    "head_features",
    "project_out",
    "slots",
]

"""One low-rank adapter per task beside the same frozen maps, of which at most one is in use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from duallora.lowrank.adapted import LowRank, Slot
from duallora.lowrank.saved import saved_tensor


class Bank(nn.Module):
    """A frozen linear map with one low-rank update per target and task; `active` says which task's is added."""

    def __init__(self, slot: Slot, rank: int, scale: float = 1.0) -> None:
        """Wrap the slot's map, with no update yet; call `slot.attach(self)` to put it in place."""
        super().__init__()
        self.base = slot.linear
        self.rows = dict(slot.rows)
        self.rank, self.scale = rank, scale
        self.updates = nn.ModuleDict({name: nn.ModuleList() for name in self.rows})
        self.active: int | None = None

    def of(self, name: str) -> list[LowRank]:
        """The updates of one target, one per task."""
        return cast(list[LowRank], list(cast(nn.ModuleList, self.updates[name])))

    def grow(self) -> None:
        """One fresh update per target, where the map is."""
        for name, (_, width) in self.rows.items():
            update = LowRank(self.base.in_features, width, self.rank).to(self.base.weight.device)
            cast(nn.ModuleList, self.updates[name]).append(update)

    @property
    def weight(self) -> Tensor:
        """The frozen map's weight, for code that looks for it."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> (..., outputs)."""
        y: Tensor = self.base(x)
        if self.active is not None:
            for name, (first, width) in self.rows.items():
                y.narrow(-1, first, width).add_(self.of(name)[self.active](x), alpha=self.scale)
        return y


class Banks(nn.Module):
    """The banks of all adapted maps: adapter t is the updates of task t in all of them."""

    def __init__(self, slots: Iterable[Slot], rank: int, scale: float = 1.0) -> None:
        """Wrap and attach."""
        super().__init__()
        self.banks = nn.ModuleList()
        self.count = 0
        for slot in slots:
            bank = Bank(slot, rank, scale)
            slot.attach(bank)
            self.banks.append(bank)

    def __len__(self) -> int:
        """Number of adapters."""
        return self.count

    def _each(self) -> list[Bank]:
        return cast(list[Bank], list(self.banks))

    def grow(self) -> None:
        """Add a fresh adapter; only it trains."""
        self.freeze()
        for bank in self._each():
            bank.grow()
        self.count += 1

    def freeze(self) -> None:
        """No adapter trains."""
        for bank in self._each():
            bank.updates.requires_grad_(False)

    def use(self, adapter: int | None) -> None:
        """The adapter of the passes to come; None is the frozen network."""
        for bank in self._each():
            bank.active = adapter

    def state(self) -> dict[str, Tensor]:
        """Factors of all adapters: A (T, r, d) and B (T, rows, r) of each map and target."""
        return {
            f"{i}.{name}.{factor}": torch.stack([getattr(update, factor).detach() for update in bank.of(name)])
            for i, bank in enumerate(self._each())
            for name in bank.rows
            for factor in ("A", "B")
            if self.count
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state()`; nothing trains.

        Raises:
            DualLoRAError: a factor is missing or has another shape.
        """
        count = len(next(iter(state.values()))) if state else 0
        for i, bank in enumerate(self._each()):
            for name in bank.rows:
                bank.updates[name] = nn.ModuleList()
            for _ in range(count):
                bank.grow()
            for name in bank.rows:
                for factor in ("A", "B") if count else ():
                    key, own = f"{i}.{name}.{factor}", [getattr(update, factor) for update in bank.of(name)]
                    factors = saved_tensor(state, key, (count, *own[0].shape), "adapter ")
                    for parameter, saved in zip(own, factors, strict=True):
                        parameter.data.copy_(saved)
        self.count = count
        self.freeze()

"""How far a first session should take the network: rehearsed on half of the first task's classes at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.methods.base import Batches, Shrinkage, each
from duallora.methods.duallora.orthogonal import OrthogonalAdapter
from duallora.methods.gaussian import ClassGaussians

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from where the network was to where training has taken it
FEWEST = 4  # classes: two to train on, two left out
MOST, IN_ALL = 100, 10_000  # images that are looked at: of a class, and of all together where classes are many
FOLDS = 3


class Rehearsal(nn.Module):
    """Trains what a first session trains on every second class, and measures what that is worth for the others.

    Both halves have their turn. After each the network is put at every one of `SHARES`, and images of the classes left
    out are told from all classes of the task by class Gaussians of which they are no part (`FOLDS` of them): what
    later tasks, whose classes no first session has seen, will ask of it. The best share is that of both turns
    together, of equals the least. (Their log-probability, tried instead of counts, is smoother over the shares, but on
    Omniglot it stopped short or went too far.) Both turns start where the session itself will.

    Args:
        adapters: what trains in the network, as fresh as the session is to find them.
        classes: C of the task, `FEWEST` or more.
        dim: d of the final feature, which a head of this module's own reads.
        shrinkage: of the covariance of the class Gaussians.

    >>> adapter = OrthogonalAdapter(torch.zeros(6, 0), outputs=6, rank=2)
    >>> rehearsal = Rehearsal([adapter], classes=5, dim=6)
    >>> rehearsal.start(turn=0)
    >>> rehearsal.inside(torch.tensor([0, 1, 2, 3, 4]))
    tensor([ True, False,  True, False,  True])
    """

    def __init__(
        self, adapters: Sequence[OrthogonalAdapter], classes: int, dim: int, shrinkage: Shrinkage = "oas"
    ) -> None:
        """Nothing has been rehearsed."""
        super().__init__()
        self.shrinkage = shrinkage
        self.adapters = (*adapters,)  # in a tuple: they are modules of the sites
        self.fresh = [[p.detach().clone() for p in adapter.parameters()] for adapter in adapters]
        self.classes, self.dim, self.turn = classes, dim, 0
        self.head: nn.Linear | None = None
        self.right, self.seen = [0] * len(SHARES), 0  # images told rightly by share, of so many

    def start(self, turn: int) -> None:
        """Train on the classes 0, 2, 4, ... (turn 0) or 1, 3, 5, ... (turn 1) of the task from here on."""
        self.turn, device = turn, self.adapters[0].B.device
        self._rewind()
        self.head = nn.Linear(self.dim, len(range(turn, self.classes, 2))).to(device)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def finish(self) -> float:
        """The share; the network is where it was."""
        self._rewind()
        return SHARES[self.right.index(max(self.right))]

    def _rewind(self) -> None:
        with torch.no_grad():
            for adapter, start in zip(self.adapters, self.fresh, strict=True):
                for parameter, value in zip(adapter.parameters(), start, strict=True):
                    parameter.copy_(value)

    def inside(self, local: Tensor) -> Tensor:
        """(b,): which images show a class in training; of blended ones (b, C) those that show no other.

        What labels are smoothed by, all classes alike, shows none.
        """
        if local.is_floating_point():
            return local[:, 1 - self.turn :: 2].amax(1) < local.amin(1) + 1e-4
        return local % 2 == self.turn

    def loss(self, features: Tensor, local: Tensor) -> Tensor:
        """Cross-entropy over the classes in training.

        Args:
            features: (b, D), d of them the final one, of images `inside`; b may be 0.
            local: their positions in the task (b,), or shares of its classes (b, C).

        Raises:
            RuntimeError: no turn has started.
        """
        if self.head is None:
            raise RuntimeError("no turn has started: call start() first")
        target = local[:, self.turn :: 2] if local.is_floating_point() else local // 2
        if not len(features):
            return self.head.weight.sum() * 0
        return F.cross_entropy(self.head(features[:, : self.dim]), target)

    def measure(
        self, features: Callable[[Tensor], Tensor], local: Callable[[Tensor], Tensor], batches: Batches
    ) -> None:
        """Add up how many images of the classes left out are told rightly at each share; the turn is over.

        Args:
            features: images -> (b, D), of the network as it is at the moment.
            local: labels -> positions in the task (b,).
            batches: the task's images, one pass.
        """
        trained = [adapter.B.detach().clone() for adapter in self.adapters]
        found: list[list[Tensor]] = [[] for _ in SHARES]
        rows, taken = [], torch.zeros(self.classes, dtype=torch.int64)
        for images, labels in each(batches):
            places = local(labels).cpu()
            few = torch.tensor([self._take(taken, row) for row in places.tolist()], dtype=torch.bool)
            if not few.any():
                continue
            rows.append(places[few])
            for share, kept in zip(SHARES, found, strict=True):
                self._put(trained, share)
                kept.append(features(images[few.to(images.device)]).cpu())
        y = torch.cat(rows)
        out = y % 2 != self.turn
        self.seen += int(out.sum())
        for i, kept in enumerate(found):
            self.right[i] += told(torch.cat(kept), y, out, self.classes, self.shrinkage)
        self.head = None

    def _take(self, taken: Tensor, row: int) -> bool:
        taken[row] += 1
        return bool(taken[row] <= max(min(MOST, IN_ALL // self.classes), 2 * FOLDS))

    def _put(self, trained: Sequence[Tensor], share: float) -> None:
        with torch.no_grad():
            for adapter, B in zip(self.adapters, trained, strict=True):
                adapter.B.copy_(share * B)


def told(x: Tensor, y: Tensor, out: Tensor, classes: int, shrinkage: Shrinkage = "oas") -> int:
    """How many images of the classes left out are told rightly by Gaussians that were made without them.

    Args:
        x: features (n, D).
        y: classes (n,).
        out: which images are of classes left out (n,); the others only compete.
        classes: C.
        shrinkage: of the Gaussians.

    >>> x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> told(x, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([True, True, True, False, False, False]), 2)
    3
    """
    if not x.isfinite().all():  # training has run away: no way to go
        return 0
    fold = torch.full_like(y, -1)
    for row in y[out].unique().tolist():
        of_class = (y == row).nonzero()[:, 0]
        fold[of_class] = torch.arange(len(of_class)) % FOLDS
    right = 0
    for f in range(FOLDS):
        asked = fold == f
        if asked.any():
            gaussians = ClassGaussians(x.shape[1], shrinkage)
            gaussians.grow(classes)
            gaussians.update(x[~asked], y[~asked])
            right += int((gaussians.scores(x[asked]).argmax(1) == y[asked]).sum())
    return right

"""How far a first session should take the network: rehearsed on half of the first task's classes at a time."""

from __future__ import annotations

import math
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
    together, of equals the least, among those that gain more over none at all than a standard error of that gain;
    where there are none such, it is none. (Their log-probability, tried instead of counts, is smoother over the shares,
    but on Omniglot it stopped short or went too far.) Both turns start where the session itself will.

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
        self.right = [torch.zeros(0, dtype=torch.bool) for _ in SHARES]  # of each image left out, by share

    def start(self, turn: int) -> None:
        """Train on the classes 0, 2, 4, ... (turn 0) or 1, 3, 5, ... (turn 1) of the task from here on."""
        self.turn, device = turn, self.adapters[0].B.device
        self._rewind()
        self.head = nn.Linear(self.dim, len(range(turn, self.classes, 2))).to(device)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @property
    def seen(self) -> int:
        """Images of classes left out, in both turns."""
        return len(self.right[0])

    @property
    def counts(self) -> list[int]:
        """How many of them were told rightly, by share."""
        return [int(right.sum()) for right in self.right]

    def finish(self) -> float:
        """The share; the network is where it was."""
        self._rewind()
        ahead = [i for i in range(1, len(SHARES)) if surpasses(self.right[i], self.right[0])]
        return SHARES[max(ahead, key=self.counts.__getitem__, default=0)]

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
        for i, kept in enumerate(found):
            right = told(torch.cat(kept), y, out, self.classes, self.shrinkage)
            self.right[i] = torch.cat([self.right[i], right])
        self.head = None

    def _take(self, taken: Tensor, row: int) -> bool:
        taken[row] += 1
        return bool(taken[row] <= max(min(MOST, IN_ALL // self.classes), 2 * FOLDS))

    def _put(self, trained: Sequence[Tensor], share: float) -> None:
        with torch.no_grad():
            for adapter, B in zip(self.adapters, trained, strict=True):
                adapter.B.copy_(share * B)


def surpasses(ours: Tensor, theirs: Tensor) -> bool:
    """Whether one way tells more images rightly than another by more than a standard error of the difference.

    Images that both tell rightly, or neither, say nothing. Of the others let b be told by one way alone and c by the
    other: b - c has the standard error sqrt(b + c) if neither is better (McNemar 1947, Psychometrika 12).

    Args:
        ours, theirs: which images each tells rightly (n,).

    >>> ours = torch.tensor([True, True, True, False])
    >>> surpasses(ours, ~ours), surpasses(ours, torch.tensor([True, False, True, False]))
    (False, False)
    >>> surpasses(torch.tensor([True, True]), torch.tensor([False, False]))
    True
    """
    b, c = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return b - c > math.sqrt(b + c)


def told(x: Tensor, y: Tensor, out: Tensor, classes: int, shrinkage: Shrinkage = "oas") -> Tensor:
    """Which images of the classes left out are told rightly by Gaussians that were made without them.

    Args:
        x: features (n, D).
        y: classes (n,).
        out: which images are of classes left out (n,), m of them; the others only compete.
        classes: C.
        shrinkage: of the Gaussians.

    Returns:
        (m,), bool.

    >>> x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> told(x, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([True, True, True, False, False, False]), 2)
    tensor([True, True, True])
    """
    right = torch.zeros_like(out)
    if not x.isfinite().all():  # training has run away: no way to go
        return right[out]
    fold = torch.full_like(y, -1)
    for row in y[out].unique().tolist():
        of_class = (y == row).nonzero()[:, 0]
        fold[of_class] = torch.arange(len(of_class)) % FOLDS
    for f in range(FOLDS):
        asked = fold == f
        if asked.any():
            gaussians = ClassGaussians(x.shape[1], shrinkage)
            gaussians.grow(classes)
            gaussians.update(x[~asked], y[~asked])
            right[asked] = gaussians.scores(x[asked]).argmax(1) == y[asked]
    return right[out]

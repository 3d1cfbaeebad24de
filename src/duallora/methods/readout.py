"""The read-outs that gradient methods share: own heads, or class Gaussians of the features."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duallora.lowrank.saved import saved_tensor
from duallora.methods.base import Encoding, Output, State, part, prefixed
from duallora.methods.covariances import ClassCovariances
from duallora.methods.gaussian import ClassGaussians
from duallora.methods.heads import Heads
from duallora.methods.rows import Rows
from duallora.methods.spreads import ClassSpreads

KEPT_DISTANCES = 4096  # distances of at most so many images of a task fix the limit of what is known; none is stored
TRUST = 0.15  # Gaussians of thousands of features are far too sure: what their log-posterior counts beside a head's
ABSENT = -1e4  # logit of a row without images: its chance is zero, and zero times it is no NaN as with infinity
KNOWN_SHARE = 0.95  # share of the training images that the limit lets through


class Readout(nn.Module):
    """Heads and Gaussians over the same rows, fed by the same passes.

    Heads read the network's final feature, the first d of the D features; trained ones on more would only fit the
    training images better. Gaussians read all of them, with a covariance that all classes share ("gaussian"), or
    also with how each class's own departs from it ("quadratic").
    """

    def __init__(
        self,
        dim: int,
        features: int,
        rows: Rows,
        shrinkage: float | str = "oas",
        heads_apart: bool = True,
        tasks: bool = False,
    ) -> None:
        """Over `features` = D, of which the first `dim` = d are the network's own, answering for `rows`.

        `heads_apart`: each task's head was trained by itself, so that its logits say nothing about the task. `tasks`:
        whether Gaussians of whole tasks are wanted, which the read-out "tasks" asks.
        """
        super().__init__()
        self.heads_apart = heads_apart
        self.heads = Heads(dim)
        self.gaussians = ClassGaussians(features, shrinkage)
        self.spreads = ClassSpreads(features)
        self.kept: dict[str, ClassSpreads | ClassCovariances] = {"spreads": self.spreads}  # by class, beside Gaussians
        self.task_spreads = ClassSpreads(features) if tasks else None  # a row per task, in the directions of `spreads`
        self.rows = rows
        self.limit = torch.zeros(0)  # (T,) the KNOWN_SHARE quantile of each task's own distances
        self._local = torch.zeros(0, dtype=torch.int64)
        self._classes = torch.zeros(0, dtype=torch.int64)
        self._first = 0

    def begin(self, classes: tuple[int, ...]) -> None:
        """Add heads and Gaussians for a task's classes; `rows` must hold them already."""
        self._first = len(self.rows) - len(classes)
        self._local = torch.full((max(classes) + 1,), -1, dtype=torch.int64)
        self._classes = torch.tensor(classes)
        self._local[self._classes] = torch.arange(len(classes))
        self.heads.grow(len(classes))
        self.gaussians.grow(len(classes))
        for kept in self.kept.values():
            kept.grow(len(classes))

    def local(self, labels: Tensor) -> Tensor:
        """Class indices (b,) -> positions in the newest head (b,); shares (b, C) -> shares in it (b, rows)."""
        if labels.is_floating_point():
            return labels[:, self._classes.to(labels.device)]
        return self._local.to(labels.device)[labels]

    def local_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the newest head over its own classes."""
        return F.cross_entropy(self.heads.newest(features), self.local(labels))

    def seen_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over all rows so far: the newest head against the Gaussian scores of the earlier rows.

        The earlier classes have no images any more; their Gaussians, held fixed, stand in as competitors, so that new
        features keep away from where old ones lie and the newest head's logits are calibrated to theirs.
        """
        new = self.heads.newest(features)
        if self._first == 0:
            return F.cross_entropy(new, self.local(labels))
        weight, bias = (t[: self._first].to(features.device) for t in self.gaussians.linear())
        with torch.autocast(features.device.type, enabled=False):
            old = features.float() @ weight.T + bias
        seen = bias.isfinite()  # a row without images, such as a class that a domain lacks, scores -inf
        old = old - old.detach()[:, seen].mean(1, keepdim=True)
        old = old.masked_fill(~seen, ABSENT)
        own = self.local(labels)
        target = F.pad(own, (self._first, 0)) if own.is_floating_point() else own + self._first
        return F.cross_entropy(torch.cat([old, new], 1), target)

    def collect(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch of the newest task to the Gaussians."""
        self.gaussians.update(features, self.local(labels) + self._first)
        for kept in self.kept.values():
            kept.update(features, self.local(labels))

    def finish(self, features: list[Tensor], labels: list[Tensor]) -> None:
        """Fix the limit of what is known from some features of the task (they are not kept)."""
        if self.task_spreads:
            whole = self.spreads.together(self.gaussians)
            self.task_spreads.basis = self.spreads.basis
            self.task_spreads.extend([whole], self._of_tasks())
        for kept in self.kept.values():
            kept.seal(self.gaussians)
        x, y = torch.cat(features), torch.cat(labels)
        rows = self.local(y) + self._first
        own = self.gaussians.held_out_distances(x, rows, self._copies()[rows.cpu()])
        telling = (self.gaussians.counts[rows.cpu()] > 1).to(own.device) & (own > 1e-6)
        if telling.any():
            limit = own[telling].quantile(KNOWN_SHARE).reshape(1).cpu()
        else:  # one image per class, or copies of one: they lie on their means and tell nothing
            limit = self.limit[-1:] if len(self.limit) else torch.full((1,), torch.inf)
        self.limit = torch.cat([self.limit, limit])

    def _copies(self) -> Tensor:
        """(R,): how often the images of a row of the newest task were learned, where its class came before.

        Means of two samples of n and m images are 1 / n + 1 / m times the trace of the covariance apart, squared; of
        half of that, most of the images are the same.
        """
        copies = torch.ones(len(self.rows), dtype=torch.float64)
        earlier, classes = self.rows.classes[: self._first], self.rows.classes[self._first :]
        if not set(earlier) & set(classes):
            return copies
        means, counts, trace = self.gaussians.means, self.gaussians.counts, self.gaussians.spread()
        before = torch.tensor(earlier)
        for row, label in enumerate(classes, self._first):
            same = (before == label).nonzero()[:, 0]
            apart = (means[same] - means[row]).square().sum(1)
            copies[row] += (apart < trace / 2 * (1 / counts[same] + 1 / counts[row])).sum()
        return copies

    def _of_tasks(self) -> ClassGaussians:
        """One Gaussian per task."""
        return self.gaussians.merged(self.rows.task_index())

    def task_scores(self, features: Tensor) -> Tensor:
        """(b, D) -> (b, T): one Gaussian per task, with its own covariance, of all its images whatever their class.

        Raises:
            RuntimeError: there are none of tasks.
        """
        if self.task_spreads is None:
            raise RuntimeError("no Gaussians of tasks were asked for")
        tasks = self._of_tasks()
        return tasks.scores(features) + self.task_spreads.correction(features, tasks)

    def scores(self, features: Tensor, readout: str, logits: Tensor | None = None) -> Tensor:
        """(b, D) -> (b, R) by "heads", "tasks", "gaussian", "quadratic" or "product".

        "tasks" is the logit of the head + TRUST log P_g(task): nothing of it knows what one class looks like but the
        heads.

        "product" is log P_h(class | task) + TRUST log P_g(class): the heads tell the classes of a task apart, the
        Gaussians ("quadratic") also the tasks. A head over all rows has log P_h(class) in the place of the first.

        Args:
            features: (b, D).
            readout: which.
            logits: (b, R) of heads to take in the place of our own.
        """
        if logits is None and readout in ("heads", "tasks", "product"):
            with torch.autocast(features.device.type, enabled=False):
                logits = self.heads(features.float())
        if logits is not None and readout == "heads":
            return logits
        if logits is not None and readout == "tasks":
            evidence = torch.log_softmax(self.task_scores(features), 1)
            return logits.float() + TRUST * evidence[:, self.rows.task_index(features.device)]
        scores = self.gaussians.scores(features)
        if readout != "gaussian":
            scores = scores + self.spreads.correction(features, self.gaussians)
        if logits is None or readout != "product":
            return scores
        logits = logits.float()
        certain = self.rows.within_tasks(logits) if self.heads_apart else torch.log_softmax(logits, 1)
        return certain + TRUST * torch.log_softmax(scores, 1)

    def distance(self, features: Tensor) -> Tensor | None:
        """(b,) distance to the nearest row's mean.

        1 is the limit of the newest task, the one that was measured with the covariance as it is now.
        """
        if not len(self.limit):
            return None
        nearest = self.gaussians.scores(features).argmax(1)
        return self.gaussians.distances(features, nearest) / float(self.limit[-1])

    def measure(self, features: Tensor) -> Callable[[], Tensor | None]:
        """`distance` of some features, when it is asked for."""
        return lambda: self.distance(features)

    def output(self, encoding: Encoding, readout: str) -> Output:
        """Scores and distance of a batch."""
        scores = self.scores(encoding.features, readout, encoding.logits)
        return Output(scores, measure=self.measure(encoding.features))

    def state(self) -> State:
        """Heads, Gaussians, rows, limits."""
        parts = [
            ("heads", self.heads.state()),
            ("gaussians", self.gaussians.state()),
            ("rows", self.rows.state()),
            *((name, kept.state()) for name, kept in self.kept.items()),
        ]
        if self.task_spreads:
            tasks = self.task_spreads.state()
            tasks.pop("basis", None)  # that of `spreads`
            parts.append(("tasks", tasks))
        return {"limit": self.limit} | {k: v for name, state in parts for k, v in prefixed(name, state).items()}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        self.limit = saved_tensor(state, "limit", (None,), "read.").clone()
        self.heads.load_state(part("heads", state))
        self.gaussians.load_state(part("gaussians", state))
        self.rows.load_state(part("rows", state))
        for name, kept in self.kept.items():
            kept.load_state(part(name, state))
        if self.task_spreads:
            basis = {"basis": self.spreads.basis} if self.spreads.basis is not None else {}
            self.task_spreads.load_state(part("tasks", state) | basis)


class Sample:
    """Some features of a pass, `most` of them, each as likely as any other, held only until the pass ends.

    Images come class by class, so the first ones would be of the first classes alone. Each image draws a number, from a
    generator of the sample's own, and those with the smallest stay: of the same batches every sample holds the same.
    """

    def __init__(self, most: int = KEPT_DISTANCES) -> None:
        """Empty."""
        self.most = most
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._drawn: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(0)

    def add(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Consider a batch, with its labels or without."""
        self._features.append(features.detach())
        self._labels += [] if labels is None else [labels]
        self._drawn.append(torch.rand(len(features), generator=self._generator))
        if self._seen() > 2 * self.most:  # not for every batch
            self._let_go()

    @property
    def features(self) -> list[Tensor]:
        """Those of the sample, batch by batch."""
        self._let_go()
        return self._features

    @property
    def labels(self) -> list[Tensor]:
        """Theirs."""
        self._let_go()
        return self._labels

    def _seen(self) -> int:
        return sum(map(len, self._drawn))

    def _let_go(self) -> None:
        if self._seen() <= self.most:
            return
        drawn = torch.cat(self._drawn)
        kept = drawn.argsort()[: self.most].sort().values
        self._drawn = [drawn[kept]]
        self._features, self._labels = (
            [torch.cat(parts)[kept.to(parts[0].device)]] if parts else [] for parts in (self._features, self._labels)
        )

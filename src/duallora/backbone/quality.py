"""How good frozen features are: nearest neighbours and a linear probe."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from duallora.errors import DualLoRAError


def knn_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    k: int = 20,
    *,
    temperature: float | None = 0.07,
) -> float:
    """Share of test images whose class wins the vote of the `k` nearest training images in cosine similarity.

    Args:
        train_x: (n, d) features.
        train_y: (n,) int64 classes from 0.
        test_x: (m, d).
        test_y: (m,).
        k: neighbours; all training images where there are fewer.
        temperature: a neighbour's vote weighs exp(similarity / temperature) (Wu et al. 2018, arXiv:1805.01978,
            DINO, arXiv:2104.14294); None: every vote weighs one. A tie goes to the lowest class.

    Raises:
        DualLoRAError: shapes that do not fit, or no images.

    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> knn_accuracy(x, y, torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]), k=1)
    0.5
    """
    _check(train_x, train_y, test_x, test_y)
    if k < 1:
        raise DualLoRAError(f"k is {k}; the vote needs at least one neighbour: give k=20")
    train_x, right = F.normalize(train_x.float(), dim=1), 0
    classes = int(torch.maximum(train_y.max(), test_y.max())) + 1
    for x, y in zip(F.normalize(test_x.float(), dim=1).split(1024), test_y.split(1024), strict=True):
        similarity, nearest = (x @ train_x.T).topk(min(k, len(train_x)), dim=1)
        weight = torch.ones_like(similarity) if temperature is None else ((similarity - 1) / temperature).exp()
        votes = torch.zeros(len(x), classes).scatter_add_(1, train_y[nearest], weight)
        right += int((votes.argmax(dim=1) == y).sum())
    return right / len(test_y)


def linear_probe_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    weight_decay: float = 0.01,
    steps: int = 1000,
) -> float:
    """Share of test images that multinomial logistic regression on the features classifies rightly.

    Features are standardised by the training part's mean and deviation; the loss is the mean cross-entropy plus
    `weight_decay` / 2 times the squared norm of the weights (not the biases), minimised by scikit-learn's L-BFGS from
    zero: convex and without randomness.

    Args:
        train_x: (n, d) features.
        train_y: (n,) int64 classes, at least two.
        test_x: (m, d).
        test_y: (m,).
        weight_decay: strength of the regularisation; scikit-learn's C is 1 / (n weight_decay).
        steps: most L-BFGS iterations; a fit that stops there counts as it is.

    Raises:
        DualLoRAError: shapes that do not fit, no images, or a single class.
    """
    _check(train_x, train_y, test_x, test_y)
    if len(train_y.unique()) < 2:
        raise DualLoRAError("a linear probe needs training images of at least two classes; got one")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / (len(train_y) * weight_decay), max_iter=steps, tol=1e-4)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train_x.double().numpy(), train_y.numpy())
    return float(probe.score(test_x.double().numpy(), test_y.numpy()))


def _check(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    for part, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or len(x) == 0:
            raise DualLoRAError(
                f"{part} features {tuple(x.shape)} and labels {tuple(y.shape)} do not fit; "
                "expected (n, d) and (n,) with n >= 1"
            )
    if train_x.shape[1] != test_x.shape[1]:
        raise DualLoRAError(f"train features have {train_x.shape[1]} dimensions, test features {test_x.shape[1]}")

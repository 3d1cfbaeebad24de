"""Streaming linear discriminant analysis over frozen features."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from duallora.methods.base import BackboneLike, MethodConfig, Shrinkage, State
from duallora.methods.reading import ReadingMethod


class SLDAConfig(MethodConfig):
    """Options of `slda`."""

    readout: Literal["gaussian", "quadratic"] = Field(
        "gaussian", description="one covariance for all classes, or on some features each class's own besides"
    )
    shrinkage: Shrinkage = Field("oas", description="of the covariance of the Gaussian read-out")


class SLDA(ReadingMethod):
    """Frozen backbone, class means and one shared covariance, streaming (Hayes & Kanan 2020, arXiv 1909.01520).

    With class means mu_c (D,) and the pooled covariance Sigma (D, D) of the features f, an image scores
    mu_c^T Sigma^-1 f - mu_c^T Sigma^-1 mu_c / 2 for class c.

    Nothing trains. Kept: one mean per class, one covariance in all; for "quadratic", which the paper does not have, the
    widest directions of each class besides. One pass per image. Differences from the paper, all in its favour: the
    covariance is the exact pooled one (the paper's running update approximates it), it is shrunk by OAS towards a
    multiple of the identity (the paper adds a fixed 1e-4 of the identity itself), and the features are those of all
    levels of the backbone (`levels: 0` for the final one alone).
    """

    name: ClassVar[str] = "slda"
    Config: ClassVar[type[MethodConfig]] = SLDAConfig
    readouts: ClassVar[tuple[str, ...]] = ("gaussian", "quadratic")
    config: SLDAConfig

    def __init__(self, backbone: BackboneLike, config: SLDAConfig) -> None:
        """Nothing is attached."""
        super().__init__(backbone, config, config.shrinkage)

    def trainable(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def state(self) -> State:
        """Sums and rows; the unused heads are left out."""
        return {k: v for k, v in super().state().items() if ".heads." not in k}

    def load_state(self, state: State) -> None:
        """Restore `state()`."""
        super().load_state(state | {"read.heads.sizes": self.rows.task_index()[:0]})

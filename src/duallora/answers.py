"""What a learner answers: plain, typed records that turn into JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SkippedImage(Answer):
    """A file of images, or a folder, that was not used."""

    path: str = Field(description="the file or folder")
    reason: str = Field(description="why not")


class LearnReport(Answer):
    """What a learner has done with a task."""

    task: str
    classes: list[str]
    images: int
    skipped: list[SkippedImage] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict, description="per phase: begin, train, statistics")
    loss: float | None = Field(None, description="mean training loss of the last epoch; null where nothing trains")
    capacity: list[float] | None = Field(None, description="used share of the directions of each adapted map")
    notes: list[str] = Field(default_factory=list)


class Prediction(Answer):
    """The answer for one image."""

    path: str | None
    label: str
    confidence: float = Field(description="probability of the label, in [0, 1]")
    task: str = Field(description="name of the task that the image is taken to belong to")
    known: bool | None = Field(
        description="whether it lies where training images lie; null where the method cannot tell"
    )
    top: list[tuple[str, float]] = Field(description="the likeliest labels with their probabilities, best first")


class Evaluation(Answer):
    """Figures on labelled images."""

    images: int
    accuracy: float
    per_class: dict[str, float]
    task_il: float | None = Field(
        description="accuracy with the true task given; null where a class belongs to several tasks"
    )
    task_id_accuracy: float | None = Field(
        description="share of images whose task is predicted rightly; null with one task"
    )
    calibration_error: float
    skipped: list[SkippedImage] = Field(default_factory=list)

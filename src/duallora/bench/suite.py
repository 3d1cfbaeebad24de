"""A suite as data: which runs a benchmark is made of, and what the literature reports on it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from duallora.config import Closed

Group = Literal["statistics", "none", "both"]
Order = Annotated[int, Field(ge=0)] | Literal["natural"] | list[str]
NO_ADAPTATION = "ncm"  # the frozen network with class means: a line of every table
Percent = Annotated[float, Field(ge=0, le=100)]


def _apart(values: list[Any]) -> list[Any]:
    """Each once: the same run twice would count as two in means and deviations."""
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands there twice; keep it once")
    return values


Orders = Annotated[list[Order], Field(min_length=1), AfterValidator(_apart)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_apart)]


class Settings(Closed):
    """Part of a run's configuration; each key as in `duallora.config.RunConfig`, checked when laid over the others."""

    stream: dict[str, Any] = Field(default_factory=dict)
    method: dict[str, Any] = Field(default_factory=dict)
    backbone: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    cumulative_steps: Literal["all", "last"] | None = None
    device: str | None = None

    def changes(self) -> dict[str, Any]:
        """What is set here, as a nested mapping."""
        given = {name: getattr(self, name) for name in Settings.model_fields if name in self.model_fields_set}
        return {name: value for name, value in given.items() if value is not None}


class Row(Settings):
    """What one row of the grid changes, and where its figures are shown."""

    group: Group | dict[str, Group] | None = Field(
        None,
        description="table of its figures: 'statistics' (class statistics are kept), 'none', or 'both'; one for all "
        "read-outs or one per read-out; by default each read-out's own",
    )
    readouts: list[str] | None = Field(
        None, min_length=1, description="read-outs whose figures are shown; all that were scored by default"
    )
    about: str = ""


class Figure(Closed):
    """Figures that somebody published for one method, in per cent."""

    a_last: Percent | None = None
    a_avg: Percent | None = None
    a_last_tasks: Percent | None = Field(None, description="as a mean over tasks")
    a_avg_tasks: Percent | None = Field(None, description="as a mean over tasks")
    forgetting: Annotated[float, Field(ge=-100, le=100)] | None = None
    task_il: Percent | None = Field(None, description="a_last with the true task given")
    task_id: Percent | None = Field(None, description="images whose task was found, after the last task")
    a_last_deviation: Percent | None = Field(None, description="as published: deviation or error, see `note`")
    a_avg_deviation: Percent | None = None
    a_last_tasks_deviation: Percent | None = None
    a_avg_tasks_deviation: Percent | None = None
    forgetting_deviation: Percent | None = None
    source: str = Field(description="where the figures stand: publication and table, or file of a repository")
    group: Group = Field("none", description="table in which the line is shown")
    note: str = ""


class Protocol(Closed):
    """How a publication measured, as far as its sources tell; "unknown" where they are silent."""

    about: str = ""
    weights: str = Field(description="pre-trained weights, by timm tag where there is one")
    class_order: str = Field(description="for example 'natural', 'shuffled, numpy seed 1993'")
    split: str = Field(description="which images train and which test")
    epochs: int | str
    transforms: str = Field(description="augmentation, test crop and normalisation")
    metric: str = Field(description="definition of the published figures, for example 'a_last over all images'")
    set: Settings = Field(default_factory=Settings, description="laid over the suite's base under this protocol")
    rows: dict[str, Settings] = Field(default_factory=dict, description="the same for single rows, laid over the row")
    orders: Orders | None = Field(None, description="class orders instead of the suite's")
    seeds: Seeds | None = None
    figures: dict[str, Figure] = Field(min_length=1, description="name of the method -> what was published")

    @property
    def changes_runs(self) -> bool:
        """Whether any run differs from the suite's own, so that it needs a folder of its own."""
        return bool(self.set.changes() or self.rows or self.orders or self.seeds)


class Suite(Closed):
    """A grid of runs: rows by class orders by seeds."""

    title: str
    about: str = ""
    base: Settings = Field(description="what all rows have in common")
    orders: Orders = Field(
        description="orders of classes, groups or domains: a seed that shuffles, 'natural', or a list of names"
    )
    seeds: Seeds | None = Field(
        None, description="seeds of weights and batches, every order with each; the base's by default"
    )
    images: int | None = Field(
        None, ge=1, description="of the data set as published, training and test; tables say where runs had others"
    )
    rows: dict[str, Row] = Field(min_length=1)
    protocols: dict[str, Protocol] = Field(default_factory=dict)

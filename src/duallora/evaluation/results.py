"""The file that a run leaves, `results.json`: matrices, what follows from them, what it cost, where it came from.

`python -m duallora.evaluation.results` prints docs/results.md, the schema.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from duallora.answers import SkippedImage
from duallora.backbone import bundled
from duallora.errors import DualLoRAError
from duallora.evaluation import metrics
from duallora.files import check_json, write_json_atomic
from duallora.versions import git_commit, library_versions

FORMAT_VERSION: Final = 1
TOLERANCE = 1e-6

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    """What every part of the file is: closed (an unknown key is an error), never changed, without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskRecord(Record):
    """One task of the stream, in the order in which it was learnt."""

    name: str = Field(description="name of the task")
    classes: list[str] = Field(description="names of its classes, in the order of its labels", min_length=1)
    train_images: Count = Field(description="images that it was trained on")
    test_images: Count = Field(description="images that it is tested on; its weight in `a_last`")
    notes: list[str] = Field([], description="what the method had to say of learning it")


class BackboneRecord(Record):
    """The frozen network under the method."""

    name: str = Field(description="name, as given to `load_backbone`")
    sha256: str = Field(description="of its weights: names, shapes, types and bytes, whatever the file format")
    dim: int = Field(description="width of a token", gt=0)
    depth: int = Field(description="number of blocks", gt=0)
    levels: int = Field(0, description="of how many of the last blocks the features were read", ge=0)


class MachineRecord(Record):
    """What the run ran on, as far as it matters for times; no names of machines or people."""

    device: str = Field(description='device of the network, such as "cpu" or "cuda (NVIDIA H200)"')
    cpu: str = Field(description="kind of processor and system")
    cores: int = Field(description="processor cores that the system shows", gt=0)
    threads: int = Field(description="threads that torch used", gt=0)

    @classmethod
    def describe(cls, device: str, threads: int) -> MachineRecord:
        """This machine, with the device and the number of threads that the caller uses."""
        return cls(
            device=device,
            cpu=f"{platform.machine()}, {platform.system()}",
            cores=os.cpu_count() or 1,
            threads=threads,
        )


class RunResults(Record):
    """All results of one method on one stream with one seed.

    Build it with `from_matrix`, which computes every derived figure; reading a file recomputes them and refuses a
    file in which they disagree with its matrices, or that was changed since it was written.
    """

    format_version: Literal[1] = Field(FORMAT_VERSION, description="version of this schema")
    method: str = Field(description='method and read-out, such as "duallora" or "lora+gaussian"', min_length=1)
    scenario: Literal["class-incremental", "domain-incremental"] = Field(
        description="whether tasks bring new classes, or the same classes from a new domain"
    )
    tasks: list[TaskRecord] = Field(description="the tasks of the stream", min_length=1)
    accuracy_matrix: list[list[Share | None]] = Field(
        description="row i, column j: accuracy on the test images of task j after learning task i, the task of an "
        "image not given; null where not measured",
        min_length=1,
    )
    task_il_matrix: list[list[Share | None]] = Field(description="the same with the true task of each image given")
    task_id_accuracy: list[Share | None] = Field(
        description="after each task: share of the test images so far whose task is named rightly; null with one task, "
        "or where all tasks share one set of test images"
    )
    calibration_error: list[Share | None] = Field(
        description="after each task: expected calibration error over the test images so far (15 bins)"
    )
    a_last: Share | None = Field(description="accuracy over all test images, after the last task")
    a_last_tasks: Share | None = Field(description="mean over tasks of the accuracy on each, after the last task")
    a_avg: Share | None = Field(description="mean over steps of the accuracy over all test images so far")
    a_avg_tasks: Share | None = Field(description="mean over steps of the mean accuracy over tasks so far")
    forgetting: float | None = Field(description="mean over earlier tasks of best earlier accuracy less the last one")
    bwt: float | None = Field(description="backward transfer: mean change of accuracy since each task was learnt")
    fwt: float | None = Field(
        description="forward transfer: mean accuracy on each task just before it is learnt, no baseline subtracted"
    )
    task_il: Share | None = Field(description="`a_last` with the true task of each image given")
    class_order: list[str] = Field(description="all classes, in the order in which they first arrive")
    seed: int = Field(description="seed of weights, order of images and augmentation")
    backbone: BackboneRecord = Field(description="the frozen network")
    config: dict[str, Any] = Field(description="the whole configuration of the run, defaults written out")
    versions: dict[str, str] = Field(description="Python, libraries, and the git commit where there is one")
    machine: MachineRecord = Field(description="what it ran on")
    seconds: dict[str, Seconds | list[Seconds]] = Field(
        description="wall-clock time per phase (such as begin, train, statistics, evaluate): a total, or one per task"
    )
    peak_memory_bytes: Count | None = Field(description="most memory in use: of the accelerator, else of the process")
    parameters_trained: list[Count] = Field(description="for each task, the number of parameters that were trained")
    bytes_kept: list[Count] = Field(
        description="after each task, the size of all that the method must keep besides the backbone"
    )
    passes_per_image: float = Field(description="forward passes through the network to classify one image", ge=0)
    images_kept: Count = Field(description="training images that the method keeps after the run")
    skipped: list[SkippedImage] = Field([], description="files of the source that could not be used")
    capacity: list[list[Share]] | None = Field(
        description="after each task, per block: share of the directions already taken; null if the method has no such"
    )
    started: AwareDatetime = Field(description="when the run started, ISO 8601")
    finished: AwareDatetime = Field(description="when it finished, ISO 8601")
    checksum: str | None = Field(
        None,
        description="SHA-256 of the other entries as JSON with sorted keys: a file changed by hand is refused; null in "
        "files written before there was one",
    )

    @classmethod
    def from_matrix(
        cls,
        *,
        method: str,
        scenario: Literal["class-incremental", "domain-incremental"],
        tasks: Sequence[TaskRecord],
        accuracy_matrix: metrics.Matrix,
        task_il_matrix: metrics.Matrix,
        task_id_accuracy: Sequence[float | None],
        calibration_error: Sequence[float | None],
        class_order: Sequence[str],
        seed: int,
        backbone: BackboneRecord,
        config: Mapping[str, Any],
        machine: MachineRecord,
        seconds: Mapping[str, float | Sequence[float]],
        peak_memory_bytes: int | None,
        parameters_trained: Sequence[int],
        bytes_kept: Sequence[int],
        passes_per_image: float,
        images_kept: int,
        capacity: Sequence[Sequence[float]] | None,
        started: AwareDatetime,
        finished: AwareDatetime,
        skipped: Sequence[SkippedImage] = (),
        versions: Mapping[str, str] | None = None,
    ) -> RunResults:
        """Results from what was measured; derived metrics are computed, versions are those of now unless given.

        Raises:
            DualLoRAError: sizes disagree, or a value is out of its range.
        """
        measured = {name: value for name, value in locals().items() if name != "cls"}
        if versions is None:
            commit = git_commit()
            measured["versions"] = library_versions() | ({"git": commit} if commit else {})
        counts = [task.test_images for task in tasks]
        try:
            return cls.model_validate(measured | _derived(accuracy_matrix, task_il_matrix, counts))
        except ValidationError as error:
            raise DualLoRAError(f"these are no results of a run: {_first_errors(error)}") from error

    @classmethod
    def load(cls, path: str | Path) -> RunResults:
        """Read `results.json`, or the one in a run's folder, and check that its figures follow from its matrices.

        Raises:
            DualLoRAError: file missing, broken, not ours, altered, or of a newer format.
        """
        path = Path(path)
        path = path / "results.json" if path.is_dir() else path
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DualLoRAError(f"there is no results file '{path}'; check the path, or run it first") from error
        except OSError as error:
            raise DualLoRAError(f"'{path}' cannot be read: {error.strerror}; check its permissions") from error
        except (ValueError, RecursionError) as error:
            raise DualLoRAError(f"'{path}' is not valid JSON ({error}); delete it and run again") from error
        if not isinstance(data, dict) or "format_version" not in data:
            raise DualLoRAError(
                f"'{path}' holds no results of duallora (no format_version); give a run's results.json, "
                "or start over with --redo"
            )
        version = data["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            writer = data["versions"].get("duallora", "") if isinstance(data.get("versions"), dict) else ""
            raise DualLoRAError(
                f"'{path}' has format_version {version}, this duallora reads up to {FORMAT_VERSION}; "
                f"install the version that wrote it: pip install 'duallora>={writer}'"
            )
        checksum = data.pop("checksum", None)
        try:
            results = cls.model_validate(data)
        except ValidationError as error:
            raise DualLoRAError(f"'{path}' is broken or altered: {_first_errors(error)}; run it again") from error
        if checksum not in (None, checksum_of(data)):
            raise DualLoRAError(f"'{path}' was altered: its checksum is that of other figures; run it again")
        return results

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            DualLoRAError: the place cannot be written, or the config holds what JSON cannot.
        """
        check_json(self.config, "config")  # pydantic would write NaN as null
        write_json_atomic(path, self.document())

    def document(self) -> dict[str, Any]:
        """What the file holds, with its checksum."""
        data = self.model_dump(mode="json", exclude={"checksum"})
        return data | {"checksum": checksum_of(data)}

    @property
    def on_former_weights(self) -> bool:
        """Whether the run used a bundled backbone other than the one of now; its configuration would not tell."""
        asked = self.config.get("backbone", {})
        if self.backbone.name != bundled.NAME or asked.get("weights") or not asked.get("pretrained", True):
            return False
        return bool(self.backbone.sha256 != bundled.read_card()["weights_sha256"])

    @property
    def counts(self) -> list[int]:
        """Test images per task."""
        return [task.test_images for task in self.tasks]

    @property
    def accuracy_curve(self) -> list[float | None]:
        """Accuracy over all test images so far, after each task."""
        return metrics.accuracy_curve(self.accuracy_matrix, self.counts)

    @property
    def total_seconds(self) -> dict[str, float]:
        """Seconds per phase, summed over tasks."""
        return {phase: sum(time) if isinstance(time, list) else time for phase, time in self.seconds.items()}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        steps, tasks = len(self.accuracy_matrix), len(self.tasks)
        lengths = {
            "accuracy_matrix[0]": (len(self.accuracy_matrix[0]), tasks),
            "task_il_matrix": (len(self.task_il_matrix), steps),
            "task_id_accuracy": (len(self.task_id_accuracy), steps),
            "calibration_error": (len(self.calibration_error), steps),
            "parameters_trained": (len(self.parameters_trained), steps),
            "bytes_kept": (len(self.bytes_kept), steps),
            "capacity": (steps if self.capacity is None else len(self.capacity), steps),
        }
        for name, (seen, expected) in lengths.items():
            if seen != expected:
                raise ValueError(f"{name} has {seen} entries, expected {expected}")
        if missing := {name for task in self.tasks for name in task.classes} - set(self.class_order):
            raise ValueError(f"class_order lacks the class '{min(missing)}'")
        for name, value in _derived(self.accuracy_matrix, self.task_il_matrix, self.counts).items():
            stored = getattr(self, name)
            if (stored is None) != (value is None) or abs((stored or 0.0) - (value or 0.0)) > TOLERANCE:
                raise ValueError(f"{name} is {stored}, but {value} follows from the accuracy matrix")
        return self


def checksum_of(data: Mapping[str, Any]) -> str:
    """SHA-256 of all entries but the checksum itself, however the file is laid out."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _derived(accuracy: metrics.Matrix, task_il: metrics.Matrix, counts: Sequence[int]) -> dict[str, float | None]:
    return {
        "a_last": metrics.a_last(accuracy, counts),
        "a_last_tasks": metrics.a_last_tasks(accuracy, counts),
        "a_avg": metrics.a_avg(accuracy, counts),
        "a_avg_tasks": metrics.a_avg_tasks(accuracy, counts),
        "forgetting": metrics.forgetting(accuracy, counts),
        "bwt": metrics.bwt(accuracy, counts),
        "fwt": metrics.fwt(accuracy, counts=counts),
        "task_il": metrics.a_last(task_il, counts),
    }


def _first_errors(error: ValidationError, most: int = 3) -> str:
    told = []
    for problem in error.errors()[:most]:
        place = ".".join(str(part) for part in problem["loc"])
        told.append(f"{place}: {problem['msg']}" if place else problem["msg"].removeprefix("Value error, "))
    more = error.error_count() - most
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


if __name__ == "__main__":
    from duallora.evaluation.schema import results_page

    print(results_page(), end="")

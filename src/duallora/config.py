"""The configuration of a run: typed, closed, written beside every result."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from duallora.errors import DualLoRAError
from duallora.settings import validated
from duallora.training.settings import TrainingSettings
from duallora.yaml_files import parse_yaml, read_yaml, shipped

FOLDER = "configs"  # of the package: those that come with it


class Closed(BaseModel):
    """Base of all parts: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamConfig(Closed):
    """Which classes arrive when."""

    source: str = Field("digits", description="a name of docs/data.md, 'folder:PATH', 'npz:PATH', or a path")
    scenario: Literal["class-incremental", "domain-incremental"] = Field(
        "class-incremental",
        description="domain-incremental: the source is pacs, domainnet, core50, or a folder of domains, each a folder "
        "of class folders",
    )
    increment: int | list[int] | Literal["source"] = Field(
        2,
        description="classes per task: a number, one number per task, or 'source': as the source groups its classes "
        "(alphabets of omniglot, data sets of five-datasets)",
    )
    max_tasks: int | None = Field(None, ge=1, description="end the stream after so many tasks; all by default")
    order: list[str] | None = Field(
        None, description="order by name of the classes (of the groups, of the domains); else `order_seed` draws it"
    )
    order_seed: int | None = Field(None, description="shuffles them; the source's own order without it")
    order_shuffle: Literal["pcg64", "mt19937"] = Field(
        "pcg64",
        description="what `order_seed` seeds: numpy's generator of today, or its older one, with whose "
        "RandomState(seed).permutation published code draws its class orders",
    )
    validation: float = Field(
        0.0, ge=0, lt=1, description="share of the training images held out for choosing settings"
    )
    evaluate_on: Literal["test", "validation"] = Field("test", description="validation never touches the test images")
    max_per_class: int | None = Field(None, ge=1, description="training images used per class and task; all by default")
    max_test_per_class: int | None = Field(
        None, ge=1, description="test images used per class and task; all by default"
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="share of every class to test on, where a folder or npz file has no test images"
    )
    root: str | None = Field(None, description="where data sets with a name are kept; else the variable DUALLORA_DATA")


class MethodChoice(Closed):
    """Which method, and its options."""

    name: str = Field("duallora", description="one of those below")
    options: dict[str, Any] = Field(default_factory=dict, description="its own, below")


class BackboneChoice(Closed):
    """Which backbone."""

    name: str = Field("bundled", description="`bundled`, or any plain ViT of timm by its name there")
    weights: str | None = Field(None, description="a local file with the weights")
    pretrained: bool = Field(True, description="with its published weights; false: random ones")
    image_size: int | None = Field(None, ge=8, description="input size in pixels, where not the backbone's own")
    levels: int | None = Field(
        None,
        ge=0,
        description="of how many of the last blocks the features take class token and mean patch token beside the "
        "final feature; 0: the final feature alone; by default as many as give up to 2,304 features",
    )
    normalise: bool = Field(
        True, description="as its weights were trained; false: values in [0, 1], as some published code has it"
    )


class RunConfig(Closed):
    """One run: a stream, a method, a backbone, a seed.

    >>> RunConfig().stream.increment
    2
    """

    stream: StreamConfig = Field(default_factory=StreamConfig)
    method: MethodChoice = Field(default_factory=MethodChoice)
    backbone: BackboneChoice = Field(default_factory=BackboneChoice)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    seed: int = Field(0, ge=0, lt=2**32, strict=True, description="of weights, order of images and augmentation")
    cumulative_steps: Literal["all", "last"] = Field(
        "all", description="when a cumulative method (joint) is trained: after every task, or the last"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps, ...; auto: a GPU where there is one")


class ModelConfig(Closed):
    """What a model is made of, and how it trains: the part of a run that `duallora learn` needs."""

    method: MethodChoice = Field(default_factory=MethodChoice)
    backbone: BackboneChoice = Field(default_factory=BackboneChoice)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    seed: int = Field(0, ge=0, lt=2**32, strict=True, description="of weights, order of images and augmentation")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps, ...; auto: a GPU where there is one")


Config = TypeVar("Config", RunConfig, ModelConfig)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the configuration of a run from a YAML file.

    Relative paths in the file are relative to the current directory, as on the command line.

    Args:
        path: the file, or the bare name of one that comes with the package (`shipped_configs()`).
        overrides: "key=value" texts that win over the file, see `apply_overrides`.

    Raises:
        DualLoRAError: the file is missing or no YAML, or a key or value in it is wrong (with the nearest known key).

    >>> load_config("digits", ["training.epochs=3", "method.name=slda"]).training.epochs
    3
    """
    data = apply_overrides(read_yaml(path, "config", FOLDER, example="stream"), overrides)
    return checked_config(RunConfig, data, f"config '{path}'")


def checked_config(model: type[Config], data: Mapping[str, Any], where: str) -> Config:
    """Build a configuration and check the method's options too, which the method alone knows.

    Raises:
        DualLoRAError: see `duallora.settings.validated`; or an unknown method.
    """
    config = validated(model, data, where)
    from duallora.methods.registry import get_method  # imports torch

    kind = get_method(config.method.name)
    validated(kind.Config, config.method.options, f"{where}: method.options of '{config.method.name}'")
    return config.model_copy(update={"training": for_method(config.training, kind.recommended)})


def for_method(training: TrainingSettings, recommended: Mapping[str, object]) -> TrainingSettings:
    """`training` with what nobody set taken from a method's recommendation.

    >>> for_method(TrainingSettings(epochs=3), {"epochs": 9, "learning_rate": 0.01}).learning_rate
    0.01
    """
    return training.model_copy(update={k: v for k, v in recommended.items() if k not in training.model_fields_set})


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested settings with "a.b.c=value" texts applied in order; values are read as YAML.

    Whether the keys exist is not judged here but by `checked_config`.

    Raises:
        DualLoRAError: a text without "=", a value that is no YAML, or a key below something that is no group of keys.

    >>> apply_overrides({"training": {"epochs": 5}}, ["training.epochs=3", "stream.order=['1', '0']"])
    {'training': {'epochs': 3}, 'stream': {'order': ['1', '0']}}
    """
    changed: dict[str, Any] = copy.deepcopy(dict(data))
    for text in overrides:
        key, equals, value = text.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise DualLoRAError(f"cannot set '{text}'; expected KEY=VALUE, for example training.epochs=3")
        place = changed
        for i, step in enumerate(path[:-1]):
            inner = place.setdefault(step, {})
            if inner is None:  # a key with nothing behind it in a YAML file
                inner = place[step] = {}
            if not isinstance(inner, dict):
                raise DualLoRAError(f"cannot set '{text}': {'.'.join(path[: i + 1])} is {inner!r}, which has no keys")
            place = inner
        place[path[-1]] = _yaml_value(value, text)
    return changed


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the package.

    >>> shipped_configs()
    ['cifar100-10', 'digits']
    """
    return list(shipped(FOLDER))


def _yaml_value(value: str, text: str) -> Any:
    try:
        text_alone, read = value.strip(), parse_yaml(value)
        if text_alone.startswith("#"):
            return text_alone
        if isinstance(read, str) and text_alone.startswith(read) and text_alone[len(read) :].lstrip().startswith("#"):
            return text_alone  # YAML takes the rest for a comment
        return read
    except yaml.YAMLError as error:
        raise DualLoRAError(f"cannot set '{text}': the value is no YAML; put it in quotes: \"'...'\"") from error

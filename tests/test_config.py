"""Configurations: read, overridden, closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from duallora.config import ModelConfig, apply_overrides, checked_config, load_config, shipped_configs
from duallora.errors import DualLoRAError

ROOT = Path(__file__).parents[1]
PACKAGED = ROOT / "src" / "duallora" / "configs"


def test_the_configs_at_the_root_are_those_of_the_package() -> None:
    at_root = {path.name: path.read_bytes() for path in (ROOT / "configs").glob("*.yaml")}
    assert at_root == {path.name: path.read_bytes() for path in PACKAGED.glob("*.yaml")}
    assert {f"{name}.yaml" for name in shipped_configs()} == set(at_root)


@pytest.mark.parametrize("path", sorted(PACKAGED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_load_by_path_and_by_name(path: Path) -> None:
    assert load_config(path) == load_config(path.stem)


def test_the_shipped_streams() -> None:
    digits, cifar = load_config("digits"), load_config("cifar100-10")
    assert (digits.stream.source, digits.stream.increment) == ("digits", 2)
    assert (cifar.stream.source, cifar.stream.increment) == ("cifar100", 10)


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configurations_leave_room_for_what_a_method_recommends(name: str) -> None:
    assert load_config(name).training.learning_rate == 2e-3
    assert load_config(name, ["method.name=l2p"]).training.learning_rate == 7.5e-3
    assert load_config(name, ["method.name=slca"]).training.optimizer == "sgd"


def test_overrides_win_over_the_file_and_have_types(tmp_path: Path) -> None:
    path = tmp_path / "my run.yaml"
    path.write_text("method: {name: lora, options: {rank: 4}}\ntraining:\n  epochs: 2\nstream:\n")
    config = load_config(
        path,
        [
            "training.epochs=7",
            "training.learning_rate=1e-3",  # YAML 1.1 reads this as text; it is a number all the same
            "method.options.readout=gaussian",
            "stream.increment=[5, 5]",
            "stream.order_seed=1",
            "backbone.image_size=null",
        ],
    )
    assert (config.training.epochs, config.training.learning_rate) == (7, 1e-3)
    assert config.method.options == {"rank": 4, "readout": "gaussian"}
    assert (config.stream.increment, config.stream.order_seed, config.backbone.image_size) == ([5, 5], 1, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("root=my data #2", "my data #2"),
        ("root=my data  #2", "my data  #2"),
        ("root=#2", "#2"),
        ("root='a #b'", "a #b"),
        ("root=a#b", "a#b"),
        ("root=3 # three", 3),
    ],
    ids=str,
)
def test_a_hash_in_a_text_is_part_of_it(text: str, value: object) -> None:
    assert apply_overrides({}, [text]) == {"root": value}


def test_overrides_leave_what_they_are_given_alone() -> None:
    data = {"training": {"epochs": 1}}
    assert apply_overrides(data, ["training.epochs=2", "seed=3"]) == {"training": {"epochs": 2}, "seed": 3}
    assert data == {"training": {"epochs": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.epochs", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
        ("training..epochs=3", "KEY=VALUE"),
        ("seed.value=3", "seed is 0, which has no keys"),
        ("stream.order=[1, ", "no YAML"),
    ],
)
def test_overrides_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(DualLoRAError, match=f"cannot set '.*{said}"):
        apply_overrides({"seed": 0}, [text])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainig: {epochs: 1}", "unknown key 'trainig'; did you mean 'training'"),
        ("epochs: 1", "unknown key 'epochs'; did you mean 'training.epochs'"),
        ("training: {epoch: 1}", "unknown key 'training.epoch'; did you mean 'epochs'"),
        ("stream: {increments: 1}", "unknown key 'stream.increments'; did you mean 'increment'"),
        ("method: {name: dualora}", "unknown method 'dualora'; did you mean 'duallora'"),
        ("method: {name: lora, options: {rnk: 2}}", "method.options of 'lora': unknown key 'rnk'; did you mean 'rank'"),
        ("method: {options: {rank: none}}", "rank = 'none'"),
        ("training: {epochs: many}", "training.epochs = 'many'"),
        ("stream: {increment: 1.5}", "run.yaml': stream.increment = 1.5: expected a valid integer, "),
        ("stream: {increment: 1.5}", "fractional part, or a valid list, or 'source'"),
        ("training: [1, 2]", "training = "),
        ("seed: -1", "seed = -1"),
        ("- one\n- two", "holds a list"),
        ("training: {epochs: [", "no valid YAML"),
        ("\0", "no valid YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(DualLoRAError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert "run.yaml" in str(caught.value) or "method" in said


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DualLoRAError, match=r"nothing\.yaml' does not exist.*cifar100-10, digits"):
        load_config(tmp_path / "nothing.yaml")
    with pytest.raises(DualLoRAError, match="unknown config 'digit'; did you mean 'digits'"):
        load_config("digit")
    with pytest.raises(DualLoRAError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DualLoRAError, match="UTF-8"):
        load_config(tmp_path / "image.yaml")


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml").method.name == "duallora"


def test_a_model_has_no_stream() -> None:
    with pytest.raises(DualLoRAError, match="unknown key 'stream'"):
        checked_config(ModelConfig, {"stream": {}}, "learn")


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, duallora.config; duallora.config.RunConfig(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

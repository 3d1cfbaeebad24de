"""Which exception ends in which message and exit code."""

from __future__ import annotations

import errno
import json

import pytest
from cli_helpers import Type

REGISTRY = "duallora.methods.registry.list_methods"


def fails(error: BaseException) -> object:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/demo"), 2, "'runs/demo': No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "zoo"), 2, "'zoo': Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "the memory does not suffice; close other programs"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "the memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 2, "the memory does not suffice"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), 2, "the memory does not suffice"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "the memory does not suffice"),
        (RuntimeError("shapes\ndiffer"), 1, "please report it, with what --debug shows: RuntimeError: shapes differ"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_one_line_and_a_code(
    error: BaseException, code: int, said: str, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(REGISTRY, fails(error))
    plain, as_json = typed("methods"), typed("methods", "--json")
    assert (plain.code, as_json.code) == (code, code)
    assert plain.out == as_json.out == ""
    assert said in plain.err
    assert plain.err.count("\n") == 1
    assert said in json.loads(as_json.err)["error"]


@pytest.mark.parametrize(
    ("redo", "said"),
    [
        ((), "type the same command again to go on"),
        (("--redo",), "type the same command without --redo to go on"),
    ],
)
def test_what_was_to_start_over_does_not_do_so_twice(
    redo: tuple[str, ...], said: str, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("duallora.config.load_config", interrupted)
    assert said in typed("run", "some.yaml", "--out=x", *redo).err


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("run", "digits", "--out=x"), "go on with fewer images at once: --set training.evaluation_batch_size=16"),
        (("learn", "zoo", "animals"), "take smaller batches: --set training.batch_size=16"),
        (("predict", "zoo", "a.png"), "or take another device: --device cpu"),
    ],
)
def test_need_of_memory_is_answered_by_what_the_command_takes(
    command: tuple[str, ...], advice: str, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = fails(MemoryError())
    for place in ("config.load_config", "artefact.finish_interrupted", "artefact.read_manifest"):
        monkeypatch.setattr(f"duallora.{place}", lambda *_, **__: failing())
    done = typed(*command)
    assert done.code == 2
    assert advice in done.err


def test_where_a_fault_lies_is_shown_on_request(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, fails(ZeroDivisionError("by zero")))
    done = typed("methods", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "ZeroDivisionError: by zero" in done.err.splitlines()[-1]


def test_the_variable_asks_for_it_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from duallora.cli import main

    monkeypatch.setattr(REGISTRY, fails(ZeroDivisionError("by zero")))
    for value, shown in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("DUALLORA_DEBUG", value)
        with pytest.raises(SystemExit) as ended:
            main(["methods"])
        assert ended.value.code == 1
        assert ("Traceback" in capsys.readouterr().err) is shown


def test_nothing_typed_is_a_wish_for_help(typed: Type) -> None:
    done = typed()
    assert done.code == 0
    assert "Commands:" in done.out
    assert typed("--version").out.startswith("duallora ")


def test_what_libraries_print_stays_out_of_the_document(typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    from duallora.methods import registry

    found = registry.list_methods()

    def chatty() -> list[str]:
        print("Files already downloaded and verified")
        return found

    monkeypatch.setattr(REGISTRY, chatty)
    done = typed("methods", "--json")
    assert [method["name"] for method in done.document] == found
    assert "already downloaded" in done.err

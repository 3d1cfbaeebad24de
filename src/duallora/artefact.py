"""Model folders: `model.safetensors` and `duallora.json`, written beside and renamed, checked when read.

Tensors and JSON only, never a pickle: opening a model of a stranger runs none of their code. An interrupted save,
even by pulling the plug, leaves the folder as it was, or, in the instant between two renames, a complete sibling
`NAME.saving-xxxxxxxx` that the error of `load_artefact` names and that the next `save_artefact` puts in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from duallora.errors import DualLoRAError
from duallora.files import (
    JSON,
    alone_in,
    dump_json,
    sync_folder,
    user_path,
    write_json_atomic,
    write_synced,
    writing,
)
from duallora.migrations import MIGRATIONS
from duallora.versions import duallora_version, library_versions

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "TENSORS",
    "check_target",
    "finish_interrupted",
    "load_artefact",
    "read_manifest",
    "save_artefact",
    "write_json_atomic",
]

FORMAT_VERSION = 7
MANIFEST = "duallora.json"
TENSORS = "model.safetensors"
RESERVED = ("format", "format_version", "duallora_version", "library_versions", "files", "checksum")
PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")
LONGEST = 200  # bytes of a name: those of the siblings that a save makes add 18, and file systems take 255
JUNK = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini")  # what file managers leave behind


def save_artefact(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, JSON],
    *,
    overwrite: bool = False,
    replaces: str | None = None,
) -> str:
    """Save a model folder that `load_artefact` reads back bit by bit.

    Everything is written to a sibling, synced, read again and verified before it takes its place; with `overwrite` the
    old model stays whole until then. Saves at once, in one folder or side by side, come one after the other.

    Args:
        folder: the model folder; missing parents are made, an empty folder is used.
        tensors: by name; any device, strides and sharing (copied), any dtype that safetensors knows.
        manifest: JSON values under names of the caller's; those of `RESERVED` are written here.
        overwrite: replace the duallora model that `folder` already is. Anything else is never replaced.
        replaces: checksum of the manifest that the folder is expected to have, where it is there.

    Returns:
        The checksum of the manifest written, for `replaces` next time.

    Raises:
        DualLoRAError: the folder is taken, holds other things or another model than `replaces`, or cannot be written; a
            value cannot be stored.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "zoo"
    >>> checksum = save_artefact(folder, {"head": torch.ones(2, 3)}, {"classes": ["cat", "dog"]})
    >>> tensors, manifest = load_artefact(folder)
    >>> tensors["head"].shape, manifest["classes"]
    (torch.Size([2, 3]), ['cat', 'dog'])
    """
    folder = user_path(folder).resolve()
    payload = _serialise(tensors)
    document = _document(manifest, payload)
    text = dump_json(document)
    check_target(folder, overwrite=overwrite)  # before anything is made
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder), alone_in(folder.parent):
        _finish_interrupted(folder)
        check_target(folder, overwrite=overwrite)
        if replaces is not None and _is_ours(folder) and read_manifest(folder)["checksum"] != replaces:
            raise DualLoRAError(
                f"'{folder}' was saved by somebody else since it was loaded here, and saving would undo that; save to "
                "another folder, then load this one again and learn the task on it"
            )
        token = secrets.token_hex(4)
        new = folder.with_name(f"{folder.name}.saving-{token}")
        old = folder.with_name(f"{folder.name}.previous-{token}")
        try:
            new.mkdir()
            write_synced(new / TENSORS, payload)
            write_synced(new / MANIFEST, text.encode("utf-8"))
            sync_folder(new)
            _read_verified(new, read_manifest(new))
            _swap(folder, new, old)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        for leftover in _siblings(folder, "saving") + _siblings(folder, "previous"):
            shutil.rmtree(leftover, ignore_errors=True)
    return str(document["checksum"])


def load_artefact(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model folder: tensors by name (CPU) and the manifest (the caller's keys and those of `RESERVED`).

    Nothing is believed before its checksum is verified. An older format is migrated in memory, the folder kept as is.

    Raises:
        DualLoRAError: naming the file and the fix: folder missing, no duallora model, file missing, truncated or
            altered, a pickle among the files, or a format newer than this duallora.
    """
    folder = user_path(folder)
    manifest = read_manifest(folder)
    tensors = _parse(_read_verified(folder, manifest), folder / TENSORS)
    while (version := manifest["format_version"]) < FORMAT_VERSION:
        if version not in MIGRATIONS:
            raise DualLoRAError(
                f"'{folder / MANIFEST}' has format_version {version}, which duallora {duallora_version()} no longer "
                "reads; open and save it once with an earlier version: "
                f"pip install 'duallora=={manifest['duallora_version']}'"
            )
        tensors, manifest = MIGRATIONS[version](tensors, manifest)
        manifest = {**manifest, "format_version": version + 1}
    return tensors, manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a model folder, checked but not migrated, without reading its tensors.

    Raises:
        DualLoRAError: as `load_artefact`, for all that can be seen without the tensors.
    """
    folder = user_path(folder)
    if not folder.exists():
        raise DualLoRAError(_missing_message(folder))
    if not folder.is_dir():
        raise DualLoRAError(
            f"'{folder}' is a file; a model is a folder with {TENSORS} and {MANIFEST}: give that folder"
        )
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / "results.json").is_file() and (folder / "config.json").is_file():
            raise DualLoRAError(
                f"'{folder}' is a run, which measures and keeps no model; make one that answers with duallora learn"
            )
        raise DualLoRAError(
            f"'{folder}' is no duallora model: it has no {MANIFEST}; give a folder that duallora has saved"
        )
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in PICKLES and not entry.name.startswith("."):
            raise DualLoRAError(
                f"'{entry}' does not belong in a model folder: duallora models are {TENSORS} and JSON, and a pickle "
                "can run code when it is opened; move it out of the folder if you trust the rest"
            )
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DualLoRAError(f"'{path}' is not valid JSON ({error}); restore it from a copy of the model") from error
    except OSError as error:
        raise DualLoRAError(f"'{path}' cannot be read: {error.strerror}; check its permissions") from error
    return _checked(document, path)


def _checked(document: Any, path: Path) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("format") != "duallora":
        raise DualLoRAError(
            f"'{path}' was not written by duallora (its format is another); give a folder that duallora has saved"
        )
    version, writer = document.get("format_version"), document.get("duallora_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1 or not isinstance(writer, str):
        raise DualLoRAError(f"'{path}' was altered: format_version is {version!r}; restore it from a copy of the model")
    if version > FORMAT_VERSION:
        raise DualLoRAError(
            f"'{path}' has format_version {version}; duallora {duallora_version()} reads up to {FORMAT_VERSION}. "
            f"Install the version that wrote it or a later one: pip install 'duallora>={writer}'"
        )
    if document.get("checksum") != _checksum(document) or not _lists_tensors(document.get("files")):
        raise DualLoRAError(f"'{path}' was altered after it was saved; restore it from a copy of the model")
    return document


def _lists_tensors(files: Any) -> bool:
    entry = files.get(TENSORS) if isinstance(files, dict) and len(files) == 1 else None
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def _read_verified(folder: Path, manifest: dict[str, Any]) -> bytes:
    path, expected = folder / TENSORS, manifest["files"][TENSORS]
    if not path.is_file():
        raise DualLoRAError(f"'{path}' is missing; restore it from a copy of the model")
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise DualLoRAError(f"'{path}' cannot be read: {error.strerror}; check its permissions") from error
    if len(payload) < expected["bytes"]:
        raise DualLoRAError(
            f"'{path}' is truncated: {len(payload)} bytes of {expected['bytes']}; copy the model again from its source"
        )
    if hashlib.sha256(payload).hexdigest() != expected["sha256"]:
        raise DualLoRAError(
            f"'{path}' was altered, or belongs to another model: its sha256 is not the one in {MANIFEST}; "
            "copy the whole model folder again from its source"
        )
    return payload


def _parse(payload: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(payload)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DualLoRAError(
            f"'{path}' is no safetensors file that can be read here ({error}); save it again"
        ) from error


def _serialise(tensors: Mapping[str, Tensor]) -> bytes:
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name or name == "__metadata__":
            raise DualLoRAError(f"{name!r} cannot name a tensor; use a non-empty text other than '__metadata__'")
        if not isinstance(tensor, Tensor):
            raise DualLoRAError(
                f"'{name}' is of type {type(tensor).__name__}, not a tensor; put it in the manifest instead"
            )
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise DualLoRAError(
                f"tensor '{name}' ({tensor.layout}, {tensor.device}) has no plain values; make it dense first"
            )
        # A copy, since safetensors refuses views that share memory.
        plain[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    try:
        return safetensors.torch.save(plain)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DualLoRAError(f"the tensors cannot be stored as safetensors: {error}") from error


def _document(manifest: Mapping[str, JSON], payload: bytes) -> dict[str, JSON]:
    if taken := sorted(set(RESERVED) & set(manifest)):
        raise DualLoRAError(f"the manifest key '{taken[0]}' is written by duallora itself; choose another name")
    document: dict[str, JSON] = {
        "format": "duallora",
        "format_version": FORMAT_VERSION,
        "duallora_version": duallora_version(),
        "library_versions": library_versions(),
        "files": {TENSORS: {"sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)}},
        **manifest,
    }
    dump_json(document)  # names what JSON cannot hold before the checksum stumbles over it
    return {**document, "checksum": _checksum(document)}


def _checksum(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_target(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise the error that `save_artefact` would end in, before a long training instead of after it; writes nothing.

    Args:
        folder: the model folder to be written.
        overwrite: whether a model may be replaced.

    Raises:
        DualLoRAError: the folder is taken, holds other things, or is in a place that cannot be written.
    """
    folder = user_path(folder).resolve()
    above = next(parent for parent in folder.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "is a file" if above.is_file() else "may not be written to"
        raise DualLoRAError(f"cannot save to '{folder}': '{above}' {what}; choose another place")
    if len(os.fsencode(folder.name)) > LONGEST:
        raise DualLoRAError(f"cannot save to '{folder}': its name is longer than {LONGEST} bytes; shorten it")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DualLoRAError(f"cannot save to '{folder}': it is a file; choose another name")
    if folder.is_mount():  # it could not be replaced as a whole
        raise DualLoRAError(
            f"cannot save to '{folder}': a disk is mounted there; give a folder in it: '{folder}/model'"
        )
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return
    if not _is_ours(folder):
        if MANIFEST in names:
            read_manifest(folder)  # says what is wrong with it
        if TENSORS in names and MANIFEST not in names:
            raise DualLoRAError(f"'{folder}' is a model without its {MANIFEST}; restore that from a copy of the model")
        raise DualLoRAError(f"cannot save to '{folder}': it holds other things ('{names[0]}'); choose a new folder")
    if not overwrite:
        raise DualLoRAError(
            f"'{folder}' already holds a model; choose another folder (in Python, overwrite=True replaces it)"
        )
    if foreign := [name for name in names if name not in (MANIFEST, TENSORS) and not JUNK.fullmatch(name)]:
        raise DualLoRAError(
            f"replacing the model '{folder}' would delete '{foreign[0]}'; move it out of the folder first"
        )


def _is_ours(folder: Path) -> bool:
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("format") == "duallora"


def _swap(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `folder`, which is moved to `old` and then removed."""
    if folder.exists() and any(folder.iterdir()):
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if not folder.exists():
                old.rename(folder)
            raise
    else:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        new.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _siblings(folder: Path, kind: str) -> list[Path]:
    """What interrupted saves left beside `folder`, the newest first."""
    pattern = re.compile(re.escape(f"{folder.name}.{kind}-") + "[0-9a-f]{8}")
    if not folder.parent.is_dir():
        return []
    found = [entry for entry in folder.parent.iterdir() if pattern.fullmatch(entry.name) and entry.is_dir()]
    return sorted(found, key=lambda entry: entry.stat().st_mtime_ns, reverse=True)


def _complete_siblings(folder: Path) -> list[Path]:
    """Whole models that interrupted saves left: the one on its way in, the one that it replaces, then any other."""
    previous, saving = _siblings(folder, "previous"), _siblings(folder, "saving")
    tokens = [entry.name[-8:] for entry in previous]
    paired = [entry for entry in saving if entry.name[-8:] in tokens]
    complete: list[Path] = []
    for entry in [*paired, *previous, *(entry for entry in saving if entry not in paired)]:
        with contextlib.suppress(DualLoRAError):
            _read_verified(entry, read_manifest(entry))
            complete.append(entry)
    return complete


def finish_interrupted(folder: str | Path) -> bool:
    """Where a save of the folder was cut off between its two renames, do the second one; tell whether there was one.

    Raises:
        DualLoRAError: the place cannot be written.
    """
    folder = user_path(folder).resolve()
    if folder.exists() or not _siblings(folder, "previous"):
        return False
    with writing(folder), alone_in(folder.parent):  # one that is under way ends first
        return _finish_interrupted(folder)


def _finish_interrupted(folder: Path) -> bool:
    if folder.exists() or not _siblings(folder, "previous") or not (complete := _complete_siblings(folder)):
        return False
    complete[0].rename(folder)
    return True


def _missing_message(folder: Path) -> str:
    complete = _complete_siblings(folder.resolve())
    if not complete:
        return f"there is no model folder '{folder}'; check the path"
    return (
        f"there is no model folder '{folder}', but a save of it was cut off and '{complete[0]}' beside it is whole; "
        f"rename it: mv '{complete[0]}' '{folder}'"
    )

"""Weights from a file the user names, and the fingerprint of weights."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duallora.compat import import_timm
from duallora.errors import DualLoRAError
from duallora.files import user_path

# what a plain ViT may carry beyond the path of its tokens: classifiers and attention pooling
HEADS = ("head.", "head_dist.", "attn_pool.", "pre_logits.")
PATCHES = "patch_embed.proj.weight"


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names (sorted), dtypes, shapes and raw bytes: the same whatever file the tensors came from.

    Neither order, device nor memory layout counts; a changed value, name, shape or dtype does.

    >>> a = weights_sha256({"w": torch.eye(2), "b": torch.zeros(2)})
    >>> a == weights_sha256({"b": torch.zeros(2), "w": torch.eye(2).T})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{shape}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(vit: nn.Module, path: str | Path, name: str) -> None:
    """Fill a timm vision transformer from a .safetensors or a torch file, in place; all of its weights must be there.

    Read by timm: `{"state_dict": ...}`, `{"model": ...}`, an average (`state_dict_ema`) and `module.` prefixes are
    unwrapped, the original parameter names of DINOv2, CLIP and others are translated, positions of another image size
    are resampled. Nothing pickled is executed. Weights of a classifier or of attention pooling are ignored.

    Args:
        vit: the network, without classifier.
        path: the file.
        name: what to call the network in errors.

    Raises:
        DualLoRAError: no such file, not a file of weights, or one for another network.
    """
    path = user_path(path)
    raw = _read(path)
    expected = vit.state_dict()
    found, wanted = raw.get(PATCHES), expected.get(PATCHES)
    if isinstance(found, Tensor) and wanted is not None and found.ndim == 4 and found.shape != wanted.shape:
        raise _mismatch(path, name, [_shapes(PATCHES, found, wanted)])  # timm would resample them without a word
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        state = checkpoint_filter_fn(raw, vit, adapt_layer_scale=True)
    except Exception as error:  # it meets whatever the file holds
        raise _mismatch(path, name, [f"its weights cannot be translated ({_first_line(error)})"]) from error
    state = {k: v for k, v in state.items() if isinstance(v, Tensor) and not k.startswith(HEADS)}
    expected = {k: v for k, v in expected.items() if not k.startswith(HEADS)}
    missing, surplus = expected.keys() - state.keys(), state.keys() - expected.keys()
    problems = [f"missing {_some(missing)}"] if missing else []
    problems += [f"not expected {_some(surplus)}"] if surplus else []
    shared = expected.keys() & state.keys()
    problems += [_shapes(k, state[k], expected[k]) for k in sorted(shared) if state[k].shape != expected[k].shape][:3]
    if problems:
        raise _mismatch(path, name, problems)
    vit.load_state_dict(state, strict=False)


def _read(path: Path) -> dict[str, Any]:
    """The state dict in a file, read by timm without executing pickled code."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DualLoRAError(f"weights '{path}': {what}; give the path of a .safetensors, .pth or .pt file")
    if path.suffix.lower() in {".npz", ".npy"}:
        raise DualLoRAError(
            f"weights '{path}': NumPy checkpoints are not read; give timm's .safetensors, or save "
            "torch.save(model.state_dict(), 'weights.pth') and give that"
        )
    import_timm()
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # torch, safetensors and zip files each have their own
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            reason = "it is damaged or holds pickled Python objects, which are never executed"
        else:
            reason = _first_line(error)
        raise DualLoRAError(
            f"weights '{path}' cannot be read: {reason}. Expected a .safetensors file or one written by "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    if not any(isinstance(v, Tensor) for v in state.values()) and "encoder" not in state:
        raise DualLoRAError(
            f"weights '{path}' hold no tensors under names, only {_some(state)}; save the part wanted: "
            "torch.save(checkpoint['<part>'], 'weights.pth')"
        )
    return dict(state)


def _mismatch(path: Path, name: str, problems: list[str]) -> DualLoRAError:
    return DualLoRAError(
        f"weights '{path}' are not those of '{name}': {'; '.join(problems)}. "
        "Name the architecture that the file was made for (timm.list_models('vit_*')), or give another file"
    )


def _shapes(key: str, found: Tensor, wanted: Tensor) -> str:
    return f"{key} has shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"


def _some(names: Iterable[str], shown: int = 3) -> str:
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(ordered[:shown]) + more if ordered else "nothing"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

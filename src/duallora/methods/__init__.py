"""Methods for continual learning, each on the one contract of `methods.base`."""

from __future__ import annotations

from duallora.methods.base import Batches, Cost, Encoding, Method, MethodConfig, Output, TaskInfo
from duallora.methods.registry import get_method, list_methods

__all__ = ["Batches", "Cost", "Encoding", "Method", "MethodConfig", "Output", "TaskInfo", "get_method", "list_methods"]

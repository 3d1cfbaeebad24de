"""One self-contained HTML page from the files that runs leave."""

from __future__ import annotations

from duallora.report.collect import collect_runs
from duallora.report.page import write_report

__all__ = ["collect_runs", "write_report"]

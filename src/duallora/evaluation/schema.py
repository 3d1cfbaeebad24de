"""The page docs/results.md, written from the descriptions of the models' fields."""

from __future__ import annotations

from duallora.schema import model_table

INTRODUCTION = """\
# results.json

One file per run: one method on one stream with one seed. Every table and plot is derived from such files. The
matrices are measured, the metrics are computed from them ([formulas](metrics.md)) and checked against them whenever the
file is read; an unknown key or a figure that does not follow is an error. Accuracies are shares from 0 to 1.

```python
from duallora.evaluation.results import RunResults

results = RunResults.load("runs/demo/duallora/results.json")
print(results.a_last, results.forgetting)
```

This page is written by `python -m duallora.evaluation.results > docs/results.md`.
"""


def results_page() -> str:
    """docs/results.md as it should be now."""
    from duallora.answers import SkippedImage
    from duallora.evaluation.results import BackboneRecord, MachineRecord, RunResults, TaskRecord

    models = (RunResults, TaskRecord, BackboneRecord, MachineRecord, SkippedImage)
    return "\n".join([INTRODUCTION, *(model_table(m) for m in models)])

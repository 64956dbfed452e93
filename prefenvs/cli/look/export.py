"""`prefenvs export RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from prefenvs.runs import Run


@dataclass(frozen=True)
class Export:
    """Write a run's policy and reward model as files that run without this package."""

    run_folder: Annotated[Path, Positional]
    """Folder that `prefenvs train` wrote."""
    format: Literal["torchscript", "onnx"] = "torchscript"
    """TorchScript for PyTorch in Python and C++, or ONNX for onnxruntime and others."""
    out: Path | None = None
    """Folder of the files; export/ in the run folder by default."""

    def run(self) -> None:
        """Write the files and print their paths. Raises PrefenvsError for what cannot be exported."""
        run = Run.open(self.run_folder)
        from prefenvs.agents.runs.export import export_run

        for path in export_run(run, self.out or run.path("export"), self.format):
            print(path)

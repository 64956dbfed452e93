"""`prefenvs doctor`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from dataclasses import dataclass
from importlib import metadata

from prefenvs.errors import EXTRAS, PrefenvsError, install_command
from prefenvs.runs import PACKAGES
from prefenvs.tasks import find_task


@dataclass(frozen=True)
class Doctor:
    """Check the installation, or with --task whether a task keeps the environments' contract."""

    task: str | None = None
    """Task to check: determinism, state round trip, hidden reward, rendering."""

    def run(self) -> None:
        """Print one line for each check; raises PrefenvsError if one failed."""
        failed = self._check_task(self.task) if self.task else self._check_installation()
        if failed:
            raise PrefenvsError(f"{failed} checks failed")
        print("all checks passed")

    def _check_task(self, task: str) -> int:
        from prefenvs.envs.check import check_task

        results = check_task(find_task(task).id)
        for result in results:
            print(f"{'ok    ' if result.passed else 'FAILED'} {result.name}: {result.detail}")
        return sum(not result.passed for result in results)

    def _check_installation(self) -> int:
        from prefenvs.envs.rendering.gl import gl_backend

        print(f"python {platform.python_version()}, {os.cpu_count()} processors")
        for package in PACKAGES:
            with contextlib.suppress(metadata.PackageNotFoundError):  # of an extra, see below
                print(f"ok     {package} {metadata.version(package)}")
        for extra in dict.fromkeys(EXTRAS.values()):
            missing = [name for name in EXTRAS if EXTRAS[name] == extra and importlib.util.find_spec(name) is None]
            if missing:
                print(f"-      extra {extra}: no {', '.join(missing)}; {install_command(extra)}")
        try:
            print(f"ok     rendering: {gl_backend()}")
        except PrefenvsError as error:
            print(f"FAILED rendering: {error}")
            return 1
        return 0

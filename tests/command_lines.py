"""Command lines that are refused."""

from __future__ import annotations

import pytest

from prefenvs.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command line that has to end with status 2 and one line, and return that line."""
    with pytest.raises(SystemExit) as stopped:
        main(list(words))
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return str(lines[0])

"""Another distribution's `agents` in place of ours is named, with the way out."""

import importlib
import sys
from pathlib import Path

import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.packages import check_packages, foreign_packages


def test_our_own_packages_pass() -> None:
    assert foreign_packages() == {}
    check_packages()


@pytest.mark.parametrize("merged", [False, True], ids=["in front of ours", "written over ours"])
def test_a_foreign_package_is_named(merged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "__init__.py").write_text("class Agent: ...\n")
    if merged:
        (folder / "pebble.py").write_text("")
    for name in [name for name in sys.modules if name.split(".")[0] == "agents"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(PrefenvsError, match="fresh virtual environment") as error:
        check_packages()
    assert str(folder) in str(error.value)

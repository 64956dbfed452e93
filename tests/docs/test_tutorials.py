"""The notebooks of the tutorials run from top to bottom, with fewer steps than on the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from prefenvs.videos import decode

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "code"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty present folder; the notebook's script lies beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(TUTORIALS)
    for name in ("orbit", "steer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def run(name: str, **parameters: int) -> dict[str, Any]:
    """Run the cells of a notebook in turn; parameters replace those of its cell tagged so."""
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in json.loads((TUTORIALS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(parameters) <= set(names)
            names |= parameters
    plt.close("all")
    return names


@pytest.mark.slow
def test_your_taste_leads_from_an_environment_to_a_picture(folder: Path) -> None:
    made = run("your_taste", STEPS=520, LABELS=15)
    assert made["agents"]["coin flips"].feedback.labels == 15
    assert 5 < made["agents"]["labels"].feedback.labels <= 15, "the rule skips what it cannot tell apart"
    assert set(made["rounds"]) == {"random", "labels", "coin flips"}
    assert (folder / "orbit.png").is_file()
    assert len(decode(folder / "taste.mp4")[0]) > 100


def test_a_data_set_and_labels_teach_more_than_cloning(folder: Path) -> None:
    made = run("data_set", STEPS=500)
    assert made["rounds"]["IQL, labels"] > made["rounds"]["cloning"] + 0.3
    assert (folder / "data_set.png").is_file()


@pytest.mark.slow
def test_the_full_notebooks_circle_the_post() -> None:
    taught = run("your_taste")["rounds"]
    assert taught["labels"] > taught["coin flips"] + 0.3
    learned = run("data_set")["rounds"]
    assert learned["IQL, labels"] > learned["cloning"] + 0.3

"""Answers may come at once here, as no person's do; a test of the pace itself puts it back."""

import pytest

from prefenvs.oracles.labelling.answers import Pace


@pytest.fixture(autouse=True)
def _no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "least", 0.0)

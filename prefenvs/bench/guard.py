"""Guard against regressions: a small learning benchmark, and the bands that its scores have to stay in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.bench.folder import write_json
from prefenvs.bench.report.scores import Scores
from prefenvs.bench.report.tables import show
from prefenvs.bench.results import Results
from prefenvs.errors import PrefenvsError

BANDS = Path(__file__).with_name("bands.json")
SPREADS = 3.0
"""Standard deviations over seeds by which a mean may fall below the one that the band was made from."""
SLACK = 0.1
"""And this share of the way from random actions to the method's score at least: few seeds tell little of a spread."""


@dataclass(frozen=True)
class Verdict:
    """What the guard says of one method on one task."""

    name: str
    worse: bool
    sentence: str


def make_bands(results: Results) -> dict[str, Any]:
    """Return the bands of a finished benchmark: mean score, its lowest and highest acceptable values, and what made it.

    A run's score is the mean of its evaluations but the first, which is steadier than the last one alone. A band
    reaches from the mean over seeds by the larger of SPREADS standard deviations and SLACK of its distance from random
    actions; it is blind where that takes it down to them. Raises a PrefenvsError if a cell has not finished.
    """
    scores = Scores(results)
    unfinished = scores.cells.index[scores.cells["status"] != "finished"]
    if len(unfinished):
        raise PrefenvsError(f"bands need every cell of the suite, but {unfinished[0]} has not finished")
    bands = {}
    for name, (values, floor) in _means(scores).items():
        mean, spread = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
        if math.isnan(mean):
            raise PrefenvsError(f"a band needs figures, but a run of {name} was measured as NaN")
        room = max(SPREADS * spread, SLACK * abs(mean - floor))
        task = name.split(" on ")[1]
        bands[name] = {
            "mean": round(mean, 4),
            "low": round(mean - room, 4),
            "high": round(mean + room, 4),
            "seeds": len(values),
            "blind": bool(mean - room <= floor),
            "measure": scores.suite["measures"][task],
        }
    first = results.finished.iloc[0]
    commits = sorted(results.finished["commit"].unique())
    made = {"commit": " and ".join(commits), "processor": first["processor"], "versions": json.loads(first["versions"])}
    return {"suite": results.suite["name"], "made": made, "bands": bands}


def compare(results: Results, bands: Mapping[str, Any]) -> list[Verdict]:
    """Hold a benchmark's mean scores against bands; a method without a result has got worse.

    Raises a PrefenvsError if the bands are of another suite, or none is known for a method.
    """
    if bands["suite"] != results.suite["name"]:
        raise PrefenvsError(f"the bands are of the suite {bands['suite']!r}, the results of {results.suite['name']!r}")
    found = _means(Scores(results))
    unknown = sorted(set(found) - set(bands["bands"]))
    if unknown:
        raise PrefenvsError(f"there is no band for {', '.join(unknown)}: make new ones with --update")
    verdicts = []
    for name, band in bands["bands"].items():
        values = found[name][0] if name in found else np.zeros(0)
        accepted = f"{show(band['low'], band['measure'])} to {show(band['high'], band['measure'])}"
        if not len(values):
            verdicts.append(Verdict(name, True, f"WORSE   {name}: no result; accepted {accepted}"))
            continue
        mean = float(values.mean())
        worse = not mean >= band["low"]  # NaN is worse, too
        word = "WORSE  " if worse else "better " if mean > band["high"] else "ok     "
        told = f"{show(mean, band['measure'])} over {len(values)} seeds; accepted {accepted}"
        better = ", above the band: make new ones with --update" if mean > band["high"] else ""
        verdicts.append(Verdict(name, worse, f"{word} {name}: {told}{better}"))
    return verdicts


def read_bands(path: Path) -> dict[str, Any]:
    """Read bands; raises PrefenvsError where there are none, or a damaged file."""
    try:
        bands: dict[str, Any] = json.loads(path.read_text())
        _ = [bands["suite"], *(band[name] for band in bands["bands"].values() for name in ("low", "high", "measure"))]
    except FileNotFoundError:
        raise PrefenvsError(f"there are no bands at {path}; --update makes them from a run") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrefenvsError(f"{path} is damaged ({error}); --update makes new bands from a run") from None
    return bands


def write_bands(bands: Mapping[str, Any], path: Path) -> None:
    """Write bands, to be committed."""
    write_json(path, bands)


def _means(scores: Scores) -> dict[str, tuple[Any, float]]:
    """Each seed's score, and the mean score of random actions, by "method on task"."""
    found = {}
    frame = scores.results.finished
    for entry in scores.entries:
        for task in scores.tasks:
            runs = frame[frame["cell"].isin(scores.of(entry, task).index)].groupby("cell", sort=False)
            measure = scores.suite["measures"][task]
            values = np.array([run[measure].to_numpy(float)[1:].mean() for _, run in runs if len(run) > 1])
            if len(values) and scores.method(entry)["upper"]:
                name = f"{entry.method} on {task}"
                if name in found:
                    raise PrefenvsError(f"a band is of one rater and budget, but the suite has several of {name}")
                found[name] = (values, scores.ends(task, entry.method)[0])
    return found

"""One report of a benchmark: a self-contained HTML page, and its tables for papers and other programs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefenvs.bench.report import figures, tables
from prefenvs.bench.report.lift import control_of, idle_labels, lift_table
from prefenvs.bench.report.published import published_table
from prefenvs.bench.report.scores import Scores
from prefenvs.bench.report.statistics import FEWEST
from prefenvs.bench.results import Results
from prefenvs.bench.runner.progress import duration
from prefenvs.errors import PrefenvsError
from prefenvs.internal.templates import render

WARNINGS = ("Reduced", "These", "A single", "No control", "On ")
"""How notes begin that the page sets apart."""


LARGEST = 2_000_000
"""Bytes that a video in the page may have."""


def write_report(
    results: Results, out: Path, resamples: int = 2_000, against: Sequence[str] = (), videos: bool = False
) -> str:
    """Write report.html, tables.md, tables.tex, scores.csv and the curves as SVG; return the tables as Markdown.

    against: methods above whose true return the others' is told. videos: put those that lie in the benchmark's folder
    into the page. Raises PrefenvsError where there is nothing to report, or a file cannot be written.
    """
    if not len(results.finished):
        raise PrefenvsError("no cell has finished yet, so there is nothing to report")
    films = find_videos(results) if videos else []
    scores = Scores(results)
    made = [
        tables.score_table(scores, resamples),
        lift_table(scores),
        tables.seeds_table(scores),
        tables.return_table(scores, None, resamples),
        *(tables.return_table(scores, method, resamples) for method in against),
        tables.improvement_table(scores),
        tables.reward_table(scores),
        tables.best_table(scores),
        tables.cost_table(scores),
        published_table(scores),
        tables.missing_table(scores),
    ]
    made = [table for table in made if table.rows]
    drawn = {name: drawing for name, drawing in _draw(scores).items() if drawing is not None}
    out.mkdir(parents=True, exist_ok=True)
    notes = remarks(results, scores)
    heading = f"## {results.suite['name']}\n\n{results.suite['sentence']}\n\n" + "".join(
        f"- {note}\n" for note in notes
    )
    markdown = heading + "\n" + "\n".join(table.markdown() for table in made)
    _put(out / "tables.md", markdown)
    _put(out / "tables.tex", "\n".join(table.latex(results.suite["name"]) for table in made))
    _put(out / "scores.csv", tables.long_csv(scores, resamples))
    for name, (picture, _) in drawn.items():
        _put(out / f"{name}.svg", picture)
    _put(out / "report.html", _page(results, made, drawn, notes, films))
    return markdown


def find_videos(results: Results) -> list[Path]:
    """Return the videos (.mp4) of the benchmark and of its finished runs that are small enough for a page.

    Raises PrefenvsError where there is none, or one is too large.
    """
    if results.folder is None:
        raise PrefenvsError("videos lie in the benchmark's folder: make the report of that, not of results.parquet")
    runs = [results.folder / "cells" / str(name) / "run" for name in results.finished["cell"].unique()]
    found = [path for folder in (results.folder, *runs) for path in sorted(folder.glob("*.mp4"))]
    if not found:
        raise PrefenvsError(
            f"{results.folder} holds no video: `prefenvs record {results.folder}/cells/CELL/run` makes one"
        )
    for path in found:
        if path.stat().st_size > LARGEST:
            size = f"{path.stat().st_size / 1e6:.1f} MB, of at most {LARGEST / 1e6:.0f}"
            raise PrefenvsError(f"{path} is too large for a page ({size}): record it anew with a smaller --size")
    return found


def _named(videos: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return videos with a caption each: the cell that shows its policy, or the file's name."""
    return [(path.parents[1].name if path.parent.name == "run" else path.stem, path) for path in videos]


def _put(path: Path, content: str | bytes) -> None:
    """Write a file that is there whole or not at all; raises PrefenvsError where the disk is full."""
    new = path.with_name(path.name + ".new")
    try:
        new.write_bytes(content.encode() if isinstance(content, str) else content)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise PrefenvsError(
            f"{path} cannot be written ({error.strerror or error}): make room, and run `prefenvs bench table` again"
        ) from None


def remarks(results: Results, scores: Scores) -> list[str]:
    """Return what a reader has to know before the figures: sizes, seeds, code, machine, and mixtures."""
    cells = scores.cells
    finished = cells[cells["status"] == "finished"]
    notes = []
    if results.suite["reduced"]:
        notes.append(f"Reduced sizes, not the published ones: {results.suite['reduced']}")
    waiting = [task for task in scores.suite_tasks if task not in scores.tasks]
    left_out = f" No run has finished on {', '.join(waiting)}, which the tables leave out." if waiting else ""
    notes.append(f"{len(finished)} of {len(cells)} runs have finished.{left_out}")
    seeds = finished["seed"].nunique()
    few = f", too few for 95% intervals, which take {FEWEST}" if seeds < FEWEST else ""
    notes.append("A single seed, which shows nothing about chance." if seeds == 1 else f"{seeds} seeds{few}.")
    notes += scores.beaten_bounds.values()
    entries = [entry for entry in scores.entries if scores.method(entry)["asks"]]
    if not any(control_of(scores, entry, task) for entry in entries for task in scores.tasks):
        notes.append("No control without knowledge was run, so nothing here shows that labels teach.")
    notes += idle_labels(scores)
    commits = " and ".join(sorted(commit or "unknown" for commit in finished["commit"].unique()))
    versions = " and ".join(sorted(finished["version"].unique()))
    dirty = ", with changes that were not committed" if "dirty" in commits else ""
    notes.append(f"prefenvs {versions}, commit {commits}{dirty}.")
    machines = {
        f"{row['processor']} ({row['processors']:.0f} processors, {row['threads']:.0f} threads for each run"
        f"{', GPU ' + row['gpu'] if row['gpu'] else ', no GPU'})"
        for _, row in finished.iterrows()
    }
    spent = duration(float(finished["wall_seconds"].sum()))
    notes.append(f"Machine: {'; '.join(sorted(machines))}. All runs together: {spent}.")
    differing = results.versions()
    if differing:
        listed = "; ".join(f"{name} {', '.join(values)}" for name, values in differing.items())
        notes.append(f"These results mix versions and should not be compared with each other: {listed}.")
    return notes


def _draw(scores: Scores) -> dict[str, tuple[bytes, str] | None]:
    """Return each figure's SVG and caption, None where there is nothing to show."""
    captions = {
        "curves_by_steps": "Learning curves by steps: each seed thinly, their mean thickly; upper bounds dashed, "
        "what was measured once dotted.",
        "curves_by_labels": "The same by labels. Dotted: the last score of methods that learn from no labels.",
        "profiles": "Performance profiles: share of runs above each normalised score; bands of 95% from "
        f"{FEWEST} runs on.",
        "raters": "Label lift by rater: a dot for each seed, a bar for the mean; 0 is a rater without knowledge, 1 the "
        "true reward.",
        "hacking": "True return (blue, left) and learned return (orange, right) of the same evaluation episodes. "
        "They have to rise together; where the learned return rises and the true one falls, the reward is hacked.",
    }
    drawn = {
        "curves_by_steps": figures.learning_curves(scores, "steps"),
        "curves_by_labels": figures.learning_curves(scores, "labels"),
        "profiles": figures.performance_profiles(scores),
        "raters": figures.lift_by_rater(scores),
        "hacking": figures.hacking_curves(scores),
    }
    return {name: None if figure is None else (figures.svg(figure), captions[name]) for name, figure in drawn.items()}


def _page(
    results: Results,
    made: Sequence[tables.Table],
    drawn: dict[str, tuple[bytes, str]],
    notes: Sequence[str],
    videos: Sequence[Path],
) -> str:
    titles = {
        "hacking": "True against learned return",
        "raters": "Label lift by rater",
        "profiles": "Performance profiles",
    }
    pictures = [
        {
            "title": titles.get(name, name.replace("_", " ").capitalize()),
            "anchor": name,
            "caption": caption,
            "picture": base64.b64encode(picture).decode(),
        }
        for name, (picture, caption) in drawn.items()
    ]
    cells = results.finished.drop_duplicates("cell")
    return render(
        "prefenvs.bench.report",
        "report.html",
        suite=results.suite,
        notes=notes,
        warnings=WARNINGS,
        tables=made,
        missing=tables.MISSING,
        figures=pictures,
        videos=[{"name": name, "film": base64.b64encode(path.read_bytes()).decode()} for name, path in _named(videos)],
        data=results.suite.get("data", {}),
        cells=cells[["cell", "command"]].to_dict("records"),
        versions=sorted(cells["versions"].unique()),
    )

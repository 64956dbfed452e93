"""One report of a benchmark: a self-contained HTML page, and its tables for papers and other programs."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prefenvs.bench import figures, tables
from prefenvs.bench.progress import duration
from prefenvs.bench.published import published_table
from prefenvs.bench.results import Results
from prefenvs.bench.scores import Scores
from prefenvs.bench.statistics import FEWEST
from prefenvs.errors import PrefenvsError

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.note { color: #555; max-width: 50rem; }
.warning { background: #fff4d6; padding: .6rem .9rem; border-left: 4px solid #e69f00; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { border-bottom: 2px solid #444; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; } .missing { color: #a33; font-style: italic; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; max-width: 50rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: 13px; } dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
details pre { font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_report(results: Results, out: Path, resamples: int = 2_000, against: Sequence[str] = ()) -> str:
    """Write report.html, tables.md, tables.tex, scores.csv and the curves as SVG; return the tables as Markdown.

    against: methods above whose true return the others' is told. Raises PrefenvsError where there is nothing to report,
    or a file cannot be written.
    """
    if not len(results.finished):
        raise PrefenvsError("no cell has finished yet, so there is nothing to report")
    scores = Scores(results)
    made = [
        tables.score_table(scores, resamples),
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
    _put(out / "tables.tex", "\n".join(table.latex() for table in made))
    _put(out / "scores.csv", tables.long_csv(scores, resamples))
    for name, (picture, _) in drawn.items():
        _put(out / f"{name}.svg", picture)
    _put(out / "report.html", _page(results, made, drawn, notes))
    return markdown


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
    notes.append(f"{len(finished)} of {len(cells)} runs have finished.")
    seeds = finished["seed"].nunique()
    few = f", too few for 95% intervals, which take {FEWEST}" if seeds < FEWEST else ""
    notes.append("A single seed, which shows nothing about chance." if seeds == 1 else f"{seeds} seeds{few}.")
    notes += scores.beaten_bounds.values()
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
        "hacking": "True return (blue, left) and learned return (orange, right) of the same evaluation episodes. "
        "They have to rise together; where the learned return rises and the true one falls, the reward is hacked.",
    }
    drawn = {
        "curves_by_steps": figures.learning_curves(scores, "steps"),
        "curves_by_labels": figures.learning_curves(scores, "labels"),
        "profiles": figures.performance_profiles(scores),
        "hacking": figures.hacking_curves(scores),
    }
    return {name: None if figure is None else (figures.svg(figure), captions[name]) for name, figure in drawn.items()}


def _page(
    results: Results, made: Sequence[tables.Table], drawn: dict[str, tuple[bytes, str]], notes: Sequence[str]
) -> str:
    suite = results.suite
    blocks = [
        f"<h1>{html.escape(suite['name'])}</h1>\n<p>{html.escape(suite['sentence'])}</p>",
        "<ul>" + "".join(f"<li{_warns(note)}>{html.escape(note)}</li>" for note in notes) + "</ul>",
        made[0].html(),
        *(_figure(name, *drawing) for name, drawing in drawn.items()),
        *(table.html() for table in made[1:]),
        _commands(results),
    ]
    body = "\n".join(blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(suite['name'])}: benchmark report</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _figure(name: str, picture: bytes, caption: str) -> str:
    encoded = base64.b64encode(picture).decode()
    title = {"hacking": "True against learned return", "profiles": "Performance profiles"}.get(name, "")
    heading = f"<h2>{title or name.replace('_', ' ').capitalize()}</h2>\n"
    return (
        f'{heading}<figure><img alt="{html.escape(caption)}" src="data:image/svg+xml;base64,{encoded}">\n'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _commands(results: Results) -> str:
    """Every command line that made a figure above, and the packages it ran with."""
    cells = results.finished.drop_duplicates("cell")
    lines = "\n".join(f"{row['cell']}\n{row['command']}\n" for _, row in cells.iterrows())
    versions = "\n".join(sorted(cells["versions"].unique()))
    return (
        f"<details><summary>Command lines of all {len(cells)} runs</summary><pre>{html.escape(lines)}</pre></details>\n"
        f"<details><summary>Packages</summary><pre>{html.escape(versions)}</pre></details>"
    )


def _warns(note: str) -> str:
    return ' class="warning"' if note.startswith(("Reduced", "These", "A single")) or "bounds nothing" in note else ""

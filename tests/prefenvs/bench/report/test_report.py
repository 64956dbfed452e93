"""The report: one page that needs nothing else, says what it is made of, and shows published figures beside ours."""

import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from prefenvs.bench.report.figures import learning_curves
from prefenvs.bench.report.page import write_report
from prefenvs.bench.report.published import published_figures, published_table
from prefenvs.bench.report.scores import Scores
from prefenvs.bench.results import Results
from prefenvs.errors import PrefenvsError

from ..synthetic import full, make_results

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a report, and what writing it returned."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(full(), folder, resamples=50)


def test_the_page_needs_nothing_but_itself(written: tuple[Path, str]) -> None:
    folder, markdown = written
    text = (folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    pictures = [source for source in page.sources if not source.startswith("#")]
    assert len(pictures) == page.tags.count("img") == 4
    places = {source for source in page.sources if source.startswith("#")}
    assert places == {f"#{name}" for name in re.findall(r'<section id="([^"]+)"', text)}
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"@import|url\(", text)
    for source in pictures:
        kind, _, data = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert "Poor <&>" not in text
    assert "Poor &lt;&amp;&gt;" in text
    assert "A processor" in text
    assert "commit abc" in text
    assert (folder / "tables.md").read_text() == markdown
    assert r"\begin{table}" in (folder / "tables.tex").read_text()
    names = {path.name for path in folder.glob("*.svg")}
    assert names == {"curves_by_steps.svg", "curves_by_labels.svg", "profiles.svg", "hacking.svg"}


def test_what_was_measured_once_is_a_level_and_does_not_stretch_the_axis() -> None:
    results = full()
    frame = results.frame
    once = (frame["method"] == "poor") & (frame["steps"] < 200.0)
    frame = frame[~once].copy()
    frame.loc[frame["method"] == "poor", "steps"] = 10_000.0
    figure = learning_curves(Scores(Results(frame, results.suite)))
    assert figure is not None
    for axes in figure.axes[:2]:
        assert axes.get_xlim()[1] < 300.0
        assert "Poor" in " ".join(str(line.get_label()) for line in axes.lines)


def test_the_same_results_give_the_same_report(written: tuple[Path, str], tmp_path: Path) -> None:
    write_report(full(), tmp_path, resamples=50)
    files = sorted(path.name for path in written[0].iterdir())
    for name in files:
        assert (written[0] / name).read_bytes() == (tmp_path / name).read_bytes()


def test_reduced_sizes_single_seeds_and_mixtures_are_said_first(tmp_path: Path) -> None:
    results = make_results({("random", "walk"): [0.0], ("upper", "walk"): [9.0]}, reduced="A tenth of the steps.")
    results.frame.loc[results.frame["method"] == "upper", "commit"] = "def-dirty"
    text = write_report(results, tmp_path, resamples=50)
    head = text.partition("###")[0]
    assert "Reduced sizes, not the published ones: A tenth of the steps." in head
    assert "A single seed, which shows nothing about chance." in head
    assert "These results mix versions" in head
    assert "changes that were not committed" in head


def test_nothing_finished_is_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(PrefenvsError, match="no cell has finished yet"):
        write_report(make_results({("good", "walk"): [None]}), tmp_path)


def test_published_figures_have_a_source_and_say_what_differs() -> None:
    assert len(published_figures()) > 50
    for figure in published_figures():
        assert figure.source
        assert figure.differs
        assert figure.checked in ("yes", "no")
        float(figure.value)


def test_published_figures_stand_beside_ours() -> None:
    results = make_results(
        {("good", "metaworld-drawer-open-v3"): [0.5, 0.7], ("poor", "metaworld-drawer-open-v3"): [None]},
        measures={"metaworld-drawer-open-v3": "success"},
        published="cpl",
    )
    results.frame["method"] = results.frame["method"].replace({"good": "cpl", "poor": "iql"})
    results.suite["methods"] = {"cpl": results.suite["methods"]["good"], "iql": results.suite["methods"]["poor"]}
    table = published_table(Scores(results))
    rows = {(row[0], row[2]): row for row in table.rows}
    assert rows[("CPL", "2,500 dense")][3] == "83.6 ± 1.6 (4 seeds)"
    assert rows[("CPL", "2,500 dense")][4] == "60.0 (2 seeds: 50.0, 70.0)"
    assert rows[("P-IQL", "2,500 dense")][4] == "missing"
    assert rows[("SFT", "2,500 dense")][4] == "not in the suite"
    assert "not checked against the paper" in rows[("CPL", "2,500 dense")][5]
    assert "Meta-World v2" in table.note


@pytest.mark.parametrize("name", ["tables.md", "scores.csv", "report.html"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(name: str, written: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / name).read_bytes()
    # Writing to this device says that no space is left.
    (tmp_path / f"{name}.new").symlink_to("/dev/full")
    with pytest.raises(PrefenvsError, match=rf"{name} cannot be written \(No space left on device\)") as error:
        write_report(full(), tmp_path, resamples=50)
    assert "\n" not in str(error.value)
    assert (tmp_path / name).read_bytes() == before
    assert not list(tmp_path.glob("*.new"))


def test_small_videos_of_the_benchmark_s_runs_come_into_the_page_on_request(tmp_path: Path) -> None:
    results = full()
    run = tmp_path / "cells" / "walk--good--0" / "run"
    run.mkdir(parents=True)
    held = Results(results.frame, results.suite, tmp_path)
    with pytest.raises(PrefenvsError, match="holds no video: `prefenvs record"):
        write_report(held, tmp_path / "report", resamples=20, videos=True)
    (run / "policy.mp4").write_bytes(b"a film")
    write_report(held, tmp_path / "report", resamples=20, videos=True)
    text = (tmp_path / "report" / "report.html").read_text()
    assert f'src="data:video/mp4;base64,{base64.b64encode(b"a film").decode()}"' in text
    assert "<figcaption>walk--good--0</figcaption>" in text
    (run / "policy.mp4").write_bytes(bytes(3_000_000))
    with pytest.raises(PrefenvsError, match=r"too large for a page \(3.0 MB, of at most 2\)"):
        write_report(held, tmp_path / "report", resamples=20, videos=True)
    with pytest.raises(PrefenvsError, match="videos lie in the benchmark's folder"):
        write_report(results, tmp_path / "report", resamples=20, videos=True)

"""Figures in prose come from committed results: every block is what they say, and what cannot be filled is refused."""

import re
from pathlib import Path

import pytest

from prefenvs.bench.report.quote import BLOCK, fill_blocks
from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.internal.csv_tables import write_table

from ..synthetic import METHODS, full, make_results

ROOT = Path(__file__).resolve().parents[4]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def block(words: str, old: str = "") -> str:
    return f"Before.\n\n<!-- results: {words} -->\n{old}<!-- end of results -->\n\nAfter.\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "known").mkdir()
    full().write(tmp_path / "known" / "results.parquet")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- results:" in page.read_text()], ids=lambda p: p.name)
def test_figures_in_the_docs_are_those_of_committed_results(page: Path) -> None:
    text = page.read_text()
    assert fill_blocks(text, ROOT / "docs" / "results") == text, f"prefenvs bench quote {page.relative_to(ROOT)}"


def test_every_measured_table_is_quoted() -> None:
    quoted = set(re.findall(r"<!-- results: (measured/\S+)", "".join(page.read_text() for page in PAGES)))
    folder = ROOT / "docs" / "results"
    known = {path.relative_to(folder).as_posix() for path in (folder / "measured").rglob("*.*")}
    assert known - {"measured/prose.csv"} == quoted


def test_a_block_is_filled_and_its_neighbours_stay(results: Path) -> None:
    frame = full().frame
    last = frame[(frame["method"] == "good") & (frame["task"] == "walk") & (frame["steps"] == 200)]["mean_return"]
    code = "```markdown\n<!-- results: known seeds -->\n```\n"
    text = fill_blocks(block('known each "good=Ours" on=walk', "| old | 1 |\n") + code, results)
    each = ", ".join(f"{value:.0f}" for value in last)
    assert f"| Ours | {each} |" in text
    assert "old" not in text
    assert text.startswith("Before.")
    assert text.endswith(f"After.\n{code}")
    assert fill_blocks(text, results) == text


def test_views_tell_seeds_means_and_differences(results: Path) -> None:
    seeds = fill_blocks(block("known seeds upper on=walk"), results)
    assert "| Upper bound | – | 900 | 1,000 | 1,100 | 1,000 | **1,000** |" in seeds
    assert "| Upper bound | 1,000 [900, 1,100] |" in fill_blocks(block("known scores upper on=walk"), results)
    assert "| Upper bound | – | 905 | 1,005 | 1,105 | 1,005 | **1,005** |" in fill_blocks(
        block("known seeds upper on=walk at=100"), results
    )
    above = fill_blocks(block("known above random upper on=walk"), results)
    assert "| Upper bound | 900 [" in above
    assert "random" not in above.partition("-->")[2]


@pytest.mark.parametrize(
    ("labels", "top", "told"), [(900.0, 900.0, "0.75 (0.50, 1.00)"), (400.0, 50.0, "0.93 (0.50, -)")]
)
def test_lift_is_told_in_a_sentence(tmp_path: Path, labels: float, top: float, told: str) -> None:
    runs = {("good", "walk"): [600.0, labels], ("coin", "walk"): [200.0, 100.0], ("upper", "walk"): [1_000.0, top]}
    held = make_results(runs, {"walk": "mean_return"})
    held.suite["methods"]["good"] = METHODS["good"] | {"controls": ("coin",), "bound": "upper"}
    (tmp_path / "lift").mkdir()
    held.write(tmp_path / "lift" / "results.parquet")
    text = fill_blocks(block("lift lift good=Labels"), tmp_path)
    assert f"Labels on walk: above the control on 2 of 2 seeds; label lift at the end {told}" in text


def test_files_are_shown_whole_or_by_columns_and_rows(tmp_path: Path) -> None:
    write_table(
        tmp_path / "a.csv", ("part", "by", "ms", "ms"), [("fit, all", "us", "1.5", "2"), ("act", "them", "3", "-")]
    )
    (tmp_path / "b.md").write_text("# B\n\n| | ms |\n|---|---|\n| fit | **1.5** |\n| | 3 |\n\n| other |\n")
    (tmp_path / "c.csv").write_text("a,b\n1,2\n3\n")
    whole = (
        "| part | by | ms | ms |\n| --- | --- | ---: | ---: |\n| fit, all | us | 1.5 | 2 |\n| act | them | 3 | - |\n"
    )
    assert whole in fill_blocks(block("a.csv table"), tmp_path)
    chosen = fill_blocks(block('a.csv table "ms=time, ms" part on=them'), tmp_path)
    assert "-->\n\n| time, ms | part |\n| --- | --- |\n| 3 | act |\n\n<!--" in chosen
    assert "-->\n\n|  | ms |\n| --- | ---: |\n| fit | **1.5** |\n|  | 3 |\n\n<!--" in fill_blocks(
        block("b.md table"), tmp_path
    )
    for words, message in {
        "a.csv table s": "a.csv has no s: its columns are part, by, ms, ms",
        "a.csv table on=we": "a.csv has no we",
        "b.md seeds": "a .md file, and table",
        "c.csv table": "c.csv has a row of 1 cells, not 2: ",
        'a.csv table "ms=time': "cannot be told apart",
    }.items():
        with pytest.raises(PrefenvsError, match=message):
            fill_blocks(block(words), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("known every upper", "name a folder with a results.parquet below"),
        ("nowhere seeds", "name a folder with a results.parquet below"),
        ("known each uper", "uper names 0 rows of synthetic: there are good@oracle"),
        ("known each upper on=run", "synthetic has no task run: walk, push"),
        ("known seeds upper", "seeds are of one task"),
        ("known seeds upper on=walk at=half", "at=half"),
    ],
)
def test_a_block_that_cannot_be_filled_is_one_line(words: str, message: str, results: Path) -> None:
    with pytest.raises(PrefenvsError, match=message):
        fill_blocks(block(words), results)


def test_the_command_fills_files_and_tells_old_ones(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = results / "page.md"
    page.write_text(block("known scores good on=walk"))
    with pytest.raises(SystemExit):
        main(["bench", "quote", str(page), "--results", str(results), "--check"])
    assert "not what the results say" in capsys.readouterr().err
    main(["bench", "quote", str(page), "--results", str(results)])
    main(["bench", "quote", str(page), "--results", str(results), "--check"])
    page.write_text("<!-- results: known scores -->\n")
    with pytest.raises(SystemExit):
        main(["bench", "quote", str(page), "--results", str(results)])
    assert "page.md: a block of results is not closed" in capsys.readouterr().err
    page.write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit):
        main(["bench", "quote", str(page), "--results", str(results)])
    assert "page.md is no Markdown in UTF-8" in capsys.readouterr().err


ROW = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "tables.md"], ids=lambda p: p.name)
def test_a_table_of_figures_is_filled_from_results_or_says_what_measured_it(page: Path) -> None:
    """A table is one of figures if a quarter of its cells are; `<!-- settings -->` marks those that nobody measured."""
    text = BLOCK.sub("", page.read_text())
    for found in ROW.finditer(text):
        cells = [cell.strip() for row in found[0].splitlines()[2:] for cell in row.strip("| ").split("|")]
        if sum(bool(re.match(r"[~*+-]*\d", cell)) for cell in cells) < max(len(cells) / 4, 1):
            continue
        above = text[: found.start()].rstrip().rpartition("\n")[2]
        mark = re.fullmatch(r"<!-- (?:settings|measured by: (?P<by>.+)) -->", above)
        assert mark, f"{page}: {found[0].partition(chr(10))[0]} holds figures that no committed result backs"
        by = mark["by"] or ""
        assert not by or by.startswith("prefenvs ") or (ROOT / by).is_file(), f"{page}: there is no {by}"

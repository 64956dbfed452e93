"""The page's texts: every language has them all, and nothing that people read stands anywhere else."""

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from prefenvs.agreement import COLUMNS
from prefenvs.oracles.labelling.pages import LANGUAGES, choose_language

LABELLING = Path(str(files("prefenvs.oracles.labelling")))
TEXTS = {name: json.loads((LABELLING / f"pages/texts/{name}.json").read_text()) for name in LANGUAGES}
SCRIPTS = sorted((LABELLING / "static").rglob("*.js"))


def flat(language: str) -> dict[tuple[str, str], dict[str, str]]:
    """Texts by page and name, each by its plural form."""
    pages = TEXTS[language].items()
    return {
        (page, name): text if isinstance(text, dict) else {"other": text}
        for page, texts in pages
        for name, text in texts.items()
    }


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_language_says_everything_with_the_same_values(language):
    known, other = flat(LANGUAGES[0]), flat(language)
    assert known.keys() == other.keys()
    for name, text in known.items():
        assert text.keys() == other[name].keys(), name
        for form in text:
            assert other[name][form].strip(), name
            assert set(re.findall(r"{\w+}", text[form])) == set(re.findall(r"{\w+}", other[name][form])), name
    # Numbers, signs and words that the languages share aside, nothing was left untranslated.
    same = [name for name in known if known[name] == other[name] and len(known[name]["other"].split()) > 2]
    assert same == []


def test_every_text_is_used_and_every_used_one_exists():
    pages = {path.stem: path.read_text() for path in (LABELLING / "pages").glob("*.html")}
    code = "\n".join(path.read_text() for path in [*SCRIPTS, *LABELLING.glob("*.py"), *LABELLING.glob("pages/*.py")])
    names = {name for texts in TEXTS["en"].values() for name in texts}
    said = set(re.findall(r'say\("(\w+)"', code)) | set(re.findall(r"texts\.(\w+) }}", "".join(pages.values())))
    assert said - names == set()
    # Names that are put together, such as key_left.
    begun = (*re.findall(r"say\(`(\w+_)\$", code), "sign_", "status_", "40", "42", "50")
    everywhere = code + "".join(pages.values())
    unused = {n for n in names if not n.startswith(begun) and not re.search(rf'["\.]{n}\b', everywhere)}
    of_columns = {name.replace(" ", "_") for name in COLUMNS}
    assert {name for name in unused if name.removesuffix("_means") not in of_columns} == set()


def test_nothing_that_people_read_is_written_elsewhere():
    for path in (LABELLING / "pages").glob("*.html"):
        text = re.sub(
            r"<script.*?</script>|<kbd.*?</kbd>|<[^>]*>|{{.*?}}|{%.*?%}", " ", path.read_text(), flags=re.DOTALL
        )
        assert re.findall(r"[A-Za-z]{2,}", text.replace("prefenvs", "")) == [], path.name
        spoken = re.findall(r'(?:aria-label|title|placeholder)="([^"]*)"', path.read_text())
        assert [words for words in spoken if not words.startswith("{{")] == [], path.name
    for path in SCRIPTS:
        code = re.sub(r"//.*", "", path.read_text())
        sentences = re.findall(r"[\"`]((?:[A-Z][a-z]+|[a-z]{2,}) [a-z]{2,} [a-z]+[^\"`]*)[\"`]", code)
        assert [text for text in sentences if not re.match(r"main |aria|clips? ", text)] == [], path.name
    assert not re.search(r'content: "\w', (LABELLING / "static/label.css").read_text())


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("fr", "fr"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("ja,fr;q=0.3,de;q=0.7", "de"),
        ("ja, *;q=0.5", "en"),
        ("fr;q=0, de;q=0.1", "de"),
        ("fr;q=nonsense,de;q=0.1", "de"),
        (";;;,,=", "en"),
    ],
)
def test_the_browser_chooses_the_language(accepted, language):
    assert choose_language(accepted) == language

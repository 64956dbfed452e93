"""What MkDocs does not do by itself: the menu by folders, files of the repository as pages, the command line's help."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any, get_args
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(
    r"^ *(?P<fence>`{3,}).*?^ *(?P=fence)$|(?P<begin>\]\()(?![a-z]+:|#)(?P<path>[^)\s#]+)(?P<end>(?:#[^)\s]*)?\))",
    re.DOTALL | re.MULTILINE,
)
"""A relative link, or a block of code, in which nothing is a link."""
PAGES = {"CONTRIBUTING.md": "contributing.md", "README.md": "index.md", "examples/README.md": "examples.md"}
"""Files outside docs/ that are pages, and their places; others that a page links to are shown as they are."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and spell out the folders of the menu."""
    files.append(File.generated(config, "reference/command-line.md", content=describe_commands()))
    waiting = [("docs/" + page.src_uri, page.content_string) for page in files.documentation_pages()]
    waiting += [("CONTRIBUTING.md", ""), ("examples/README.md", "")]
    for source, text in waiting:  # grows on the way
        place = place_of(source)
        if not is_page(source) and place not in files.src_uris:
            files.append(File.generated(config, place, content=page_of(source)))
            text = (ROOT / source).read_text() if source.endswith(".md") else ""
        known = {name for name, _ in waiting}
        outside = {name for name in links(text, source) if not is_page(name)}
        waiting += [(name, "") for name in outside - known]
    config.nav = spell_out(config.nav, [page.src_uri for page in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside docs/ lead to their pages."""
    return lead_links(markdown, "docs/" + page.file.src_uri) if page.file.abs_src_path else markdown


def links(text: str, source: str) -> list[str]:
    """Return the files, from the repository's root on, that a page's relative links name."""
    return [normpath(join(dirname(source), match["path"])) for match in LINK.finditer(text) if match["path"]]


def is_page(path: str) -> bool:
    """Tell whether MkDocs itself knows a file: then it looks whether it is there."""
    return path.startswith("docs/") and not path.endswith(".py")


def place_of(path: str) -> str:
    """Return where a file or folder of the repository is in the site."""
    if is_page(path):
        return path[5:]
    if not (ROOT / path).exists():
        raise PluginError(f"a page links to {path}, which is not there")
    return PAGES.get(path, f"code/{path}" + ".md" * (path[-3:] != ".md"))


def page_of(path: str) -> str:
    """Return a file outside docs/ as a page: Markdown as it is, code as a block, of a folder all files."""
    if path.endswith(".md"):
        return lead_links((ROOT / path).read_text(), path)
    inside = sorted((ROOT / path).glob("*.*")) if (ROOT / path).is_dir() else [ROOT / path]
    parts = [f"## {file.name}\n\n``````{file.suffix[1:]}\n{file.read_text()}``````\n" for file in inside]
    return "\n".join([f"# {path}\n", *parts])


def lead_links(text: str, source: str) -> str:
    """Return a page's text with links between places in the site."""
    here = dirname(place_of(source)) or "."

    def lead(match: re.Match[str]) -> str:
        if match["fence"]:
            return match[0]
        target = normpath(join(dirname(source), match["path"]))
        return f"{match['begin']}{relpath(place_of(target), here)}{match['end']}"

    return LINK.sub(lead, text)


def spell_out(menu: Any, pages: list[str]) -> Any:
    """Return the menu with the pages of a folder, but those named elsewhere in it, in the place of `folder/*`."""
    named = set(re.findall(r"[\w/.-]+\.md", repr(menu)))

    def walk(entry: Any) -> list[Any]:
        if isinstance(entry, dict):
            filled = {title: inner if isinstance(inner, str) else each(inner) for title, inner in entry.items()}
            return [{title: inner} for title, inner in filled.items() if inner]
        if not entry.endswith("/*"):
            return [entry]
        inside = [page for page in pages if page.startswith(entry[:-1]) and page not in named]
        return sorted(inside, key=lambda page: (not page.endswith("/index.md"), page))

    def each(entries: list[Any]) -> list[Any]:
        return [found for entry in entries for found in walk(entry)]

    return each(menu)


def describe_commands() -> str:
    """Return a page with the help of every command, as the command line prints it."""
    from prefenvs.agents.registry import ALGORITHMS
    from prefenvs.cli import Command

    names = [name for name in command_names(Command) if name != "train"]
    lines = ["# Command line", "", "What `--help` prints; `train` comes first, an algorithm at a time.", ""]
    for command in (*(f"train {name}" for name in ALGORITHMS), *names, "label render"):
        lines += [f"## prefenvs {command}", "", "```text", help_of(command.split()), "```", ""]
    return "\n".join(lines)


def command_names(union: Any) -> Iterator[str]:
    """Yield the words of every command of a union of `Annotated[command or union, subcommand(name)]`."""
    for member in get_args(union):
        command, named = get_args(member)
        inner = [f"{named.name} {name}" for name in command_names(command)]
        yield from inner or [named.name]


def help_of(words: list[str]) -> str:
    """Return the help of one command, without colours and 100 columns wide."""
    from prefenvs.cli import main

    printed, plain = io.StringIO(), {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with patch.dict(os.environ, plain), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue()).rstrip()

"""What is read as a verdict, and what is not."""

from __future__ import annotations

import time

import pytest

from prefenvs.oracles.vlm.verdicts import WRONG_FORM, read_structured, read_verdict

WRONG = None, WRONG_FORM


@pytest.mark.parametrize(
    "text",
    [
        "FIRST",
        "first.",
        "**First**",
        "Verdict: FIRST",
        "The first one.",
        "<think>second?</think>\nFirst",
        "SECOND? No.</think>\n\nFIRST",
        "<THINKING>SECOND</THINKING>FIRST",
        "<think>a</think>SECOND<think>b</think>FIRST",
        "```\nFIRST\n```",
        "```text\nFIRST\n```",
        "~~~\nFIRST\n~~~",
        "`FIRST`",
        "``` FIRST ```",
        "Here is my answer:\n```\nFIRST\n```",
        '{"verdict": "FIRST"}',
        "FIRST\n\nIt is closer to the goal than the second.",
    ],
)
def test_words_are_read(text) -> None:
    assert read_verdict(text, "stop") == (1.0, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "```\n```",
        "FIRST or SECOND",
        "not FIRST",
        "<think>FIRST",
        "I would rather not say which is first",
        "[" * 10**5,
    ],
    ids=lambda text: text[:20],
)
def test_words_that_are_no_verdict(text) -> None:
    assert read_verdict(text, "stop") == WRONG


JSON = '{"analysis": "the {first} is up", "verdict": "SECOND", "probability": 0.2}'


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "```json\n{}\n```",
        "```JSON\n{}\n```",
        "``` Json {} ```",
        "~~~\n{}\n~~~",
        "Here is my answer:\n```json\n{}\n```\nI hope that helps.",
        "Sure! {} Anything else?",
        "Let me see {{both}}: {}",
        "so it is the first</think>\n{}",
        '<think>{{"verdict": "first"}}</think>{}',
        "{} {}",
        '{{"note": 1}} {}',
    ],
)
@pytest.mark.parametrize("soft", [False, True])
def test_objects_are_read(form, soft) -> None:
    text = form.replace("{}", JSON).replace("{{", "{").replace("}}", "}")
    assert read_structured(text, "stop", soft) == (0.2 if soft else 0.0, "")


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict": "first"} {"verdict": "second"}',
        '{"verdict": "first or second"}',
        '{"verdict": null}',
        '{"verdict": ["first"]}',
        '{"verdict": "first"',
        "first",
        '{"verdict": "first", "n": ' + "9" * 5_000 + "}",
        "[" * 10**5,
        '{"a":' * 10**5,
        "{" * 10**6,
    ],
    ids=lambda text: text[:30],
)
def test_objects_that_are_no_verdict(text) -> None:
    begun = time.monotonic()
    assert read_structured(text, "stop", soft=False) == WRONG
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("probability", ["0.2", "null", "true", "-0.1", "1.5", "NaN", "1e999", "0.9"])
def test_probabilities_that_are_none_or_do_not_fit_the_verdict(probability) -> None:
    assert read_structured(f'{{"verdict": "second", "probability": {probability}}}', "stop", soft=True) == (
        (0.2, "") if probability == "0.2" else WRONG
    )

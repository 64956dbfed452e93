"""The flags of raters: those of the rater that a command line names, with its docs, and what a resumed run keeps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from prefenvs import PrefenvsError
from prefenvs.cli import main
from prefenvs.cli.raters import check_flags, make_rater, rater_on, rater_options
from prefenvs.oracles import HybridOracle, PartialReturnOracle, list_raters
from prefenvs.store import Store


def names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_a_rater_s_options_are_fields_named_as_flags() -> None:
    assert {"vlm_url", "vlm_frames", "store", "wait"} < names(rater_options("vlm"))
    assert "store" not in names(rater_options("vlm", own=("store",)))
    assert {"expert", "regret_form", "teacher_beta"} < names(rater_options("regret-noisy"))
    assert names(rater_options("coin")) == set()
    both = names(rater_options("hybrid", cheap="mistake", costly="human"))
    assert {"cheap", "costly_share", "teacher", "store"} < both
    assert "vlm_url" not in both
    assert "vlm_url" in names(rater_options("hybrid"))


def test_every_rater_makes_its_options_and_no_two_mean_different_things_by_a_flag() -> None:
    kinds: dict[str, object] = {}
    for rater in list_raters().values():
        for field in dataclasses.fields(rater_options(rater.name)):
            assert kinds.setdefault(field.name, field.default) == field.default, field.name


def test_flags_reach_both_raters_of_a_hybrid() -> None:
    kind = rater_options("hybrid", cheap="mistake", costly="noisy")
    flags = kind(cheap="mistake", costly="noisy", route="random", costly_share=0.5, teacher_gamma=0.9)
    oracle = make_rater("hybrid", flags, "Pendulum-v1", 0)
    assert isinstance(oracle, HybridOracle)
    assert oracle.config.share == 0.5
    for part, mistake in ((oracle.cheap, 0.1), (oracle.costly, 0.0)):
        assert isinstance(part, PartialReturnOracle)
        assert (part.teacher.gamma, part.teacher.mistake) == (0.9, mistake)


def test_a_resumed_run_keeps_its_rater(tmp_path: Path) -> None:
    saved = dataclasses.asdict(rater_options("clip")(clip_model="m", clip_goal=("a", "b")))
    (tmp_path / "run.json").write_text(json.dumps({"config": {"oracle": "clip", "rater": saved}}))
    assert rater_on({"resume": str(tmp_path)}) == ("clip", {})
    parts = {"cheap": "mistake", "costly": "coin"}
    (tmp_path / "run.json").write_text(json.dumps({"config": {"oracle": "hybrid", "rater": parts}}))
    assert rater_on({"resume": str(tmp_path)}) == ("hybrid", parts)


def test_a_flag_of_another_rater_is_refused() -> None:
    check_flags({"oracle": "vlm", "vlm-url": "x", "store": "y", "task": "t"})
    with pytest.raises(
        PrefenvsError, match="--store goes with --oracle human or ratings or rankings or vlm, not with --oracle coin"
    ):
        check_flags({"oracle": "coin", "store": "y"})
    with pytest.raises(PrefenvsError, match="--no-wait goes with"):
        check_flags({"no-wait": None})
    with pytest.raises(PrefenvsError, match="--expert goes with --oracle regret, not with --true-reward"):
        check_flags({"oracle": "regret", "expert": "x"}, rater="--true-reward")


@pytest.mark.parametrize("name", ["ratings", "rankings"])
def test_what_only_comparisons_take_is_refused(name: str, tmp_path: Path) -> None:
    with Store(tmp_path / "labels.sqlite") as store:
        for options in ("trust=gold", "calibrate=true"):
            flag = options.split("=")[0]
            with pytest.raises(PrefenvsError, match=f"--{flag}.* goes with --oracle human, not with --oracle {name}"):
                make_rater(f"{name}:{options}", store=store)
        assert make_rater(name, store=store).pending == 0


def test_help_shows_the_options_of_the_rater_named(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for oracle in ("coin", "clip", "human"):
        with pytest.raises(SystemExit):
            main(["train", "pebble", "--oracle", oracle, "--help"])
        shown[oracle] = capsys.readouterr().out
    assert "--clip-model" in shown["clip"]
    assert "Descriptions of the goal" in shown["clip"]
    assert "--clip-model" not in shown["coin"] + shown["human"]
    assert "--wait" in shown["human"]
    assert "--wait" not in shown["coin"]


@pytest.mark.parametrize(
    ("oracle", "told"),
    [("human", "prefenvs label --store"), ("mistak", "Did you mean mistake"), ("regret", "needs an expert")],
)
def test_rate_refuses_what_it_cannot_ask(oracle: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["rate", "--oracle", oracle, "--check", "4", "--task", "Pendulum-v1", "--segment-length", "3"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line

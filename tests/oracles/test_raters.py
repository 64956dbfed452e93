"""The contract of every rater, made by its line, and the one grammar that all commands read."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.oracles import FunctionOracle, HybridOracle, PartialReturnOracle, RaterContext, RegretOracle, make_rater
from prefenvs.oracles.contract import check_oracle
from prefenvs.oracles.make import read_options
from prefenvs.preferences import Oracle, Preference, Query, make_pairs
from prefenvs.raters import as_oracle, batched
from prefenvs.segments import Segment
from prefenvs.store import Store
from prefenvs.trajectories import TrajectoryBuffer

sys.path.insert(0, str(Path(__file__).parent / "vlm"))

from server import ScriptedServer, judge_by

TASK = "Pendulum-v1"
OWN = '''
import numpy as np
from prefenvs import Preference
from prefenvs.oracles import batched

def rate(*segments):
    """Prefer the least torque, and skip what is too close to tell."""
    effort = [float(np.abs(segment.actions).sum()) for segment in segments]
    return None if max(effort) - min(effort) < 0.5 else int(np.argmin(effort))

@batched
def rate_many(first, second):
    return 1 / (1 + np.exp(np.abs(second.actions).sum((1, 2)) - np.abs(first.actions).sum((1, 2))))

class Asker:
    def __init__(self):
        self.answers = []
    def ask(self, queries):
        self.answers += [Preference(query, None if query.id[0] == "0" else [1.0, 0.0]) for query in queries]
    def collect(self):
        answers, self.answers = self.answers, []
        return answers

class Broken:
    def __init__(self):
        raise RuntimeError("no licence")

number = 3
'''


class Bright:
    """A CLIP that knows one thing, how bright a picture is."""

    name, size = "bright", 16

    def embed_images(self, frames: np.ndarray) -> torch.Tensor:
        light = torch.from_numpy(frames.mean((1, 2, 3)) / 255)
        return torch.stack([light, (1 - light.square()).sqrt()], 1).float()

    def embed_texts(self, texts: Any) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]] * len(texts))


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    """Eight pairs of 4 steps of a random pendulum."""
    env, buffer, rng = prefenvs.make(TASK), TrajectoryBuffer(TASK), np.random.default_rng(0)
    for seed in range(2):
        observation, info = env.reset(seed=seed)
        done = False
        while not done:
            action, state = rng.uniform(-2, 2, 1).astype(np.float32), info["state"]
            following, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            buffer.add_step(0, observation, action, info["true_reward"], state, done=done, terminated=terminated)
            observation = following
    return make_pairs(buffer.trajectories().sample(16, 4, rng))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, in the present folder."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


def answer_all(oracle: Oracle) -> None:
    """People answer what a store holds."""
    for part in (oracle.cheap, oracle.costly) if isinstance(oracle, HybridOracle) else (oracle,):
        store = getattr(part, "store", None)
        for query in store.pending_queries(run=part.run) if store is not None and part.name == "human" else ():
            chances = None if query.id[0] in "01" else np.eye(len(query.segments))[0]
            store.add_preferences([Preference(query, chances, "ann", "human")], run=part.run)


SPECS = [
    "oracle", "mistake", "noisy", "myopic", "skip:threshold_scale=quantile", "equal:threshold_scale=quantile",
    "crowd-mujoco", "noisy:beta=0.1,soft=true", "regret-noisy:expert=x", "coin",
    "heron:factor=-effort,factor=obs(0),margin=0.1", "hindsight:rater=[mistake:mistake=0.3],steps=2,policy=random",
    "OWN:rate", "OWN:rate_many", "OWN:Asker",
    "hybrid:cheap=mistake,costly=oracle,route=random", "hybrid:cheap=OWN:rate,costly=coin,route=learned",
    "hybrid:cheap=coin,costly=human,route=uncertainty", "human", "clip:model=bright,goal=a pole",
    "vlm:model=m,url=URL,frames=1,size=32", "hybrid:cheap=[vlm:model=m,url=URL,size=32],costly=coin,route=random",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_every_rater_keeps_the_contract(
    spec: str, queries: list[Query], own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefenvs.oracles.clip.reward.load_clip", lambda *_: Bright())
    server = ScriptedServer(judge_by(lambda key: int(key[:8], 16)))
    runs, made = itertools.count(), []
    with Store(tmp_path / "labels.sqlite") as store:

        def fresh() -> Oracle:
            values = lambda task, expert: lambda observations, actions: -np.abs(actions[..., 0])  # noqa: E731
            context = RaterContext(TASK, 3, store if "human" in spec else None, f"run {next(runs)}", values)
            made.append(make_rater(spec.replace("OWN", own).replace("URL", server.url), context))
            return made[-1]

        try:
            check_oracle(fresh, queries, answer_all, patience=300.0)  # drawing counts as asking
        finally:
            for oracle in made:
                getattr(oracle, "close", lambda: None)()
            server.close()


def test_a_line_and_its_flags_say_the_same() -> None:
    rater, options = read_options("regret-noisy:form=visited", {"expert": Path("run"), "teacher_beta": 3.0})
    assert (rater.name, options.teacher, options.form, options.expert, options.beta) == (
        "regret", "noisy", "visited", Path("run"), 3.0,
    )  # fmt: skip
    assert read_options("regret:run:mistake")[1] == read_options("regret-mistake:expert=run")[1]
    assert read_options("oracle:mistake")[1] == read_options("mistake")[1]
    hybrid = read_options("hybrid:cheap=mistake,costly=[regret:form=visited,expert=x],limit=none")[1]
    assert (hybrid.costly, hybrid.limit) == ("regret:form=visited,expert=x", None)
    assert read_options("clip:goal=a man, standing,goal=b,hide_robot=yes")[1].goal == ("a man, standing", "b")
    assert read_options("vlm:model=llava:13b")[1].model == "llava:13b"
    assert read_options("vlm", {"vlm_temperature": None})[1].temperature is None
    mistaken = make_rater("mistake:mistake=0.3", RaterContext(seed=0))
    assert isinstance(mistaken, PartialReturnOracle)
    assert mistaken.teacher.mistake == 0.3
    assert isinstance(make_rater("regret-noisy", RaterContext("Delivery-v0")), RegretOracle)


@pytest.mark.parametrize(
    ("spec", "flags", "message"),
    [
        ("mistak", {}, r"unknown rater 'mistak'.*Did you mean mistake"),
        ("regret-nosy", {}, "unknown rater.*Did you mean noisy"),
        ("", {}, "unknown rater ''"),
        ("mistake:chance=0.1", {}, "no option 'chance'"),
        ("vlm:frame=3", {}, "no option 'frame'.*Did you mean frames"),
        ("vlm:frames=0", {}, "frames must be at least 1"),
        ("vlm:frames=many", {}, "frames must be a whole number, got 'many'"),
        ("vlm:view=strp", {}, "must be last or strip.*Did you mean strip"),
        ("vlm:wait=perhaps", {}, "true or false"),
        ("hybrid:share=nan", {}, "share must be a number"),
        ("hybrid:cheap=coin,costly=coin", {}, "both 'coin'"),
        ("noisy:teacher=skip", {}, "teacher is given twice"),
        ("regret:form=visited", {"regret_form": "deterministic"}, "form is given twice.*--regret-form"),
        ("coin:seed=1", {}, "coin has no option 'seed'"),
        ("oracle:a:b", {}, "write oracle:key=value"),
    ],
)
def test_a_line_that_cannot_be_right_is_refused(spec: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(PrefenvsError, match=message) as caught:
        read_options(spec, flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("human", "needs the store that people label: --store"),
        ("regret", "needs an expert of Pendulum-v1"),
        ("regret:expert=run", "load_values"),
        ("mistake:mistake=3", "mistake must be at most 1, got 3"),
        ("hybrid:cheap=hybrid,costly=coin", "which 'hybrid' is not"),
        ("vlm", "needs the model's name"),
        ("clip", "say which CLIP model"),
        ("nowhere:rate", "the module 'nowhere' cannot be imported"),
        ("OWN:rat", "holds no 'rat'.*Did you mean rate"),
        ("OWN:number", "got 3"),
        ("OWN:Broken", "RuntimeError: no licence"),
    ],
)
def test_what_a_rater_lacks_is_told(spec: str, message: str, own: str) -> None:
    with pytest.raises(PrefenvsError, match=message) as caught:
        make_rater(spec.replace("OWN", own), RaterContext(TASK))
    assert "\n" not in str(caught.value)


def test_an_installed_package_adds_a_rater(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import dataclass

    from prefenvs.oracles import Rater, list_raters

    @dataclass(frozen=True)
    class Options:
        words: tuple[str, ...]
        chance: float = 0.5

    def make(options: Options, context: RaterContext) -> Oracle:
        return FunctionOracle(lambda first, second: options.chance, "theirs")

    theirs = Rater("theirs", "a toy", make, Options)
    monkeypatch.setattr("prefenvs.oracles.make.entry_points", lambda group, kind: iter([theirs]))
    oracle = make_rater("theirs:chance=0.25,words=a,words=b")
    assert oracle.name == "theirs"
    assert theirs.flags == {"words": "theirs-words", "chance": "theirs-chance"}
    assert read_options("theirs", {"theirs_words": ("a",)})[1] == Options(("a",))
    with pytest.raises(PrefenvsError, match=r"theirs needs words: theirs:words=\.\.\., or --theirs-words"):
        make_rater("theirs", RaterContext(flags={"theirs_words": None}))
    assert "theirs" in list_raters()
    taken = Rater("coin", "a toy", make)
    monkeypatch.setattr("prefenvs.oracles.make.entry_points", lambda group, kind: iter([taken]))
    with pytest.raises(PrefenvsError, match="two packages have a rater 'coin'"):
        list_raters()


def pair(mark: float, count: int = 2, length: int = 3) -> Query:
    rows = [np.full((length, 2), mark + k, np.float32) for k in range(count)]
    return Query(tuple(Segment(row, row[:, :1], task="T", source="run", episode=7, start=4) for row in rows))


def ask(function: Callable[..., Any], *queries: Query) -> list[Any]:
    oracle = as_oracle(function)
    oracle.ask(list(queries))
    return [None if answer.skipped else answer.probabilities.tolist() for answer in oracle.collect()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, [1, 0]), (1, [0, 1]), (0.5, [0.5, 0.5]), (0.25, [0.75, 0.25]), (None, None), (np.int64(1), [0, 1]),
        (np.float32(1.0), [0, 1]), (True, [0, 1]), (np.False_, [1, 0]),
        ([0.25, 0.75], [0.25, 0.75]), (torch.tensor([1.0, 0.0]), [1, 0]),
    ],
)  # fmt: skip
def test_what_a_function_may_return(value: Any, expected: Any) -> None:
    assert ask(lambda first, second: value, pair(0)) == [expected]


@pytest.mark.parametrize(
    "value",
    [float("nan"), 2, -1, 1.5, "left", [True, False], [0.5], [0.6, 0.6], [-1, 2], [float("nan"), 1], {}, object()],
)
def test_nonsense_is_refused_in_one_line_that_names_it(value: Any) -> None:
    with pytest.raises(
        PrefenvsError, match=r"returned .* for query [0-9a-f]+ of T \(run episode 7 steps 4 to 7"
    ) as told:
        ask(lambda first, second: value, pair(0))
    assert "\n" not in str(told.value)
    assert repr(value)[:20] in str(told.value)


def test_a_function_of_three_returns_an_index_or_a_distribution() -> None:
    assert ask(lambda *segments: 2, pair(0, 3)) == [[0, 0, 1]]
    assert ask(lambda *segments: [0.5, 0.5, 0.0], pair(0, 3)) == [[0.5, 0.5, 0]]
    with pytest.raises(PrefenvsError, match="the index of the best of 3"):
        ask(lambda *segments: 0.5, pair(0, 3))
    with pytest.raises(PrefenvsError, match="returned True"):
        ask(lambda *segments: True, pair(0, 3))
    with pytest.raises(PrefenvsError, match="does not take 3 segments"):
        ask(lambda first, second: 0, pair(0, 3))


def test_an_exception_names_the_query_and_loses_no_earlier_answer() -> None:
    calls = []

    def rate(first: Segment, second: Segment) -> int:
        calls.append(first)
        if first.observations[0, 0] == 1:
            raise KeyError("no such\nkey")
        return 0

    oracle = as_oracle(rate)
    oracle.ask([pair(mark) for mark in range(3)])
    assert len(oracle.collect()) == 1
    assert oracle.pending == 2
    with pytest.raises(
        PrefenvsError, match=r"rate failed on query .*episode 7.*KeyError.*; test_raters.py, line \d+"
    ) as told:
        oracle.collect()
    assert isinstance(told.value.__cause__, KeyError)
    assert "\n" not in str(told.value)


def test_a_batched_function_sees_all_queries_of_one_length_at_once() -> None:
    sizes = []

    @batched
    def rate(first: Any, second: Any) -> list[Any]:
        sizes.append(first.observations.shape)
        assert second.episodes.tolist() == [7] * len(second)
        return [None if mark == 1 else 0 for mark in first.observations[:, 0, 0]]

    found = ask(rate, pair(0), pair(1), pair(2, length=5), pair(3))
    assert sizes == [(3, 3, 2), (1, 5, 2)]
    assert sorted(map(str, found)) == ["None", "[1.0, 0.0]", "[1.0, 0.0]", "[1.0, 0.0]"]
    with pytest.raises(PrefenvsError, match="for 2 queries: return one answer each"):
        ask(batched(lambda first, second: [0]), pair(0), pair(1))
    with pytest.raises(PrefenvsError, match="for 1 queries: return one answer each"):
        ask(batched(lambda first, second: np.array(0.5)), pair(0))
    with pytest.raises(PrefenvsError, match="or one of the 1 asked with it: ZeroDivisionError"):
        ask(batched(lambda first, second: 1 / 0), pair(0), pair(1))


def test_ctrl_c_ends_a_function_s_work_and_loses_none_of_it() -> None:
    called = []

    def slow(first: Any, second: Any) -> int:
        called.append(first)
        if len(called) == 3:
            raise KeyboardInterrupt
        return 0

    oracle = as_oracle(slow)
    oracle.ask([pair(mark) for mark in range(5)])
    with pytest.raises(KeyboardInterrupt):
        oracle.collect()
    oracle.close()  # type: ignore[attr-defined]
    assert [answer.query.id for answer in oracle.collect()] == [pair(0).id, pair(1).id]
    assert (len(called), oracle.pending) == (3, 3)
    oracle.ask([pair(5)])
    assert len(oracle.collect()) == 4


class Stray:
    """Answers what it was not asked."""

    def ask(self, queries: Any) -> None: ...

    def collect(self) -> list[Any]:
        return [Preference(pair(9), None)]


class Strings(Stray):
    def collect(self) -> list[Any]:
        return ["first"]


def test_an_object_s_answers_belong_to_its_queries() -> None:
    with pytest.raises(PrefenvsError, match="which it was not asked"):
        ask(Stray(), pair(0))  # type: ignore[arg-type]
    with pytest.raises(PrefenvsError, match=r"return prefenvs\.Preference objects"):
        ask(Strings(), pair(0))  # type: ignore[arg-type]
    for wrong, message in ((Stray, "got the class Stray"), ("coin", "make it by its name"), (3, "got 3")):
        with pytest.raises(PrefenvsError, match=message):
            as_oracle(wrong)  # type: ignore[arg-type]


def test_an_object_that_answers_nothing_returns_a_list_all_the_same() -> None:
    class Silent(Stray):
        def collect(self) -> Any:
            return None

    with pytest.raises(PrefenvsError, match=r"collect\(\) returned None: return a list"):
        ask(Silent(), pair(0))  # type: ignore[arg-type]


def test_good_answers_are_handed_out_before_and_after_one_to_a_query_that_was_not_asked() -> None:
    class Mixed(Stray):
        marks = (0, 9, 1)

        def collect(self) -> list[Any]:
            marks, self.marks = self.marks, ()
            return [Preference(pair(mark), None) for mark in marks]

    oracle = as_oracle(Mixed())
    oracle.ask([pair(0), pair(1)])
    assert [answer.query.id for answer in oracle.collect()] == [pair(0).id]
    with pytest.raises(PrefenvsError, match="which it was not asked"):
        oracle.collect()
    assert [answer.query.id for answer in oracle.collect()] == [pair(1).id]
    assert oracle.pending == 0


def test_a_coin_is_fair_and_a_query_s_own() -> None:
    asked = [pair(mark) for mark in range(600)] + [pair(mark, 3) for mark in range(600)]
    answers = ask(make_rater("coin", RaterContext(seed=1)), *asked)
    assert answers[::-1] == ask(make_rater("coin", RaterContext(seed=1)), *asked[::-1])
    assert answers != ask(make_rater("coin", RaterContext(seed=2)), *asked)
    assert 250 < sum(answer[0] for answer in answers[:600]) < 350
    assert np.all(np.abs(np.sum(answers[600:], axis=0) - 200) < 50)

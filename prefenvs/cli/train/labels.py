"""Where the preferences of `prefenvs train iql` and its like come from: an oracle made on the spot, a store, a file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from prefenvs.datasets.holdout import hold_out_episodes, split_preferences
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import FractionBelowOne, PositiveFraction, PositiveInt
from prefenvs.preferences import Preference, make_pairs
from prefenvs.queries.lists import ListBuilder, ListMethod, rank_segments
from prefenvs.runs import Run
from prefenvs.segments import SegmentBatch
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

if TYPE_CHECKING:
    from prefenvs.preferences import Oracle
    from prefenvs.store import Store

RegretForm = Literal["advantage", "deterministic", "visited"]

TRAINING, HELD_OUT = "training", "held-out"
"""Names under which the answers lie in the store of a run."""
LEFT_OUT = "left_out.json"
"""File of a run folder that says how many answers are learned from by nobody, and why."""


class Labels(NamedTuple):
    """Answers to learn from (None where nothing is learned from answers), held-out ones, and what was left out.

    left_out: how many answers nobody learns from, by reason; reasons without any are not there.
    """

    train: list[Preference] | None
    held_out: list[Preference]
    left_out: dict[str, int]


@dataclass(frozen=True)
class LabelOptions:
    """Who compared segments of the data, and how many of the labels are taken."""

    preferences: str = "oracle"
    """A rater that answers on the spot, a store, a label table (.csv, .jsonl, .parquet), or published labels.

    Raters are those of `train pebble --oracle`: oracle, mistake, crowd-mujoco, coin, module:NAME, ... or
    regret:EXPERT, by the advantages of a run folder of `train iql --true-reward`, `train pebble --true-reward` or
    `train dqn`, or a .zip of Stable-Baselines3.
    """
    regret_form: RegretForm = "advantage"
    """Regret as the sum of advantages, telescoped by V (deterministic), or so without the last action (visited: CPL's).

    The telescoped forms need V alone, which is learned sooner than the small differences that advantages are.
    """
    regret_discount: PositiveFraction = 1.0
    """The rater's discount within a segment, for regret: 1 as in CPL's labels; no learner's own discount."""
    labels: PositiveInt | None = None
    """Labels to learn from: 500 from a simulated rater, by default all that a store or file holds."""
    segment_length: PositiveInt | None = None
    """Steps in a segment, for simulated raters."""
    lists: ListMethod | None = None
    """Ask a simulated rater one question after the other, and learn from all pairs of the ranked lists that they make.

    --labels then counts questions.
    """
    list_questions: PositiveInt = 100
    """Questions of one list of lire."""
    shuffle_labels: bool = False
    """Control: permute the labels over their queries, so that they say nothing."""
    held_out: FractionBelowOne = 0.0
    """Share of the episodes kept for measuring how well held-out labels are predicted; never by single labels."""

    @property
    def rater(self) -> str:
        """Who answered, as the run folder's name tells it: a rater with its options, or the file's name."""
        given = self.preferences
        return Path(given).stem if LabelSource(self, 0).kind == "given" else re.sub(r"[^\w.-]+", "-", given)


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from, by the options: a rater that answers at once, a store, or a label file.

    Labels that are learned from and those held out share no episode; with `lists` both count questions. max_gib: memory
    that a label table may take.
    """

    options: LabelOptions
    seed: int
    max_gib: float | None = None

    @property
    def kind(self) -> str:
        """The rater's name, or "given" for stores and files; raises PrefenvsError for a word that is neither."""
        from prefenvs.oracles.make import read_spec

        given = self.options.preferences
        path = Path(given)
        try:
            return read_spec(given).rater.name
        except PrefenvsError as error:
            if "://" in given or "/" in given or path.suffix or path.exists():
                return "given"
            raise PrefenvsError(f"--preferences {given}: there is no such file or store; {error}") from None

    def read(self, dataset: OfflineDataset) -> Labels:
        """Return training and held-out preferences that share no episode, and what was left out."""
        labels = self._read(dataset)
        if self.options.shuffle_labels and labels.train:
            return labels._replace(train=permute(labels.train, self.seed))
        return labels

    def _read(self, dataset: OfflineDataset) -> Labels:
        options = self.options
        if self.kind != "given":
            oracle = self.make_oracle(dataset)
            data, held = dataset.trajectories, hold_out_episodes(len(dataset), options.held_out, self.seed)
            count = options.labels or 500
            counts = count, math.ceil(count * options.held_out)
            rng = np.random.default_rng([self.seed, 1])
            train, held_out = (
                self._ask(oracle, data.sample(2 * n, self.length(dataset), rng, episodes=np.flatnonzero(side)))
                if n
                else []
                for side, n in zip((~held, held), counts, strict=True)
            )
            return Labels(train, held_out, _count({"skipped": _skips(train)}))
        if options.lists is not None:
            raise PrefenvsError(
                f"--lists {options.lists} asks a rater one question after the other, but --preferences "
                f"{options.preferences} holds answers already: leave it out"
            )
        preferences, unread = self._read_given(dataset)
        train, held_out, between = split_preferences(preferences, options.held_out, self.seed)
        taken = train[: options.labels]
        left_out = unread | {
            "between training and held-out episodes": between,
            "beyond --labels": len(train) - len(taken),
            "skipped": _skips(taken),
        }
        return Labels(taken, held_out, _count(left_out))

    def _ask(self, oracle: Oracle, segments: SegmentBatch) -> list[Preference]:
        """Return answers to pairs of these 2 N segments, or the pairs of lists that N questions make of them."""
        if self.options.lists is None:
            return ask(oracle, segments)
        questions = len(segments) // 2
        builder = ListBuilder(self.options.lists, self.options.list_questions, np.random.default_rng([self.seed, 3]))
        made = rank_segments(segments, oracle, questions, builder)
        ranked = sum(len(group) for groups in builder.lists for group in groups)
        print(f"{questions} questions: {len(builder.lists)} lists of {ranked} segments, {len(made)} pairs", flush=True)
        return made

    def length(self, dataset: OfflineDataset) -> int:
        """Steps in a segment: the task's own number where none is given.

        Raises PrefenvsError for a data set that tells no task.
        """
        if not self.options.segment_length and not dataset.task:
            raise PrefenvsError(f"data set {dataset.name!r} tells no task: give its raters --segment-length STEPS")
        return self.options.segment_length or find_task(dataset.task).segment_length

    def make_oracle(self, dataset: OfflineDataset) -> Oracle:
        """Return the rater that is asked for; raises PrefenvsError for one that cannot judge this data set at once."""
        from prefenvs.cli.raters import load_expert_values, load_run_policy
        from prefenvs.oracles.make import RaterContext, make_rater, read_options

        flags = {"regret_form": self.options.regret_form, "regret_discount": self.options.regret_discount}
        rater, own = read_options(self.options.preferences, flags)
        if rater.late:
            raise PrefenvsError(
                f"the raters of --preferences answer at once, which {rater.name} does not: let it label the data set "
                "first (`prefenvs rate --dataset`, `prefenvs label`), and give the store of its answers"
            )
        if rater.name == "oracle" and dataset.trajectories.true_rewards is None:
            raise PrefenvsError(
                f"data set {dataset.name!r} holds no true rewards for --preferences oracle to judge by: "
                "give a store or a label file"
            )
        if rater.name == "regret" and own.expert is None and dataset.task != "Delivery-v0":
            about = dataset.task or dataset.name
            raise PrefenvsError(
                f"--preferences regret needs an expert of {about}: regret:RUN with the folder of a run with "
                "--true-reward (`prefenvs train iql` or `train pebble`), or oracle for labels by partial return"
            )
        context = RaterContext(
            dataset.task, self.seed, load_values=load_expert_values, load_policy=load_run_policy, flags=flags
        )
        return make_rater(self.options.preferences, context)

    def _read_given(self, dataset: OfflineDataset) -> tuple[list[Preference], dict[str, int]]:
        """Return the preferences of a store or of label files, and how many are none to learn from, by reason."""
        given = self.options.preferences
        from prefenvs.store import Store, is_store

        if is_store(given):
            with Store(given, create=False) as store:
                answers, known = read_answers(store), store.count_known()
            if not answers:
                raise PrefenvsError(
                    f"--preferences {given}: the store holds no answer yet{' but to gold questions' if known else ''}: "
                    "`prefenvs label` lets people answer, `prefenvs rate` a model"
                )
            return answers, {"to gold questions": known}
        from prefenvs.datasets.labels.files import find_labels, label_preferences, read_labels

        path = find_labels(given)
        if not path.exists():
            raise PrefenvsError(
                f"--preferences {given}: there is no such file; give a rater such as oracle, a "
                "store (.sqlite or postgresql://...), a label table (.csv, .jsonl, .parquet) or a published label file"
            )
        from prefenvs.datasets.labels.rows import is_table

        if is_table(path):
            from prefenvs.datasets.labels.table import read_label_table

            table = read_label_table(path, dataset, length=self.options.segment_length, max_gib=self.max_gib)
            table.check()
            return table.preferences, {}
        labels = read_labels(path)
        preferences = label_preferences(labels, dataset)
        return preferences, {"across an episode's end": len(labels) - len(preferences)}


def read_answers(store: Store) -> list[Preference]:
    """Return what a store's answers say of pairs: those asked, and those that follow from ranked lists and ratings."""
    from prefenvs.oracles.people.ranking import list_ranked_runs, rankings_as_preferences
    from prefenvs.store import ratings_as_preferences

    answers = store.preferences()
    ranked = [one for run in list_ranked_runs(store) for one in rankings_as_preferences(store, run).values()]
    asked = {frozenset(segment.hash for segment in one.query.segments) for one in answers}
    new = [one for one in ranked if frozenset(segment.hash for segment in one.query.segments) not in asked]
    return [*answers, *new, *ratings_as_preferences(store)]


def labels_at_hand(labels: Labels, data: Trajectories) -> Labels:
    """Return the labels but those of episodes that the data were read without, as they may be damaged."""
    known = {*data.episode_numbers.tolist()}

    def at_hand(preferences: list[Preference]) -> list[Preference]:
        return [
            preference
            for preference in preferences
            if all(one.source != data.source or one.episode in known for one in preference.query.segments)
        ]

    train, held_out = at_hand(labels.train or []), at_hand(labels.held_out)
    gone = len(labels.train or []) + len(labels.held_out) - len(train) - len(held_out)
    left_out = labels.left_out | ({"of damaged episodes": gone} if gone else {})
    return labels._replace(train=train, held_out=held_out, left_out=left_out)


def ask(oracle: Oracle, segments: SegmentBatch) -> list[Preference]:
    """Return the rater's answers to pairs of these segments, skips included.

    Raises PrefenvsError if it fails on one of them.
    """
    oracle.ask(make_pairs(segments))
    answers = oracle.collect()
    while oracle.pending:
        new = oracle.collect()
        if not new:
            raise PrefenvsError(f"{oracle.name} left {oracle.pending} of {len(segments) // 2} queries unanswered")
        answers += new
    return answers


def permute(preferences: list[Preference], seed: int) -> list[Preference]:
    """Return the queries in their order, each with the answer to another one; as many ties and skips as before."""
    order = np.random.default_rng([seed, 2]).permutation(len(preferences))
    return [
        replace(preference, probabilities=preferences[other].probabilities)
        for preference, other in zip(preferences, order, strict=True)
    ]


def keep(run: Run, labels: Labels) -> None:
    """Write the preferences of a run into its folder, with what was left out: all of them or none."""
    from prefenvs.store import Store

    run.path(LEFT_OUT).write_text(json.dumps(labels.left_out, indent=2) + "\n")
    part = run.path("preferences.sqlite.new")
    part.unlink(missing_ok=True)
    with Store(part) as store:
        store.add_preferences(labels.train or [], run=TRAINING)
        store.add_preferences(labels.held_out, run=HELD_OUT)
    part.rename(run.path("preferences.sqlite"))


def kept(run: Run) -> Labels:
    """Return what `keep` wrote, without true rewards."""
    from prefenvs.store import Store

    path = run.path(LEFT_OUT)
    left_out = json.loads(path.read_text()) if path.is_file() else {}
    with Store(run.path("preferences.sqlite"), create=False) as store:
        return Labels(_all_answers(store, TRAINING), _all_answers(store, HELD_OUT), left_out)


def _all_answers(store: Store, run: str) -> list[Preference]:
    """Return the answers of a run in their order, those too that the same rater gave to one question again."""
    asked = {one.query.id: one.query for one in store.preferences(run=run)}
    return [event.preference(asked[event.query]) for event in store.events_after(run=run) if event.query is not None]


def _count(left_out: dict[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in left_out.items() if count}


def _skips(preferences: list[Preference]) -> int:
    return sum(preference.skipped for preference in preferences)

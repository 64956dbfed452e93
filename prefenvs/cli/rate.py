"""`prefenvs rate`: let a rater label pending queries or a data set, or measure how good it is."""

from __future__ import annotations

import itertools
import json
import shlex
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tqdm import tqdm

from prefenvs.cli.data.store import learning
from prefenvs.cli.raters import LOOKING, RATE, make_rater, rater_field, read_options, read_parts
from prefenvs.errors import PrefenvsError
from prefenvs.internal.csv_tables import write_table
from prefenvs.limits import LARGE, PositiveFloat, PositiveInt, Range, Seed
from prefenvs.preferences import Oracle, Preference, Query, distinct_pairs, make_pairs
from prefenvs.raters import PATIENCE, FunctionOracle
from prefenvs.runs import to_json
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.oracles.calibration import Calibration
    from prefenvs.store import Store

# Queries loaded at a time, and how few may be left before more are loaded.
CHUNK, FEW = 256, 64
SLEEP = 0.05
# Pairs of a data set that are sampled together.
BLOCK = 100
BINS = ("true difference", "queries", "accuracy")


@dataclass(frozen=True)
class Rate:
    """Let a model, or another rater, answer the pending queries of a store, or pairs sampled from a data set.

    Answers go into the store as they come, so the same command continues what Ctrl-C, a crash or the end of the budget
    stopped, and pays for nothing twice. With --check it is measured against the true returns instead.
    """

    store: str | None = None
    """Store whose pending queries are answered, and where prompts and replies are kept."""
    task_run: str | None = None
    """With --store: only the queries of this run."""
    dataset: str | None = None
    """Data set to label, by name or path; answers go into --store, data-set-labels.sqlite by default."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    pairs: PositiveInt = 1_000
    """With --dataset: pairs to sample, in all."""
    lists: Literal["lire", "seqrank"] | None = None
    """With --dataset: ask --pairs questions one after the other, and store every pair of the ranked lists they make."""
    list_questions: PositiveInt = 100
    """Questions of a list by lire, after which the next one begins."""
    task: str | None = None
    """Task of a --check without data, or of a data set that does not tell it."""
    segment_length: PositiveInt | None = None
    """Steps in a sampled segment; the task's own by default."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    check: Annotated[int, Range(0, LARGE)] | None = None
    """Measure the rater on so many queries, of the store, the data set, or random behaviour in --task; 0 sends a model
    nothing and tells what --pairs may cost at most."""
    out: Path | None = None
    """With --check: write the accuracy by size of the true difference to this .csv file too."""
    oracle: str = "vlm"
    """vlm, or another rater as in `prefenvs train pebble --oracle`; --help shows the options of the one named."""
    seed: Seed = 0
    """Seed of the sample, and of a simulated rater."""
    audit: bool = False
    """Print every call in --store as a line of JSON, prompts and replies, and do nothing else."""
    copy_prompts: Path | None = None
    """Copy the shipped prompts into this folder, to be edited, and do nothing else."""
    progress: bool = True
    """Show a progress bar with an ETA and the cost so far."""
    rater: Annotated[Any, rater_field(RATE)] = None
    """The rater's options."""

    def run(self) -> None:
        """Copy prompts, list calls, measure, or label."""
        if self.out is not None and self.check is None:
            raise PrefenvsError(f"--out {self.out} is for the table of --check N: give both")
        if self.lists is not None and self.check is not None:
            raise PrefenvsError(f"--lists {self.lists} makes labels, and --check makes none: leave one of them out")
        if self.task_run is not None and (self.store is None or self.dataset is not None):
            raise PrefenvsError(f"--task-run {self.task_run} names queries of a --store, without a --dataset")
        for name, given in (("max-gib", self.max_gib is not None), ("skip-damaged", self.skip_damaged)):
            if given and self.dataset is None:
                raise PrefenvsError(f"--{name} is about a data set: name it with --dataset, or leave it out")
        if self.copy_prompts is not None:
            from prefenvs.oracles.vlm import copy_prompts

            print("\n".join(str(path) for path in copy_prompts(self.copy_prompts)))
        elif self.audit:
            from prefenvs.store import list_calls

            with self._open_store(create=False) as store:
                for call in list_calls(store, self.task_run):
                    print(to_json(asdict(call) | {"prompt": json.loads(call.prompt)}))
        elif self.check == 0:
            self._tell_price()
        elif self.check is not None:
            with tempfile.TemporaryDirectory() as films:
                self._check(self.check, Path(films))
        else:
            self._label()

    def _label(self) -> None:
        if self.lists is not None:
            self._rank(self.lists)
            return
        if self.dataset is None:
            with self._open_store(create=False) as store:
                self._check_rater()
                runs = [self.task_run] if self.task_run is not None else store.pending_runs()
                if not any(store.count_pending(run) for run in runs):
                    print(f"no query of {self.store} waits for an answer")
                left = sum(self._label_run(store, run) for run in runs)
            if left:
                way = f"people answer them, prefenvs label --store {shlex.quote(str(self.store))}"
                raise PrefenvsError(f"{left} queries have more clips than {self.oracle} compares: {way}")
            return
        from prefenvs.store import Store

        self._check_rater()
        queries = self._sample_dataset(self.pairs)
        name = f"rate {self.dataset}"
        location = self._location()
        with Store(location) as store:
            store.add_queries(queries, run=name)
            if not store.count_pending(name):
                by = ", ".join(sorted({answer.annotator for answer in store.preferences(run=name)}))
                print(f"all {len(queries)} pairs have their answers already, by {by}; another --store asks anew")
            self._label_run(store, name)
            labels = any(not answer.skipped for answer in store.preferences(run=name))
        if labels:
            self._tell(location, name, queries[0])

    def _rank(self, lists: Literal["lire", "seqrank"]) -> None:
        """Let ranked lists be made of a data set's segments; raises PrefenvsError without a data set."""
        from prefenvs.queries.lists import ListBuilder, rank_segments
        from prefenvs.store import Store

        if self.dataset is None:
            raise PrefenvsError(f"--lists {lists} chooses its questions from a data set's segments: name a --dataset")
        self._check_rater()
        queries = self._sample_dataset(self.pairs)
        name, location = f"rate {self.dataset} {lists}", self._location()
        segments = [segment for query in queries for segment in query.segments]
        builder = ListBuilder(lists, self.list_questions, np.random.default_rng([self.seed, 3]))
        with Store(location) as store, store.claim(f"a rating of run {name!r}"):
            inner = self._make_oracle(segments[0].task, store, name)
            oracle = _OneByOne(inner, store, name, self.pairs, self.progress)
            try:
                pairs = rank_segments(segments, oracle, self.pairs, builder)
            finally:
                oracle.close()
            held = {_clips(answer) for answer in store.preferences(run=name)}
            new = [pair for pair in pairs if _clips(pair) not in held]
            store.add_preferences(new, run=name)
        ranked = sum(len(group) for groups in builder.lists for group in groups)
        print(
            f"{name}: {self.pairs} questions, {oracle.asked} of them asked now; {len(pairs)} pairs of {ranked} "
            f"segments, {len(new)} of them new without a question; lists: {len(builder.lists)}"
        )
        self._tell(location, name, queries[0])

    def _location(self) -> str:
        return self.store or f"{Path(self.dataset or '').name}-labels.sqlite"

    def _tell(self, location: str, name: str, query: Query) -> None:
        """Say where the labels are, and how they are learned from."""
        assert self.dataset is not None
        segment = query.segments[0]
        acts = segment.actions.size > 0 and segment.recording is None
        command = learning(self.dataset, self.task, location, acts=acts)
        print(f"labels are in {location}, run {name!r}; learn from them: {command}")

    def _label_run(self, store: Store, run: str) -> int:
        """Answer the pending queries of one run; return how many have too many clips for the rater."""
        first = store.pending_queries(run=run, limit=1)
        if not first:
            return 0
        # Two processes would pay for the same queries, each up to the whole budget.
        with store.claim(f"a rating of run {run!r}"):
            oracle = self._make_oracle(first[0].segments[0].task, store, run)
            labelling = _Labelling(store, run, oracle, self.progress)
            labelling.finish()
        return labelling.too_large

    def _check(self, count: int, films: Path) -> None:
        from prefenvs.oracles.calibration import bin_rows, calibrate
        from prefenvs.store import Store

        if count < 2:
            raise PrefenvsError(f"--check {count}: a rater is measured on 2 queries or more")
        self._check_source()
        self._check_rater()
        queries = self._sample(count, films)
        store = None if self.store is None else Store(self.store)
        oracle = self._make_oracle(queries[0].segments[0].task, store, "check")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                found = calibrate(oracle, queries)
        finally:
            _close(oracle)
            if store is not None:
                store.close()
        if found.queries < len(queries):
            trouble = getattr(oracle, "trouble", None)
            print(f"only {found.queries} of {len(queries)} were answered{f': {trouble.message}' if trouble else ''}")
        print_calibration(found, oracle.name, self.pairs)
        if self.out is not None:
            write_table(self.out, BINS, bin_rows(found))
        if found.failed is not None:
            raise found.failed

    def _check_source(self) -> None:
        if self.dataset is None and self.store is None and self.task is None:
            raise PrefenvsError("--check needs queries: name a --task, a --dataset, or a --store with true rewards")

    def _tell_price(self) -> None:
        """Print what a model may cost at most, without a word to it."""
        from prefenvs.oracles.vlm.rating import most_tokens

        self._check_source()
        parts, own = read_parts(self.oracle, self.rater), read_options(self.oracle, self.rater)[1]
        models = {part: options.config() for part, (rater, options) in parts.items() if rater.name == "vlm"}
        if not models:
            raise PrefenvsError(f"--check 0 tells what a model may cost, and {self.oracle} costs nothing: --check 2")
        task = find_task(self.task or self._sample(2)[0].segments[0].task)
        for part, config in models.items():
            tokens, limit = most_tokens(task, config), own.limit if part == "costly" else None
            pairs = self.pairs if limit is None else min(limit, self.pairs)
            cost = config.budget.price(*tokens) * pairs
            most = f"{pairs:,} queries: at most {sum(tokens) * pairs:,} tokens{f', {cost:.2f}' if cost else ''}"
            print(
                f"{f'{part} rater: ' if part else ''}nothing was sent; a query takes at most {tokens[0]:,} tokens of "
                f"prompts ({config.picture_tokens:,} for a picture) and {tokens[1]:,} of replies; {most}"
            )

    def _sample(self, count: int, films: Path | None = None) -> list[Query]:
        if self.dataset is not None:
            return self._sample_dataset(count)
        if self.store is not None and self.task is None:
            return self._sample_store(count)
        return self._sample_behaviour(count, films)

    def _make_oracle(self, task: str, store: Store | None, run: str) -> Oracle:
        return make_rater(self.oracle, self.rater, task or self.task or "", self.seed, store, run)

    def _check_rater(self) -> None:
        """Find out before anything else happens whether there is such a rater, and whether a model can be asked."""
        from prefenvs.oracles.vlm import check_server

        for part, (rater, options) in read_parts(self.oracle, self.rater).items():
            if not part and rater.name in ("human", "ratings", "rankings"):
                raise PrefenvsError("people answer the queries of a store on a page: prefenvs label --store FILE")
            if rater.name == "vlm" and not options.replay:
                check_server(options.name(), options.config())

    def _open_store(self, create: bool) -> Store:
        from prefenvs.store import Store

        if self.store is None:
            raise PrefenvsError("say what to rate: --store FILE, --dataset NAME, or --check N --task ID")
        return Store(self.store, create=create)

    def _sample_dataset(self, count: int) -> list[Query]:
        from prefenvs.datasets.load import load_dataset

        assert self.dataset is not None
        data = load_dataset(self.dataset, self.task, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
        trajectories = data.trajectories
        if self._looks() and not (trajectories.states is not None or trajectories.recordings):
            raise PrefenvsError(
                f"the data set {self.dataset} holds no simulator states and no recordings to show a model: collect "
                "anew with a `state` that can be set, or let `prefenvs train` ask, which films"
            )
        if not trajectories.task and not self.task:
            raise PrefenvsError(f"the data set {self.dataset} does not tell its task: name it with --task")
        length = self.segment_length or find_task(trajectories.task or self.task or "").segment_length
        # In blocks, so that a larger number of pairs holds those of a smaller one, which are labelled already.
        seeds = (np.random.default_rng([self.seed, block]) for block in itertools.count())
        return distinct_pairs((make_pairs(trajectories.sample(2 * BLOCK, length, rng)) for rng in seeds), count)

    def _sample_store(self, count: int) -> list[Query]:
        from prefenvs.store import Store

        assert self.store is not None
        with Store(self.store, create=False) as store:
            events = store.events_after(run=self.task_run)
            ids = sorted({event.query for event in events if event.query is not None})
            ids += [query.id for query in store.pending_queries(run=self.task_run) if query.id not in set(ids)]
            found = store.find_queries(ids, with_true_rewards=True).values()
        pairs = [query for query in found if len(query.segments) == 2]
        known = [query for query in pairs if all(s.true_rewards is not None for s in query.segments)]
        if len(known) < 2:
            raise PrefenvsError(f"{self.store} holds {len(known)} pairs with true rewards: name a --task instead")
        chosen = np.random.default_rng(self.seed).permutation(len(known))[:count]
        return [known[i] for i in chosen]

    def _looks(self) -> bool:
        return any(rater.name in LOOKING for rater, _ in read_parts(self.oracle, self.rater).values())

    def _sample_behaviour(self, count: int, films: Path | None) -> list[Query]:
        from prefenvs.cli.random_behaviour import collect_random_behaviour

        task = find_task(self.task or "")
        length = self.segment_length or task.segment_length
        if length > task.horizon:
            raise PrefenvsError(
                f"--segment-length {length} is longer than an episode of {task.id}, {task.horizon} steps: lower it"
            )
        films, rng = films if self._looks() else None, np.random.default_rng(self.seed)
        trajectories = collect_random_behaviour(task, min(20, 4 + count // 10), self.seed, films)
        draws = (make_pairs(trajectories.sample(2 * count, length, rng)) for _ in itertools.count())
        return distinct_pairs(draws, count)


class _Labelling:
    """The pending queries of one run on their way to a rater and back."""

    def __init__(self, store: Store, run: str, oracle: Oracle, progress: bool) -> None:
        self.store, self.run, self.oracle = store, run, oracle
        if isinstance(oracle, FunctionOracle):
            oracle.patience = PATIENCE
        self.skipped = self.labelled = self.too_large = 0
        self._asked: set[str] = set()
        # Answers that the rater has handed out and the store does not have yet: Ctrl-C may come in between.
        self._held: list[Preference] = []
        self._bar = tqdm(
            total=store.count_pending(run), desc=run or "queries", unit="query", disable=None if progress else True
        )

    def finish(self) -> None:
        """Answer all queries; what has been answered is stored whatever ends it.

        Raises PrefenvsError where some are left unanswered.
        """
        try:
            with self._bar, warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                while self._step():
                    time.sleep(SLEEP if self.oracle.pending else 0.0)
        except BaseException as error:
            # What is under way has been paid for.
            _close(self.oracle)
            try:
                self._store_answers()
            finally:
                self._report()
            if isinstance(error, KeyboardInterrupt):
                print(f"{self.store.count_pending(self.run)} queries are left, which the same command goes on with")
            raise
        _close(self.oracle)
        self._report()
        trouble = getattr(self.oracle, "trouble", None)
        left = self.store.count_pending(self.run)
        if trouble is not None and left:
            way = "a larger budget" if trouble.kind == "budget" else "the same command"
            raise PrefenvsError(f"{trouble.message}; {left} queries are left, which {way} goes on with")

    def _step(self) -> bool:
        """Ask what may be asked, store what has been answered; tell whether there is more to come."""
        trouble = getattr(self.oracle, "trouble", None)
        # Before answers are taken, so that none comes between the last look and the end.
        under_way, new, fit = not getattr(self.oracle, "settle", lambda _: True)(0.0), [], list[Query]()
        if self.oracle.pending < FEW and trouble is None:
            limit, most = self.oracle.pending + self.too_large + CHUNK, self.oracle.most_segments
            waiting = self.store.pending_queries(run=self.run, limit=limit, with_true_rewards=self.oracle.name != "vlm")
            new = [query for query in waiting if query.id not in self._asked]
            fit = [query for query in new if most is None or len(query.segments) <= most]
            self._asked |= {query.id for query in new}
            self.too_large += len(new) - len(fit)
            self.oracle.ask(fit)
        answered = self._store_answers()
        if not self.labelled:
            from prefenvs.oracles.vlm.records import refuse_nonsense

            refuse_nonsense(self.oracle, self.skipped, self.store, self.run)
        return answered > 0 or under_way or len(fit) < len(new) or (self.oracle.pending > 0 and trouble is None)

    def _store_answers(self) -> int:
        self._held += self.oracle.collect()
        self.store.add_preferences(self._held, run=self.run)
        answers, self._held = self._held, []
        self.skipped += sum(answer.skipped for answer in answers)
        self.labelled += sum(not answer.skipped for answer in answers)
        self._bar.set_postfix({"skipped": self.skipped, **self._costs()}, refresh=False)
        self._bar.update(len(answers))
        return len(answers)

    def _costs(self) -> dict[str, str]:
        tokens, cost = getattr(self.oracle, "tokens", None), getattr(self.oracle, "cost", 0.0)
        return {} if tokens is None else {"tokens": f"{tokens:,.0f}", **({"cost": f"{cost:.4f}"} if cost else {})}

    def _report(self) -> None:
        from prefenvs.oracles.vlm.records import count_unread, last_reply

        reasons = Counter[str](getattr(self.oracle, "reasons", ()))
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        used = ", ".join(f"{name} {value}" for name, value in self._costs().items())
        about = f"{self.labelled} labels, {self.skipped} skips{f' ({why})' if why else ''}"
        print(f"{self.run or 'queries'}: {about}{f'; {used}' if used else ''}")
        if count_unread(self.oracle) > self.labelled:
            last = last_reply(self.store, self.run)
            print(f"most replies are no verdict{last}; --store {self.store.location} --audit prints all")


class _OneByOne(Oracle):
    """A rater that is asked one question after the other, whose answers are in a store as soon as they are given."""

    def __init__(self, inner: Oracle, store: Store, run: str, questions: int, progress: bool) -> None:
        self.inner, self.store, self.run, self.name, self.asked = inner, store, run, inner.name, 0
        self._known = {answer.query.id: answer for answer in store.preferences(run=run)}
        self._answers: list[Preference] = []
        self._bar = tqdm(total=questions, desc=run, unit="question", disable=None if progress else True)

    def ask(self, queries: Sequence[Query]) -> None:
        """Wait for the answers; raises PrefenvsError where a model gives none."""
        for query in queries:
            answers = [self._known[query.id]] if query.id in self._known else self._wait(query)
            self._answers += answers
            self._bar.update()

    def _wait(self, query: Query) -> list[Preference]:
        from prefenvs.oracles.vlm.records import refuse_nonsense

        self.inner.ask([query])
        answers = self.inner.collect()
        while not answers:
            trouble = getattr(self.inner, "trouble", None)
            if trouble is not None or not self.inner.pending:
                why = "it gave no answer" if trouble is None else trouble.message
                raise PrefenvsError(f"{self.name}: {why}; the same command goes on from {self._bar.n} answers")
            time.sleep(SLEEP)
            answers = self.inner.collect()
        self.store.add_preferences(answers, run=self.run)
        self.asked += 1
        refuse_nonsense(self.inner, self.asked, self.store, self.run)
        return answers

    def collect(self) -> list[Preference]:
        """Return the answers since the last call."""
        answers, self._answers = self._answers, []
        return answers

    @property
    def pending(self) -> int:
        """Always 0: `ask` waits."""
        return 0

    def close(self) -> None:
        """End the bar, and what the rater has under way."""
        self._bar.close()
        _close(self.inner)


def _clips(answer: Preference) -> frozenset[str]:
    return frozenset(segment.hash for segment in answer.query.segments)


def print_calibration(found: Calibration, name: str, more: int) -> None:
    """Print what a rater was found to be, and what so many `more` queries will cost."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    from prefenvs.oracles.calibration import bin_rows, describe_cost, describe_skips, percent

    print(f"{name}: {found.queries} queries whose true returns are known, {found.seconds:.1f} s")
    print(f"accuracy: {percent(found.right)} of {found.right.count} choices, with the 95% interval")
    print(describe_skips(found))
    if found.first.count:
        print(f"order bias: the one shown first was chosen in {percent(found.first)}; 50% has no bias")
    if found.consistent.count:
        print(f"same choice in both orders: {percent(found.consistent)}")
    if found.tokens:
        print(describe_cost(found, more))
    table = Table(BINS[0], Column(BINS[1], justify="right"), BINS[2], box=SIMPLE_HEAD)
    for row in bin_rows(found):
        table.add_row(*row)
    Console(emoji=False).print(table)


def _close(oracle: Oracle) -> None:
    close = getattr(oracle, "close", None)
    if close is not None:
        close()

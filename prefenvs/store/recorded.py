"""An oracle whose questions and answers go through a store, so that a crash loses neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.protocols import Policy
from prefenvs.raters import PATIENCE, FunctionOracle
from prefenvs.store.store import Store
from prefenvs.trajectories import Trajectories


class Recorded(Oracle):
    """Pass everything on to `oracle`; store queries before they are asked and answers before they are handed out.

    After a restart, `load_state_dict` asks again what was open at the checkpoint.
    """

    def __init__(self, oracle: Oracle, store: Store, run: str = "", policy: str = "") -> None:
        """`run` names the training run; `policy` tags its queries and may be changed as the policy learns."""
        self.oracle, self.store, self.run, self.policy = oracle, store, run, policy
        self.name = oracle.name
        if isinstance(oracle, FunctionOracle):
            oracle.patience = PATIENCE
        self._unstored: list[Preference] = []
        self._stored: list[Preference] = []
        self._open: dict[str, None] = {}

    def ask(self, queries: Sequence[Query]) -> None:
        """Store the queries, then ask them."""
        self.store.add_queries(queries, run=self.run, policy=self.policy)
        self.oracle.ask(queries)
        self._open |= dict.fromkeys(query.id for query in queries)

    def collect(self) -> list[Preference]:
        """Return new answers once they are stored; those that could not be stored are kept for the next call."""
        try:
            self._store()
            while isinstance(self.oracle, FunctionOracle) and self.oracle.more:
                self._store()
        except PrefenvsError:
            if not self._stored:
                raise
        answers, self._stored = self._stored, []
        for answer in answers:
            self._open.pop(answer.query.id, None)
        return answers

    def _store(self) -> None:
        self._unstored += self.oracle.collect()
        self.store.add_preferences(self._unstored, run=self.run)
        self._stored += self._unstored
        self._unstored = []

    @property
    def waiting(self) -> bool:  # type: ignore[override]
        """Whether the oracle behind it blocks because the user asked for that."""
        return self.oracle.waiting

    @property
    def pending(self) -> int:
        """Number of asked queries whose answers have not been handed out."""
        return self.oracle.pending + len(self._unstored) + len(self._stored)

    def follow(self, policy: Policy) -> None:
        """Pass on which policy is trained."""
        self.oracle.follow(policy)

    def observe(self, trajectories: Trajectories) -> None:
        """Pass recent trajectories on."""
        self.oracle.observe(trajectories)

    def report(self, status: Mapping[str, float | None]) -> None:
        """Pass the learner's status on."""
        self.oracle.report(status)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the oracle behind it and the ids of the queries that are open."""
        return {"oracle": self.oracle.state_dict(), "open": list(self._open)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned, and ask again what was open then.

        Raises PrefenvsError for a store that lacks some of it.
        """
        if set(state) != {"oracle", "open"}:
            # From before open queries were kept.
            state = {"oracle": state, "open": []}
        found = self.store.find_queries(state["open"], with_true_rewards=True)
        missing = [key for key in state["open"] if key not in found]
        if missing:
            raise PrefenvsError(
                f"{self.store.location} lacks {len(missing)} of {len(state['open'])} questions that were open at the "
                f"checkpoint, such as {missing[0]}: put the store that they were asked in back"
            )
        self.oracle.load_state_dict(state["oracle"])
        self._open = dict.fromkeys(state["open"])
        if self._open:
            self.oracle.ask([found[key] for key in self._open])

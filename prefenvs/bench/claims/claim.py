"""What is claimed of each system, how it is measured beside its control, and the table of what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefenvs.bench.folder import BenchFolder, write_json
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import entry_points, import_object
from prefenvs.runs import provenance

SEEDS = (0, 1, 2, 3, 4)
HERE = "prefenvs.bench.claims"


class Measured(NamedTuple):
    """What one seed gave: the system's figure and its control's."""

    figure: float
    control: float


@dataclass(frozen=True)
class Claim:
    """One claim of one system.

    sentence: what is claimed; figure: what is measured; control: what it is measured against, in the same units.
    place: `module:function` of the demonstration, which takes a seed and the arguments and returns `Measured`; better:
    which figures are better; tried: what else was tried where it does not hold. It holds where the figure is better
    than the control's on every seed.
    """

    name: str
    system: str
    sentence: str
    figure: str
    control: str
    place: str
    better: Literal["higher", "lower"] = "higher"
    tried: str = ""
    arguments: tuple[Any, ...] = ()

    def holds(self, measured: Sequence[Measured]) -> bool:
        """Whether the figure is better than the control's on every seed."""
        sign = 1.0 if self.better == "higher" else -1.0
        return bool(measured) and all(sign * (one.figure - one.control) > 0 for one in measured)


GROUPS = (
    ("maxmin", "MaxMin-RLHF", "em", "clusters"),
    ("pal", "PAL", "pal", "prototypes"),
    ("vpl", "VPL", "vpl", "latent vectors"),
)
"""Models of raters who disagree: name, system, head of the reward, and what serves the minority."""

CLAIMS = (
    Claim(
        "unsure",
        "S-EPOA's teacher",
        "errs between close segments only",
        "errors in the half of the pairs that differ most",
        "teacher `mistake`",
        f"{HERE}.raters:unsure",
        "lower",
    ),
    Claim(
        "heron-both",
        "HERON",
        "a ranking (distance, effort) teaches both on Reacher-v5",
        "percentile, of the worse of both factors, of the 10% of new segments that the learned reward likes best",
        "coin labels",
        f"{HERE}.raters:heron_both",
    ),
    Claim(
        "heron-order",
        "HERON",
        "the first factor counts most",
        "percentile of distance of the 10% liked best, after (distance, effort)",
        "after (effort, distance)",
        f"{HERE}.raters:heron_order",
    ),
    Claim(
        "hindsight",
        "RLHS",
        "a rater by partial return agrees with one by regret once it sees what follows (Delivery-v0, one start a pair)",
        "agreement with regret, 30 moves of a driver who errs in 1 of 10 shown",
        "the same rater, shown the segments alone",
        f"{HERE}.raters:hindsight",
    ),
    Claim(
        "models-regret",
        "Models of preference",
        "1,000 answers of simulated people who go by regret (Delivery's board 4, beta .5) are explained best by regret",
        "share of answers that name the segment of less regret",
        "of more partial return",
        f"{HERE}.raters:explained",
        arguments=("regret",),
    ),
    Claim(
        "models-return",
        "Models of preference",
        "and of people who go by partial return, by that",
        "share of answers that name the segment of more partial return",
        "of less regret",
        f"{HERE}.raters:explained",
        arguments=("return",),
    ),
    Claim(
        "lire",
        "LiRE",
        "ranked lists teach more than independent pairs of as many questions (recorded drawer-open of Meta-World, good "
        "to random; segments of 25 steps, 200 questions)",
        "accuracy of the learned reward on 2,000 new pairs",
        "independent pairs",
        f"{HERE}.raters:lire",
        tried="(one seed loses by .003; tried: random segments of Reacher-v5, .56 to .65 against .67 to .74)",
    ),
    Claim(
        "seqrank",
        "SeqRank",
        "lists by sequential pairwise comparison do, too",
        "accuracy of the learned reward on 2,000 new pairs",
        "independent pairs",
        f"{HERE}.raters:seqrank",
        tried="(tried: random segments of Reacher-v5, 100 questions, .63 to .75 against .67 to .74)",
    ),
    Claim(
        "lire-linear",
        "LiRE",
        "the linear score predicts more of the same lists than the exponential one",
        "accuracy of the learned reward on 2,000 new pairs",
        "exponential score",
        f"{HERE}.raters:lire_linear",
        tried="(tried: 1,000 gradient steps in the place of 300, one seed: .898 against .954)",
    ),
    Claim(
        "lire-scale",
        "LiRE",
        "the linear score makes a reward that grows with the true one, where the exponential one saturates",
        "correlation of learned and true returns of 4,000 new segments",
        "exponential score",
        f"{HERE}.raters:lire_scale",
        tried="(tried: 1,000 gradient steps in the place of 300, one seed: .972 against .888)",
    ),
    Claim(
        "safety",
        "HC-RLHF",
        "a policy whose expected cost is the limit passes with a chance of at most delta (50 episodes, 1,000 repeats)",
        "share of passes by the Hoeffding bound",
        "delta",
        f"{HERE}.others:safety",
        "lower",
    ),
    Claim(
        "safety-naive",
        "HC-RLHF",
        "the mean alone passes it half of the time, the Student-t bound about as often as delta",
        "share of passes by Student's t",
        "by the mean",
        f"{HERE}.others:safety_naive",
        "lower",
    ),
    Claim(
        "pearl",
        "PEARL",
        "labels of button-press order segments of button-press-topdown (Meta-World, 100 labels, 100 pairs of 50 steps)",
        "agreement of transferred labels with the true return",
        "shuffled source labels",
        f"{HERE}.others:pearl",
    ),
    Claim(
        "rebel",
        "REBEL",
        "the agent's own episodes in the reward loss teach more from 100 labels (PEBBLE, Pendulum-v1, 10,000 steps)",
        "mean true return of 20 episodes, weight 0.1",
        "weight 0",
        f"{HERE}.online:rebel",
        tried="(tried: Reacher-v5, two seeds: -29.3 and -32.9 against -38.5 and -16.3)",
    ),
    Claim(
        "thompson",
        "Thompson sampling",
        "one reward member an episode, and questions only where draws differ, reach plain PEBBLE's return and more "
        "(Pendulum-v1, 10,000 steps, at most 100 labels)",
        "mean true return of 20 episodes",
        "plain PEBBLE, 100 labels",
        f"{HERE}.online:beside_pebble",
        arguments=("thompson",),
        tried="(a little less on four seeds, for half of the labels; nothing else tried)",
    ),
    Claim(
        "thompson-rune",
        "Thompson sampling",
        "reaches more than RUNE's bonus does, which explores by the same disagreement",
        "mean true return of 20 episodes",
        "RUNE, 100 labels",
        f"{HERE}.online:thompson_rune",
        tried="(nothing else tried)",
    ),
    Claim(
        "thompson-labels",
        "Thompson sampling",
        "asks for fewer labels in the same run",
        "labels",
        "plain PEBBLE",
        f"{HERE}.online:thompson_labels",
        "lower",
    ),
    Claim(
        "resets",
        "DR-PO",
        "episodes that begin in labelled states teach more (PEBBLE, Pendulum-v1, 10,000 steps, 100 labels)",
        "mean true return of 20 episodes",
        "all episodes begin as the task does",
        f"{HERE}.online:beside_pebble",
        arguments=("resets",),
        tried="(Pendulum is no hard exploration; tried: MountainCarContinuous-v0, one seed, no goal found)",
    ),
    Claim(
        "ranksgd",
        "ZO-RankSGD",
        "8 rankings of 8 episodes find a linear policy on CartPole-v1 (64 questions; neither reward nor gradients)",
        "mean true return of 20 episodes, at most 500",
        "a coin ranks",
        f"{HERE}.direct:ranked",
        arguments=("CartPole-v1", 60_000, 64),
    ),
    Claim(
        "ranksgd-acrobot",
        "ZO-RankSGD",
        "5 rankings of 8 find one on Acrobot-v1 (40 questions)",
        "mean true return of 20 episodes, at least -500",
        "a coin ranks",
        f"{HERE}.direct:ranked",
        arguments=("Acrobot-v1", 40_000, 40),
        tried="(one seed: two of five runs by a coin found a policy, too; tried: Reacher-v5, not learned)",
    ),
    Claim(
        "spo",
        "SPO",
        "plays a mixture where preferences run in a circle, and a fitted reward does not (three moves on Delivery: up "
        "beats level beats down beats up)",
        "share of wins against the worst of the three for it, 0.5 at best, mean of the second half of 9,000 steps",
        "PrefPPO with about as many questions",
        f"{HERE}.direct:spo_circle",
    ),
    Claim(
        "spo-control",
        "SPO",
        "learns control, too (CartPole-v1, 10,000 steps)",
        "mean true return of 20 episodes",
        "a coin compares",
        f"{HERE}.direct:spo_control",
    ),
    *(
        Claim(
            name,
            "DCPPO",
            f"50 episodes of a boundedly rational driver on Delivery's board 4 teach more than {what}",
            "exact return, 0 as random moves and 1 as the optimum",
            control,
            f"{HERE}.tabular:{function}",
        )
        for name, function, what, control in (
            ("dcppo", "dcppo", "their cloning", "the driver's choices, cloned"),
            (
                "dcppo-naive",
                "dcppo_naive",
                "their naive inversion",
                "value iteration on the choices' log-probabilities",
            ),
        )
    ),
    *(
        Claim(
            name,
            "BARFI",
            sentence,
            figure,
            control,
            f"{HERE}.tabular:{function}",
            "lower" if name == "barfi-weight" else "higher",
        )
        for name, sentence, figure, control, function in (
            (
                "barfi",
                "drops a designer's heuristic that misleads (pay for coins on Delivery's board 4; 500 labels)",
                "exact return, 0 as random moves and 1 as the optimum",
                "the plain sum of the heuristic and the learned reward",
                "barfi",
            ),
            (
                "barfi-weight",
                "tells a heuristic that misleads from one that helps (pay for coming nearer to a destination)",
                "weight of the one that misleads, as a share of the learned reward's",
                "weight of the one that helps",
                "barfi_weight",
            ),
            (
                "barfi-labels",
                "goes by the labels",
                "exact return, with the heuristic that misleads",
                "a coin's labels",
                "barfi_labels",
            ),
        )
    ),
    Claim(
        "parl",
        "A-PARL",
        "the gradient through the policy makes the same labels earn more (Delivery-v0, 20 labels on own episodes)",
        "exact return, 0 as random moves and 1 as the optimum",
        "reward learning alone",
        f"{HERE}.tabular:parl",
        tried="(tried: 40 labels; a temperature of .1, by which plain reward learning is kept from arriving)",
    ),
    Claim(
        "parl-labels",
        "A-PARL",
        "goes by the labels",
        "exact return, 0 as random moves and 1 as the optimum",
        "a coin's labels",
        f"{HERE}.tabular:parl_labels",
        tried="(one seed, on which a coin pointed at the destination by chance; with 40 labels at .1 it held)",
    ),
    *(
        Claim(
            name,
            "Demonstration-regularised RL",
            f"closeness to a clone of 1,000 steps of an imperfect person lets 100 labels earn more than {what} "
            "(PEBBLE, Pendulum-v1, 6,000 steps)",
            "mean true return of 20 episodes",
            control,
            f"{HERE}.demonstrations:{function}",
            tried="(seeds 0 and 3; tried: a weight of 0 from 0.6 of the run on, there -388 and -252)",
        )
        for name, function, what, control in (
            ("demonstrations", "plain", "without demonstrations", "plain PEBBLE, 100 labels"),
            ("demonstrations-clone", "clone", "the clone does", "the clone"),
            ("demonstrations-coin", "coin", "a coin's", "the same on a coin's labels"),
        )
    ),
    *(
        Claim(
            f"realm-{kind}",
            "REALM",
            f"the kind of help that tells most for each second teaches more in 3 minutes of a person than {what} "
            "alone (simulated, Pendulum-v1)",
            "accuracy of the learned reward on 2,000 new pairs",
            f"{what} alone",
            f"{HERE}.help:alone",
            arguments=(kind,),
            tried="(ratings are nearly always chosen; tried: a person whose choices have no errors, and 10 minutes)",
        )
        for kind, what in (
            ("pair", "comparisons of two"),
            ("best", "choices of the best of 5"),
            ("rating", "ratings"),
            ("takeover", "takeovers"),
        )
    ),
    *(
        Claim(
            name,
            "RLIF",
            f"interventions of a person who tells bad steps, but holds the pole with a bias, teach more than {what} "
            "(Pendulum-v1, 8,000 steps)",
            "mean true return of 20 episodes",
            control,
            f"{HERE}.interventions:{function}",
        )
        for name, function, what, control in (
            ("rlif", "rlif", "cloning as many of their steps", "behaviour cloning"),
            ("rlif-dagger", "rlif_dagger", "HG-DAgger on as many", "HG-DAgger, the same interventions"),
            ("rlif-random", "rlif_random", "takeovers by chance", "the same learner, takeovers by chance"),
        )
    ),
    *(
        Claim(
            name,
            system,
            f"{what} serve a minority of raters (4 of 20, another destination on Delivery's board 1, 100 labels each)",
            "the minority's return by its own reward, 0 as random moves and 1 as its optimum",
            "one reward for all",
            f"{HERE}.groups:minority",
            arguments=(head,),
        )
        for name, system, head, what in GROUPS
    ),
    *(
        Claim(
            f"{name}-groups",
            system,
            f"{what} tell the minority of these raters from the majority",
            "share of pairs of raters that are put together or apart as they should be",
            "the same answers, shuffled over the raters",
            f"{HERE}.groups:told_apart",
            arguments=(head,),
        )
        for name, system, head, what in GROUPS
    ),
)


def list_claims() -> list[Claim]:
    """Return our claims and those that installed packages offer under `prefenvs.claims`."""
    return [*CLAIMS, *entry_points("prefenvs.claims", Claim)]


def find_claims(names: Sequence[str] = ()) -> list[Claim]:
    """Return the claims of these names, all if none is given; raises PrefenvsError for an unknown one."""
    known = {claim.name: claim for claim in list_claims()}
    for name in names:
        if name not in known:
            raise PrefenvsError(f"there is no claim {name!r}: choose {', '.join(known)}.{near_matches(name, known)}")
    return [known[name] for name in names] if names else list(known.values())


def run_claims(
    folder: Path, names: Sequence[str] = (), seeds: Sequence[int] = (), say: Callable[[str], None] = print
) -> str:
    """Measure claims that the folder holds no figures of, at this commit, and return the table of all it then holds.

    Figures are kept in claims.json as they come, and the table in claims.md.
    """
    claims = find_claims(names)
    with BenchFolder(folder).locked():
        return _run_claims(folder, claims, seeds, say)


def _run_claims(folder: Path, claims: Sequence[Claim], seeds: Sequence[int], say: Callable[[str], None]) -> str:
    path = folder / "claims.json"
    kept = read_figures(path)
    here = provenance()
    for claim in claims:
        for seed in seeds or SEEDS:
            known = kept.setdefault(claim.name, {}).get(str(seed))
            if known is not None and known["commit"] == here["commit"]:
                continue
            begin, worked = time.perf_counter(), time.process_time()
            found = measure(claim, seed)
            # Where the machine is shared, only the processor's time can be compared.
            spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - worked}
            spent = {name: round(value, 1) for name, value in spent.items()}
            kept[claim.name][str(seed)] = {**found._asdict(), **spent, "commit": here["commit"]}
            write_json(path, kept)
            times = f"{spent['seconds']} s, {spent['cpu_seconds']} s of the processor"
            say(f"{claim.name} seed {seed}: {found.figure:.3g}, control {found.control:.3g} ({times})")
    table = make_table(find_claims(), kept)
    (folder / "claims.md").write_text(table + "\n")
    return table


def measure(claim: Claim, seed: int) -> Measured:
    """Run a claim's demonstration for one seed."""
    figure, control = import_object(claim.place, "claim")(seed, *claim.arguments)
    return Measured(float(figure), float(control))


def read_figures(path: Path) -> dict[str, dict[str, Any]]:
    """Return the figures in claims.json by claim and seed, none if there is no such file.

    Raises PrefenvsError for a damaged file.
    """
    if not path.exists():
        return {}
    try:
        kept = {name: dict(seeds) for name, seeds in json.loads(path.read_text()).items()}
        for seed, row in (item for seeds in kept.values() for item in seeds.items()):
            _ = int(seed), float(row["figure"]), float(row["control"]), row["commit"]
        return kept
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise PrefenvsError(f"{path} cannot be read ({error}): delete it, or name another --folder") from None


def make_table(claims: Sequence[Claim], kept: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table of claims, with every seed's figure; a claim without figures was not run."""
    lines = ["| system | claim | figure | control | holds |", "|---|---|---|---|---|"]
    for claim in claims:
        rows = sorted(kept.get(claim.name, {}).items(), key=lambda item: int(item[0]))
        measured = [Measured(row["figure"], row["control"]) for _, row in rows]
        verdict = "not run" if not measured else "yes" if claim.holds(measured) else f"**no** {claim.tried}".rstrip()
        if 0 < len(measured) < len(SEEDS):
            verdict += f" ({len(measured)} of {len(SEEDS)} seeds run)"
        figures = ", ".join(f"{one.figure:.3g}" for one in measured) or "-"
        controls = ", ".join(f"{one.control:.3g}" for one in measured) or "-"
        cells = (
            f"{claim.system} (`{claim.name}`)",
            claim.sentence,
            f"{claim.figure} ({claim.better} is better): {figures}",
            f"{claim.control}: {controls}",
            verdict,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

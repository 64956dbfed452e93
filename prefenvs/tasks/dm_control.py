"""Tasks of the DeepMind Control Suite, with 1000 steps an episode and rewards between 0 and 1 a step."""

from __future__ import annotations

from prefenvs.tasks.task import Camera, LabelBudget, Task

BPREF = "PEBBLE scripts of B-Pref (Lee et al., NeurIPS Datasets and Benchmarks 2021)"
QPA = "QPA scripts (Hu et al., ICLR 2024)"
RIME = "RIME scripts (Cheng et al., ICML 2024)"
SURF = "PEBBLE baseline of SURF (Park et al., ICLR 2022)"

WALKER_WALK = (
    LabelBudget(100, 10, 20_000, 500_000, 50, 5e-4, SURF),
    LabelBudget(500, 50, 20_000, 500_000, 50, 5e-4, BPREF),
    LabelBudget(1000, 100, 20_000, 500_000, 50, 5e-4, BPREF),
)
WALKER_RUN = (LabelBudget(250, 10, 20_000, 1_000_000, 2000, 5e-4, QPA),)
CHEETAH_RUN = (
    LabelBudget(250, 10, 20_000, 1_000_000, 2000, 5e-4, QPA),
    LabelBudget(1000, 100, 20_000, 1_000_000, 50, 5e-4, RIME),
)
QUADRUPED_WALK = (
    LabelBudget(1000, 100, 30_000, 1_000_000, 50, 1e-4, BPREF),
    LabelBudget(2000, 200, 30_000, 1_000_000, 50, 1e-4, BPREF),
    LabelBudget(4000, 400, 30_000, 1_000_000, 50, 1e-4, RIME),
)
QUADRUPED_RUN = (LabelBudget(1000, 100, 30_000, 1_000_000, 2000, 1e-4, QPA),)
HUMANOID_STAND = (LabelBudget(10_000, 50, 5000, 2_000_000, 2000, 1e-4, QPA),)


def _task(
    domain: str,
    name: str,
    fps: int,
    camera: Camera,
    sentence: str,
    budgets: tuple[LabelBudget, ...] = (),
    scene: tuple[str, ...] = (),
) -> Task:
    return Task(
        id=f"dmc-{domain}-{name}-v0",
        family="dm_control",
        sentence=sentence,
        horizon=1000,
        segment_length=50,
        fps=fps,
        source=f"{domain}/{name}",
        camera=camera,
        scene=scene,
        budgets=budgets,
    )


_WALKER = Camera(track="torso", lookat=(0.0, 0.0, 0.9), distance=4.0, azimuth=90.0, elevation=-10.0)
_CHEETAH = Camera(track="torso", lookat=(0.0, 0.0, 0.6), distance=3.5, azimuth=90.0, elevation=-10.0)
_QUADRUPED = Camera(track="torso", lookat=(0.0, 0.0, 0.5), distance=4.5, azimuth=110.0, elevation=-25.0)
_HOPPER = Camera(track="torso", lookat=(0.0, 0.0, 0.8), distance=3.5, azimuth=90.0, elevation=-10.0)
_HUMANOID = Camera(track="torso", lookat=(0.0, 0.0, 0.9), distance=4.0, azimuth=120.0, elevation=-15.0)
_CARTPOLE = Camera(name="fixed")
_REACHER = Camera(lookat=(0.0, 0.0, 0.0), distance=0.75, azimuth=90.0, elevation=-90.0)
_PENDULUM = Camera(name="fixed")

TASKS: tuple[Task, ...] = (
    _task(
        "walker",
        "walk",
        40,
        _WALKER,
        "The two-legged walker stands upright and walks to the right at an easy, steady pace.",
        WALKER_WALK,
    ),
    _task(
        "walker",
        "run",
        40,
        _WALKER,
        "The two-legged walker stays upright and runs to the right as fast as it can.",
        WALKER_RUN,
    ),
    _task("walker", "stand", 40, _WALKER, "The two-legged walker stands up and stays upright, torso high."),
    _task(
        "cheetah",
        "run",
        100,
        _CHEETAH,
        "The two-legged cheetah runs to the right as fast as it can.",
        CHEETAH_RUN,
    ),
    _task(
        "quadruped",
        "walk",
        50,
        _QUADRUPED,
        "The four-legged robot gets on its feet and walks forward, in the direction it faces, with its torso level.",
        QUADRUPED_WALK,
    ),
    _task(
        "quadruped",
        "run",
        50,
        _QUADRUPED,
        "The four-legged robot gets on its feet and runs forward, in the direction it faces, with its torso level.",
        QUADRUPED_RUN,
    ),
    _task(
        "hopper",
        "hop",
        50,
        _HOPPER,
        "The one-legged hopper stands up and hops to the right quickly without falling.",
    ),
    _task(
        "humanoid",
        "stand",
        40,
        _HUMANOID,
        "The humanoid gets up and stands upright and still, head high.",
        HUMANOID_STAND,
    ),
    _task(
        "cartpole",
        "swingup",
        100,
        _CARTPOLE,
        "The cart swings the hanging pole up and then keeps it upright and still near the middle of the rail.",
    ),
    _task(
        "cartpole",
        "balance",
        100,
        _CARTPOLE,
        "The pole starts upright, and the cart keeps it upright and still near the middle of the rail.",
    ),
    _task(
        "reacher",
        "easy",
        50,
        _REACHER,
        "The two-link arm moves its fingertip into the target disc and keeps it there.",
        # The target is a geom that each reset moves.
        scene=("geom_pos",),
    ),
    _task(
        "pendulum",
        "swingup",
        50,
        _PENDULUM,
        "The pendulum swings up and then stays balanced, pointing straight up.",
    ),
)

"""The 50 tasks of Meta-World, version 3, each with its goal in the observation."""

from __future__ import annotations

from prefenvs.tasks.task import Camera, LabelBudget, Task

BPREF = "PEBBLE scripts of B-Pref (Lee et al., NeurIPS Datasets and Benchmarks 2021), Meta-World v2"
RUNE = "PEBBLE baseline of RUNE (Liang et al., ICLR 2022), Meta-World v2"
SURF = "PEBBLE baseline of SURF (Park et al., ICLR 2022), Meta-World v2"
MRN = "PEBBLE baseline of MRN (Liu et al., NeurIPS 2022), Meta-World v2"
QPA = "QPA scripts (Hu et al., ICLR 2024), Meta-World v2"
RIME = "PEBBLE baseline of RIME (Cheng et al., ICML 2024), Meta-World v2"

BUDGETS: dict[str, tuple[LabelBudget, ...]] = {
    "button-press": (
        LabelBudget(10_000, 50, 5000, 1_000_000, 10, 3e-4, BPREF),
        LabelBudget(20_000, 100, 5000, 1_000_000, 10, 3e-4, BPREF),
    ),
    "sweep-into": (
        LabelBudget(5000, 50, 10_000, 2_000_000, 10, 3e-4, RUNE),
        LabelBudget(10_000, 50, 5000, 1_000_000, 10, 3e-4, BPREF),
        LabelBudget(20_000, 100, 5000, 1_000_000, 10, 3e-4, BPREF),
    ),
    "door-close": (
        LabelBudget(500, 50, 10_000, 500_000, 10, 3e-4, RUNE),
        LabelBudget(1000, 50, 10_000, 500_000, 10, 3e-4, RUNE),
    ),
    "window-close": (
        LabelBudget(500, 10, 10_000, 1_000_000, 10, 3e-4, RUNE),
        LabelBudget(1000, 10, 10_000, 500_000, 10, 3e-4, RUNE),
    ),
    "door-open": (
        LabelBudget(1000, 10, 5000, 1_000_000, 10, 3e-4, MRN),
        LabelBudget(2000, 50, 10_000, 1_000_000, 10, 3e-4, RUNE),
        LabelBudget(3000, 30, 5000, 1_000_000, 200, 1e-4, QPA),
        LabelBudget(4000, 50, 10_000, 1_000_000, 10, 3e-4, RUNE),
    ),
    "door-unlock": (
        LabelBudget(2000, 100, 20_000, 1_000_000, 200, 1e-4, QPA),
        LabelBudget(2500, 25, 10_000, 1_000_000, 10, 3e-4, RUNE),
        LabelBudget(5000, 50, 10_000, 1_000_000, 10, 3e-4, RUNE),
    ),
    "drawer-open": (
        LabelBudget(3000, 30, 5000, 1_000_000, 200, 1e-4, QPA),
        LabelBudget(5000, 100, 10_000, 1_000_000, 10, 3e-4, RUNE),
        LabelBudget(10_000, 100, 10_000, 1_000_000, 10, 3e-4, RUNE),
    ),
    "hammer": (
        LabelBudget(10_000, 50, 5000, 2_000_000, 10, 3e-4, SURF),
        LabelBudget(80_000, 400, 5000, 1_000_000, 10, 3e-4, RIME),
    ),
}

# What should happen in the picture; the goal is a small coloured dot wherever a position is asked for.
SENTENCES = {
    "assembly": "The arm picks up the ring by its handle and puts it over the peg that stands on the table.",
    "basketball": "The arm grasps the ball, carries it to the hoop and drops it in.",
    "bin-picking": "The arm picks up the cube in the one bin and places it in the other bin.",
    "box-close": "The arm picks up the lid by its handle and puts it onto the open box.",
    "button-press": "The arm presses the button on the front of the box all the way in.",
    "button-press-topdown": "The arm comes from above and presses the button on the top of the box all the way down.",
    "button-press-topdown-wall": (
        "The arm goes over the wall and, from above, presses the button on the top of the box all the way down."
    ),
    "button-press-wall": "The arm goes around the wall and presses the button on the front of the box all the way in.",
    "coffee-button": "The arm presses the button on the coffee machine.",
    "coffee-pull": "The arm grasps the mug and pulls it away from the coffee machine to the goal dot.",
    "coffee-push": "The arm pushes the mug under the spout of the coffee machine, onto the goal dot.",
    "dial-turn": "The arm pushes the knob of the dial so that the dial turns by half a turn.",
    "disassemble": "The arm grasps the ring by its handle and lifts it off the peg.",
    "door-close": "The arm pushes the open door of the safe shut.",
    "door-lock": "The arm turns the lock on the door from pointing sideways to pointing down: locked.",
    "door-open": "The arm grips the handle and pulls the door of the safe wide open.",
    "door-unlock": "The arm turns the lock on the door from pointing down to pointing sideways: unlocked.",
    "drawer-close": "The arm pushes the open drawer shut.",
    "drawer-open": "The arm grips the handle and pulls the drawer open.",
    "faucet-close": "The arm pushes the handle of the faucet clockwise, seen from above, until it is closed.",
    "faucet-open": "The arm pushes the handle of the faucet counter-clockwise, seen from above, until it is open.",
    "hammer": "The arm picks up the hammer and drives the nail into the board with it.",
    "hand-insert": "The arm moves its gripper down into the hole in the table, to the goal dot.",
    "handle-press": "The arm, facing the box, presses its handle all the way down.",
    "handle-press-side": "The arm presses the handle on the side of the box all the way down.",
    "handle-pull": "The arm, facing the box, pulls its handle all the way up.",
    "handle-pull-side": "The arm pulls the handle on the side of the box all the way up.",
    "lever-pull": "The arm pushes the lever up from below until it points straight up.",
    "peg-insert-side": "The arm grasps the peg and inserts it sideways into the hole of the box.",
    "peg-unplug-side": "The arm grasps the peg that sticks in the box and pulls it out sideways.",
    "pick-out-of-hole": "The arm grasps the puck inside the hole, lifts it out and carries it to the goal dot.",
    "pick-place": "The arm grasps the puck and carries it to the goal dot, which may be in the air.",
    "pick-place-wall": "The arm grasps the puck, lifts it over the wall and carries it to the goal dot behind.",
    "plate-slide": "The arm slides the plate along the table away from itself into the cabinet.",
    "plate-slide-back": "The arm slides the plate out of the cabinet, back toward itself, to the goal dot.",
    "plate-slide-back-side": "The arm slides the plate sideways out of the cabinet to the goal dot.",
    "plate-slide-side": "The arm slides the plate sideways along the table into the cabinet.",
    "push": "The arm pushes the puck along the table to the goal dot.",
    "push-back": "The arm pulls the block along the table back toward itself, to the goal dot.",
    "push-wall": "The arm pushes the puck around the wall to the goal dot behind it.",
    "reach": "The gripper moves to the goal dot and stays there.",
    "reach-wall": "The gripper moves over or around the wall to the goal dot and stays there.",
    "shelf-place": "The arm grasps the block and places it on the shelf, at the goal dot.",
    "soccer": "The arm pushes the ball into the goal.",
    "stick-pull": "The arm grasps the stick, hooks it into the thermos's handle and pulls the thermos to the goal dot.",
    "stick-push": "The arm grasps the stick and pushes the thermos with it to the goal dot.",
    "sweep": "The arm sweeps the block along the table and off its edge, to the goal dot.",
    "sweep-into": "The arm sweeps the block along the table into the square hole.",
    "window-close": "The arm pushes the window's handle sideways until the sliding window is closed.",
    "window-open": "The arm pushes the window's handle sideways until the sliding window is open.",
}


def _view(azimuth: float) -> Camera:
    return Camera(lookat=(0.0, 0.68, 0.12), distance=1.4, azimuth=azimuth, elevation=-27.0)


# From behind the robot's right shoulder: the fronts of the objects and the gripper at work are both in view.
CAMERA = _view(148.0)
CAMERAS = {
    "handle-press-side": _view(205.0),
    "handle-pull-side": _view(205.0),
    "shelf-place": _view(128.0),
}

TASKS: tuple[Task, ...] = tuple(
    Task(
        id=f"metaworld-{name}-v3",
        family="metaworld",
        sentence=sentence,
        horizon=500,
        segment_length=50,
        fps=80,
        source=f"{name}-v3",
        camera=CAMERAS.get(name, CAMERA),
        scene=("body_pos", "site_pos"),
        success_key="success",
        budgets=BUDGETS.get(name, ()),
    )
    for name, sentence in SENTENCES.items()
)

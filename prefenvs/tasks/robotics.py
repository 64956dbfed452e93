"""Gymnasium-Robotics: Fetch arm, point and ant mazes, Adroit hand, Franka kitchen."""

from __future__ import annotations

from prefenvs.tasks.task import Camera, Task


def _fetch() -> tuple[Task, ...]:
    camera = Camera(lookat=(1.3, 0.75, 0.55), distance=1.6, azimuth=132.0, elevation=-20.0)
    far = Camera(lookat=(1.4, 0.75, 0.45), distance=2.1, azimuth=132.0, elevation=-25.0)
    rows = (
        ("FetchReach", camera, "The gripper moves to the red dot and stays there."),
        ("FetchPush", camera, "With its gripper closed, the robot pushes the block along the table onto the red dot."),
        ("FetchSlide", far, "The robot hits the puck so that it slides along the table and stops at the red dot."),
        (
            "FetchPickAndPlace",
            camera,
            "The gripper grasps the block and carries it to the red dot, on the table or in the air.",
        ),
    )
    return tuple(
        Task(
            id=f"{name}{reward}-v4",
            family="robotics",
            sentence=sentence,
            horizon=50,
            segment_length=25,
            fps=25,
            source=f"{name}{reward}-v4",
            camera=view,
            scene=("site_pos",),
            success_key="is_success",
            domain="fetch",
        )
        for name, view, sentence in rows
        for reward in ("", "Dense")
    )


# Map: number of rows, then the horizons of point and ant.
_MAPS = {
    "Open": (5, 300, 700),
    "Open_Diverse_G": (5, 300, 700),
    "Open_Diverse_GR": (5, 300, 700),
    "UMaze": (5, 300, 700),
    "Medium": (8, 600, 1000),
    "Medium_Diverse_G": (8, 600, 1000),
    "Medium_Diverse_GR": (8, 600, 1000),
    "Large": (9, 800, 1000),
    "Large_Diverse_G": (9, 800, 1000),
    "Large_Diverse_GR": (9, 800, 1000),
}


def _maze(agent: str) -> tuple[Task, ...]:
    ant = agent == "Ant"
    sentence = (
        "The four-legged ant walks through the maze to the red goal ball without falling over."
        if ant
        else "The green ball rolls through the maze to the red goal ball and stays there."
    )
    tasks = []
    for name, (rows, point_horizon, ant_horizon) in _MAPS.items():
        columns = {"O": 7, "U": 5, "M": 8, "L": 12}[name[0]]
        scale = 4.0 if ant else 1.0
        camera = Camera(
            lookat=(0.0, 0.0, 0.0), distance=1.35 * scale * max(rows, columns), azimuth=90.0, elevation=-80.0
        )
        if ant and rows > 5:
            # From where these mazes fit into the picture, nobody sees how the ant moves its legs.
            camera = Camera(track="torso", distance=12.0, azimuth=90.0, elevation=-75.0)
        for reward in ("", "Dense"):
            task_id = f"{agent}Maze_{name}{reward}-{'v5' if ant else 'v3'}"
            tasks.append(
                Task(
                    id=task_id,
                    family="robotics",
                    sentence=sentence,
                    horizon=ant_horizon if ant else point_horizon,
                    segment_length=50,
                    fps=20 if ant else 100,
                    source=task_id,
                    camera=camera,
                    scene=("site_pos",),
                    success_key="success",
                    domain="antmaze" if ant else "pointmaze",
                )
            )
    return tuple(tasks)


def _adroit() -> tuple[Task, ...]:
    """Gymnasium-Robotics' tasks, and the same as D4RL has them: see `prefenvs.envs.adapters.D4RLHand`."""
    rows = (
        (
            "Door",
            Camera(lookat=(-0.1, 0.0, 0.25), distance=1.5, azimuth=90.0, elevation=-30.0),
            ("body_pos",),
            "The hand turns the latch and swings the door wide open.",
        ),
        (
            "Hammer",
            Camera(lookat=(0.0, -0.1, 0.2), distance=1.4, azimuth=45.0, elevation=-30.0),
            ("body_pos",),
            "The hand picks up the hammer and drives the nail all the way into the board.",
        ),
        (
            "Pen",
            Camera(lookat=(0.0, -0.15, 0.22), distance=0.8, azimuth=-45.0, elevation=-35.0),
            ("body_quat",),
            "The hand turns the pen in its palm to the direction of the green pen, without dropping it.",
        ),
        (
            "Relocate",
            Camera(lookat=(0.0, 0.0, 0.15), distance=1.5, azimuth=90.0, elevation=-35.0),
            ("body_pos", "site_pos"),
            "The hand grasps the blue ball and carries it to the green target sphere.",
        ),
    )
    ids = (("AdroitHand{}-v1", ""), ("AdroitHand{}Sparse-v1", "Sparse"), ("d4rl-{}-v1", ""))
    return tuple(
        Task(
            id=id_.format(name.lower() if id_.startswith("d4rl") else name),
            family="robotics",
            sentence=sentence,
            horizon=100 if id_ == "d4rl-{}-v1" and name == "Pen" else 200,
            segment_length=50,
            fps=100,
            source=f"AdroitHand{name}{reward}-v1",
            camera=camera,
            scene=scene,
            success_key="success",
            domain="adroit",
            kwargs={"d4rl_hand": name.lower()} if id_.startswith("d4rl") else {},
        )
        for name, camera, scene, sentence in rows
        for id_, reward in ids
    )


TASKS: tuple[Task, ...] = (
    *_fetch(),
    *_maze("Point"),
    *_maze("Ant"),
    *_adroit(),
    Task(
        id="FrankaKitchen-v1",
        family="robotics",
        sentence=(
            "The arm works through the kitchen's chores: burners, light switch, slide and hinge cabinets, microwave "
            "door and kettle, one after another."
        ),
        horizon=280,
        segment_length=50,
        fps=12,
        source="FrankaKitchen-v1",
        camera=Camera(lookat=(-0.2, 0.5, 2.15), distance=2.4, azimuth=70.0, elevation=-28.0),
        domain="kitchen",
    ),
)

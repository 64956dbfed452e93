"""From a LeRobot folder to policies by commands alone: on its vectors, and on frozen features of its pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from prefenvs.cli import main
from prefenvs.cli.random_behaviour import collect_random_behaviour
from prefenvs.datasets import OfflineDataset, load_dataset, write_lerobot
from prefenvs.tasks import find_task

ENCODER = """
import torch
class Net(torch.nn.Module):
    size = 16
    def forward(self, pixels):
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
net = Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A LeRobot folder of Reacher's random behaviour, of which the robot itself measures four numbers; its labels."""
    made = tmp_path
    data = collect_random_behaviour(find_task("Reacher-v5"), 6, 0)
    seen = replace(data, observations=data.observations[:, :4], final_observations=None)
    write_lerobot(OfflineDataset("reach", seen), made / "reach", size=32, progress=False)
    (made / "tiny_encoder.py").write_text(ENCODER)
    words = ["--oracle", "oracle", "--pairs", "12", "--segment-length", "10", "--store", str(made / "labels.sqlite")]
    main(["rate", "--dataset", str(made / "reach"), *words, "--no-progress"])
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(made)
    yield made
    sys.modules.pop("tiny_encoder", None)


SMALL = {
    "bc": ["--hidden", "8", "--best-share", "0.5"],
    "cpl": ["--hidden", "8", "--batch-size", "4"],
    "iql": ["--hidden", "8", "--batch-size", "8", "--reward.epochs", "2"],
    "dppo": ["--batch-size", "8", "--predictor.width", "16", "--predictor.heads", "2", "--predictor.epochs", "2"],
}


def train(name: str, dataset: str, store: str) -> Path:
    run = Path("runs") / f"{name}-{dataset}"
    words = ["--dataset", dataset, "--preferences", store, "--steps", "3", "--folder", str(run)]
    main(["train", name, *words, *SMALL[name]])
    assert json.loads((run / "summary.json").read_text())["updates"] == 3
    return run


def test_policies_learn_from_recordings_and_act_by_frozen_features(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = ["--preferences", "labels.sqlite", "--labels-to", "features.sqlite"]
    main(["features", "reach", "--encoder", "tiny_encoder:net", "--out", "seen", *stores])
    assert "12 of 12 labels" in capsys.readouterr().out
    assert load_dataset("seen").trajectories.observations.shape[1] == 4 + 12
    for name in SMALL:
        train(name, "reach", "labels.sqlite")
        run = train(name, "seen", "features.sqlite")
        capsys.readouterr()
        words = ["--task", "Reacher-v5", "--encoder", "tiny_encoder:net", "--episodes", "1", "--json"]
        main(["evaluate", str(run), *words])
        assert -200 < json.loads(capsys.readouterr().out)["mean_return"] < 0
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--task", "Delivery-v0", "--encoder", "tiny_encoder:net"])
    assert "the environment's is Discrete(4): evaluate it on its own task" in capsys.readouterr().err


def test_a_policy_is_learned_from_the_episodes_that_are_not_damaged(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = (here / "reach" / "data").rglob("*.parquet")
    table = pq.read_table(path)
    steps = table["frame_index"].to_numpy().copy()
    steps[table["episode_index"].to_numpy() == 2] = 0
    pq.write_table(table.set_column(table.column_names.index("frame_index"), "frame_index", pa.array(steps)), path)
    words = ["train", "bc", "--dataset", "reach", "--preferences", "labels.sqlite", "--folder", "bc", "--steps", "3"]
    with pytest.raises(SystemExit):
        main([*words, *SMALL["bc"]])
    assert "episode 2 of reach is damaged" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 of 6 episodes of reach are left out"):
        main([*words, *SMALL["bc"], "--skip-damaged"])
    assert json.loads((here / "bc" / "summary.json").read_text())["left_out_because"]["of damaged episodes"] > 0


def test_a_store_without_answers_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["ask", "reach", "--store", "asked.sqlite", "--count", "2", "--segment-length", "10"])
    with pytest.raises(SystemExit):
        main(["train", "iql", "--dataset", "reach", "--preferences", "asked.sqlite", "--steps", "3", *SMALL["iql"]])
    assert "--preferences asked.sqlite: the store holds no answer yet" in capsys.readouterr().err

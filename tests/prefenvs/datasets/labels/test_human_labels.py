"""Published label files: read safely, placed by D4RL's own rule of rows, and reported on."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.cli import main
from prefenvs.datasets.formats.pickles import read_array_pickle
from prefenvs.datasets.labels.files import label_preferences, place, read_labels
from prefenvs.datasets.labels.report import report_labels
from prefenvs.datasets.load import load_dataset
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.oracles.simulated.crowds import MEASURED
from prefenvs.store import Store
from prefenvs.trajectories import Trajectories

LENGTH = 4
REAL = Path(os.environ.get("PREFENVS_HUMAN_LABELS", Path(__file__).parents[5] / "shared" / "data" / "human_labels"))
real_files = pytest.mark.skipif(
    not REAL.is_dir(), reason="the published label files are not here: name their folder in PREFENVS_HUMAN_LABELS"
)
# Folder, pairs, indexed pairs, steps, answers first / second / tie: as the publications' files have them.
PUBLISHED = [
    ("preference_transformer/hopper-medium-expert-v2", 100, 500, 100, (32, 40, 28)),
    ("preference_transformer/antmaze-large-play-v2", 1000, 1000, 100, (200, 163, 637)),
    ("preference_transformer/Can_ph", 100, 100, 50, (24, 42, 34)),
    ("uni_rlhf/antmaze-medium-play-v2_human_labels", 2000, 2000, 200, (810, 816, 374)),
    ("uni_rlhf/door-human-v1_human_labels", 2000, 2000, 50, (921, 927, 152)),
    ("uni_rlhf/halfcheetah-medium-v2_human_labels", 2000, 2000, 200, (1018, 941, 41)),
]


def make_data(lengths, kinds, seed: int = 0) -> OfflineDataset:
    """Make episodes that end by "timeout", "terminal" or "both"; observations hold the number of the raw row."""
    ends = np.cumsum(lengths)
    rng = np.random.default_rng(seed)
    flags = {kind: np.zeros(ends[-1], bool) for kind in ("terminal", "timeout")}
    for end, kind in zip(ends, kinds, strict=True):
        for flag, array in flags.items():
            array[end - 1] = kind in (flag, "both")
    trajectories = Trajectories(
        observations=np.arange(ends[-1], dtype=np.float32)[:, None],
        actions=rng.normal(size=(ends[-1], 2)).astype(np.float32),
        ends=ends,
        true_rewards=rng.normal(size=ends[-1]),
        terminated=flags["terminal"][ends - 1],
        source="made-v0",
    )
    return OfflineDataset("made-v0", trajectories, flags["terminal"], flags["timeout"])


def plain_rows(dataset: OfflineDataset) -> list[int]:
    """D4RL's q-learning loop, step by step."""
    count = len(dataset.trajectories.observations)
    return [i for i in range(count - 1) if not dataset.timeouts[i]]


def write_uni(folder: Path, first, second, labels, author: str = "human", length: int = LENGTH) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    suffix = f"_domain_mujoco_env_made-v0_num_{len(first)}_len_{length}_0123abcd.pkl"
    for name, array in ((f"{author}_label", labels), ("indices_1", first), ("indices_2", second)):
        with open(folder / f"{name}{suffix}", "wb") as file:
            pickle.dump(array if isinstance(array, list) and None in array else np.asarray(array), file)
    return folder


def write_pt(folder: Path, first, second, labels, length: int = LENGTH) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    suffix = f"num{len(labels)}_q{length}"
    for name, array in ((f"indices_{suffix}", first), (f"indices_2_{suffix}", second)):
        (folder / name).write_bytes(pickle.dumps(np.asarray(array, np.int32)))
    (folder / "label_human").write_bytes(pickle.dumps([int(label) for label in labels]))
    return folder


def whole_starts(dataset: OfflineDataset, length: int = LENGTH) -> np.ndarray:
    """Q-learning rows at which a segment lies in one episode."""
    kept = np.array(plain_rows(dataset))
    starts = np.arange(len(kept) - length + 1)
    first, last = kept[starts], kept[starts + length - 1]
    episode = np.searchsorted(dataset.trajectories.ends, np.stack([first, last]), side="right")
    return starts[episode[0] == episode[1]]


@real_files
@pytest.mark.parametrize(("folder", "pairs", "indexed", "length", "answers"), PUBLISHED)
def test_reads_the_published_files(folder, pairs, indexed, length, answers) -> None:
    labels = read_labels(REAL / folder)
    first = int((labels.probabilities[:, 0] == 1).sum())
    assert (len(labels), labels.indexed, labels.length) == (pairs, indexed, length)
    assert (first, int(labels.strict.sum()) - first, int(labels.tied.sum())) == answers
    assert not labels.skipped.any()
    assert not labels.scripted
    assert labels.starts.shape == (pairs, 2)
    assert labels.starts.min() >= 0


@real_files
def test_published_files_pass_the_report_and_the_half_labelled_one_is_named() -> None:
    reports = {folder: report_labels(read_labels(REAL / folder)) for folder, *_ in PUBLISHED}
    assert not any(report.faults for report in reports.values())
    assert any("500 pairs are indexed, the first 100" in line for line in reports[PUBLISHED[0][0]].remarks)


@real_files
@pytest.mark.parametrize("folder", [PUBLISHED[1][0], PUBLISHED[3][0], PUBLISHED[5][0]])
def test_published_rows_count_qlearning_steps(folder) -> None:
    """Episodes of these sets all have the same length, so counting in the wrong way crosses their ends."""
    labels = read_labels(REAL / folder)
    right, wrong = report_labels(labels), report_labels(labels, rows="raw")
    assert right.crossing is not None
    assert right.crossing < 0.005
    assert right.crossing_other > 0.15
    assert any("cross an episode's end" in fault for fault in wrong.faults)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["timeout", "terminal", "both"])), min_size=1, max_size=8))
def test_rows_are_those_of_d4rls_loop(episodes) -> None:
    dataset = make_data(*zip(*episodes, strict=True))
    assert dataset.qlearning_rows().tolist() == plain_rows(dataset)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(["timeout", "terminal", "both"])), min_size=2, max_size=8),
    st.sampled_from(["qlearning", "raw"]),
)
def test_segments_are_the_rows_of_their_window_or_refused(tmp_path_factory, episodes, rows) -> None:
    """Every start of a small data set, against windows cut by hand."""
    dataset = make_data(*zip(*episodes, strict=True))
    count = len(dataset.trajectories.observations)
    kept = plain_rows(dataset) if rows == "qlearning" else list(range(count))
    starts = np.arange(count)
    folder = write_uni(tmp_path_factory.mktemp("labels"), starts, starts[::-1], np.zeros(count, int))
    found = place(read_labels(folder), dataset, rows)
    for start, episode, step in zip(starts, found.episodes[:, 0], found.starts[:, 0], strict=True):
        window = kept[start : start + LENGTH]
        episode_of = np.searchsorted(dataset.trajectories.ends, window, side="right")
        whole = len(window) == LENGTH and len(set(episode_of.tolist())) == 1
        assert (episode >= 0) == whole
        if whole:
            segment = dataset.trajectories.cut(np.array([episode]), np.array([step]), LENGTH)[0]
            assert segment.observations[:, 0].tolist() == window


@pytest.mark.parametrize("write", [write_uni, write_pt])
def test_polarity_ties_and_raters(tmp_path, write) -> None:
    """0 prefers the first segment, 1 the second, -1 neither."""
    dataset = make_data([12] * 5, ["timeout"] * 5)
    starts = whole_starts(dataset)[:3]
    labels = read_labels(write(tmp_path / "made-v0", starts, starts + 11, [0, 1, -1]))
    found = label_preferences(labels, dataset)
    assert [answer.probabilities.tolist() for answer in found] == [[1, 0], [0, 1], [0.5, 0.5]]
    assert [answer.query.segments[0].observations[0, 0] for answer in found] == starts.tolist()
    # Row 11 of the q-learning form is the raw row 12: the first episode's last step is dropped.
    assert [answer.query.segments[1].observations[0, 0] for answer in found] == (starts + 12).tolist()
    assert {answer.annotator for answer in found} == {labels.layout}
    assert {answer.oracle for answer in found} == {"human"}
    assert {answer.annotator for answer in label_preferences(labels, dataset, annotator="ana")} == {"ana"}
    assert labels.name == "made-v0"


def test_unanswered_pairs_are_skips(tmp_path) -> None:
    dataset = make_data([12] * 5, ["timeout"] * 5)
    labels = read_labels(write_uni(tmp_path / "a", [0, 1, 2], [11, 12, 13], [1, None, 0]))
    assert [answer.skipped for answer in label_preferences(labels, dataset)] == [False, True, False]
    assert any("1 pairs were skipped" in line for line in report_labels(labels).remarks)


def test_scripted_labels_are_shares(tmp_path) -> None:
    shares = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    labels = read_labels(write_uni(tmp_path / "fake", [0, 1, 2], [11, 12, 13], shares, "fake"))
    assert labels.probabilities.tolist() == shares
    answers = label_preferences(labels, make_data([12] * 5, ["timeout"] * 5))
    assert {(a.annotator, a.oracle) for a in answers} == {("uni-rlhf-script", "script")}


def test_pairs_beyond_the_labels_are_left_out_and_named(tmp_path) -> None:
    labels = read_labels(write_pt(tmp_path / "made-v0", range(10), range(20, 30), [0, 1, -1]))
    assert (len(labels), labels.indexed) == (3, 10)
    assert labels.starts.tolist() == [[0, 20], [1, 21], [2, 22]]
    assert any("10 pairs are indexed, the first 3" in line for line in report_labels(labels).remarks)


def test_labels_over_a_file_of_d4rls_layout(tmp_path, capsys) -> None:
    """From an HDF5 file and label files to a store, by the command line."""
    rng = np.random.default_rng(0)
    steps = 600
    flags = np.zeros((2, steps), bool)
    flags[0, 24::25] = True
    arrays = {
        "observations": rng.normal(size=(steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "timeouts": flags[0],
        "terminals": flags[1],
    }
    with h5py.File(tmp_path / "made-v0.hdf5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    dataset = load_dataset(tmp_path / "made-v0.hdf5")
    starts = rng.choice(whole_starts(dataset), (200, 2))
    kept = np.array(plain_rows(dataset))
    returns = np.array([[arrays["rewards"][kept[s : s + LENGTH]].sum() for s in pair] for pair in starts])
    better = np.where(returns[:, 0] > returns[:, 1], 0, 1)
    folder = write_uni(tmp_path / "labels", *starts.T, better)
    main(["labels", "report", str(folder), "--dataset", str(tmp_path / "made-v0.hdf5")])
    assert "100.0%" in capsys.readouterr().out
    store = str(tmp_path / "labels.sqlite")
    main(["labels", "import", str(folder), "--dataset", str(tmp_path / "made-v0.hdf5"), "--store", store])
    with Store(store) as opened:
        assert opened.stats().comparisons == len({tuple(pair) for pair in starts.tolist()})
    with pytest.raises(SystemExit) as stopped:
        main(["labels", "report", str(folder), "--dataset", str(tmp_path / "made-v0.hdf5"), "--rows", "raw"])
    assert stopped.value.code == 1


def report_on(tmp_path, first, second, labels, dataset=None, **options):
    return report_labels(
        read_labels(write_uni(tmp_path / str(len(list(tmp_path.iterdir()))), first, second, labels)), dataset, **options
    )


def test_report_finds_what_is_wrong(tmp_path) -> None:
    dataset = make_data([50] * 20, ["timeout"] * 20)
    rng = np.random.default_rng(0)
    starts = rng.permutation(whole_starts(dataset))[:800].reshape(2, 400)
    fair = rng.integers(0, 2, 400)
    cases = {
        "are ties: only 4": (*starts, np.where(np.arange(400) < 4, fair, -1)),
        "every label is a tie": (*starts, np.full(400, -1)),
        "all 400 decided labels name the second": (*starts, np.ones(400, int)),
        "reach past the end": (starts[0] + 600, starts[1], fair),
        "numbers of pairs, not of rows": (np.arange(400), starts[1], fair),
        "no better than chance": (*starts, fair),
    }
    for line, arrays in cases.items():
        assert any(line in fault for fault in report_on(tmp_path, *arrays, dataset).faults), line
    remarks = {
        "cross an episode's end": (rng.permutation(900)[:400], starts[1], fair),
        "side bias": (*starts, (np.arange(400) < 240).astype(int)),
        "occur again, 5 of them": (
            np.r_[starts[0], starts[1, :5]],
            np.r_[starts[1], starts[0, :5]],
            np.r_[fair, fair[:5]],
        ),
        "compare a segment with itself": (*(starts[[0, 0]]), fair),
        "share steps": (starts[0], starts[0] + 1, fair),
    }
    for line, arrays in remarks.items():
        assert any(line in remark for remark in report_on(tmp_path, *arrays, dataset).remarks), line


def test_agreement_is_the_share_of_true_choices(tmp_path) -> None:
    """Answers by true return, a quarter of them turned and some ties: the report counts them back."""
    dataset = make_data([50] * 20, ["timeout"] * 20)
    rng = np.random.default_rng(1)
    starts = rng.permutation(whole_starts(dataset))[:800].reshape(2, 400)
    kept = np.array(plain_rows(dataset))
    rewards = dataset.trajectories.true_rewards
    returns = [[rewards[kept[s : s + LENGTH]].sum() for s in side] for side in starts]
    better = (np.array(returns[1]) > np.array(returns[0])).astype(int)
    answers = np.where(np.arange(400) % 4 == 0, 1 - better, better)
    answers[:20] = -1
    report = report_on(tmp_path, *starts, answers, dataset)
    assert (report.compared, report.ties) == (380, 20)
    assert report.agreement == pytest.approx(np.mean(np.arange(20, 400) % 4 != 0))
    assert not report.faults
    wide = report_on(tmp_path, *starts, answers, dataset, tie_below=1.0)
    assert wide.script_ties == pytest.approx(np.mean(np.abs(np.subtract(*returns)) <= 1.0))
    shares = np.eye(2)[better][::-1]
    script = read_labels(write_uni(tmp_path / "fake", starts[0, ::-1], starts[1, ::-1], shares, "fake"))
    joined = report_on(tmp_path, *starts, answers, script=script)
    assert (joined.compared, joined.agreement) == (report.compared, report.agreement)


def test_crowds_at_chance_are_faults_and_the_others_are_not(tmp_path) -> None:
    """The rule applied to the agreement that was measured for each published set."""
    found = set()
    for row in MEASURED:
        alike = round(row.agreement * row.strict)
        first = np.arange(row.strict)
        shares = np.eye(2)[np.where(first % 2, 0, 1)]
        answers = np.where(first < alike, first % 2 == 0, first % 2 == 1).astype(int)
        seconds = first + 10 * row.strict
        script = read_labels(write_uni(tmp_path / row.dataset / "fake", first, seconds, shares, "fake"))
        labels = read_labels(write_uni(tmp_path / row.dataset / "crowd", first, seconds, answers))
        report = report_labels(labels, script=script)
        assert (report.compared, report.agreement) == (row.strict, pytest.approx(row.agreement, abs=0.01))
        found |= {row.dataset for fault in report.faults if "no better than chance" in fault}
    assert found == {"hopper-medium", "pen-human", "pen-cloned"}


class Malicious:
    """Writes a file when it is read by the standard unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: [bad], lambda bad: np.array([bad, 1], dtype=object)])
def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path, wrap) -> None:
    path, trace = tmp_path / "label_human", tmp_path / "it ran"
    path.write_bytes(pickle.dumps(wrap(Malicious(trace))))
    with pytest.raises(PrefenvsError, match="refused") as refused:
        read_array_pickle(path)
    assert "\n" not in str(refused.value)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "the trap must work, or the test shows nothing"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.ones((3, 2))), np.zeros((0, 2)), np.array([True])],
)
def test_arrays_come_back_whatever_the_protocol(tmp_path, protocol, array) -> None:
    path = tmp_path / "array.pkl"
    path.write_bytes(pickle.dumps(array, protocol))
    found = read_array_pickle(path)
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype
    path.write_bytes(pickle.dumps([np.int64(3), 4, 5.5], protocol))
    assert read_array_pickle(path).tolist() == [3, 4, 5.5]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_damaged_pickles_give_one_line(tmp_path_factory, content) -> None:
    path = tmp_path_factory.mktemp("pickles") / "array.pkl"
    path.write_bytes(content)
    message = ""
    try:
        read_array_pickle(path)
    except PrefenvsError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write_uni(p, [0, 1], [2, 3], [0, 2]), "label 2 at position 1"),
        (lambda p: write_uni(p, [0, 1], [2, 3], [[0.9, 0.9], [0, 1]], "fake"), "not two shares"),
        (lambda p: write_uni(p, [0, 1], [2], [0, 1]), "do not belong together"),
        (lambda p: write_uni(p, [0, 1], [2, 3], [0, 1, 0]), "3 labels but only 2 pairs"),
        (lambda p: write_uni(p, [0.5, 1], [2, 3], [0, 1]), "expected row numbers"),
        (lambda p: write_uni(p, [0, 1], [2, 3], []), "no label"),
        (lambda p: write_uni(write_uni(p, [0], [2], [0]), [0, 1], [2, 3], [0, 1]), "2 label files"),
        (lambda p: p / "nowhere", "there are no labels"),
        (lambda p: p.parent, "no label_human"),
    ],
)
def test_bad_files_give_one_line(tmp_path, make, message) -> None:
    with pytest.raises(PrefenvsError, match=message) as refused:
        read_labels(make(tmp_path / "x"))
    assert "\n" not in str(refused.value)


def test_rows_of_another_data_set_are_refused(tmp_path) -> None:
    dataset = make_data([12] * 3, ["timeout"] * 3)
    far = read_labels(write_uni(tmp_path / "far", [0, 5000], [2, 3], [0, 1]))
    with pytest.raises(PrefenvsError, match=r"pair 1 .* past the end of 'made-v0'"):
        label_preferences(far, dataset)
    across = read_labels(write_uni(tmp_path / "across", [0, 9], [2, 3], [0, 1]))
    with pytest.raises(PrefenvsError, match=r"1 of 2 pairs .* cross the end"):
        label_preferences(across, dataset, crossing="refuse")
    assert len(label_preferences(across, dataset)) == 1
    assert len(label_preferences(across, dataset)[0].query.segments[0]) == LENGTH
    with pytest.raises(PrefenvsError, match="none is left"):
        label_preferences(read_labels(write_uni(tmp_path / "all", [9, 9], [20, 20], [0, 1])), dataset)


def write_crossing(tmp_path) -> tuple[str, str]:
    """Labels of ten pairs, of which three cross an end in either way of counting, and the file that they are about."""
    path = tmp_path / "made-v0.hdf5"
    dataset = make_data([12] * 10, ["timeout"] * 10)
    data = dataset.trajectories
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"], file["rewards"] = data.observations, data.actions, data.true_rewards
        file["terminals"], file["timeouts"] = dataset.terminals, dataset.timeouts
    first = [0, 1, 2, 3, 4, 5, 6, 9, 9, 9]
    return str(write_uni(tmp_path / "labels", first, [22 + 11 * (i % 3) for i in range(10)], [0, 1] * 5)), str(path)


def test_pairs_across_an_end_are_counted_alike_by_report_import_and_training(tmp_path, capsys) -> None:
    from prefenvs.cli.train.labels import LabelOptions, LabelSource

    folder, data = write_crossing(tmp_path)
    main(["labels", "report", folder, "--dataset", data, "--tie-below", "1e9"])
    assert "3 of 10 pairs (30.0%) cross an episode's end: training and import leave them out" in " ".join(
        capsys.readouterr().out.split()
    )
    store = str(tmp_path / "labels.sqlite")
    main(["labels", "import", folder, "--dataset", data, "--store", store])
    assert "7 labels" in (out := capsys.readouterr().out)
    assert "3 of 10 left out" in out
    found = LabelSource(LabelOptions(folder, labels=5), 0).read(load_dataset(data))
    assert (len(found.train or []), found.left_out) == (5, {"across an episode's end": 3, "beyond --labels": 2})
    with pytest.raises(SystemExit) as stop:
        main(["labels", "import", folder, "--dataset", data, "--store", store + "2", "--crossing", "refuse"])
    assert stop.value.code == 2
    assert "--crossing drop" in capsys.readouterr().err
    assert not Path(store + "2").exists()


def test_rows_that_are_counted_in_the_wrong_way_are_refused_by_all(tmp_path, capsys) -> None:
    """Whole segments of raw rows, read as rows of the q-learning form, cross ends: a fault, and a way out."""
    _, data = write_crossing(tmp_path)
    starts = [12 * i + 8 for i in range(9)]
    folder = str(write_uni(tmp_path / "raw", starts, starts[::-1], [0, 1] * 4 + [0]))
    dataset = load_dataset(data)
    report = report_labels(read_labels(folder), dataset)
    assert any("if rows count qlearning steps" in fault for fault in report.faults)
    with pytest.raises(PrefenvsError, match="labels import --rows raw"):
        label_preferences(read_labels(folder), dataset)
    main(["labels", "import", folder, "--dataset", data, "--rows", "raw", "--store", str(tmp_path / "s.sqlite")])
    assert capsys.readouterr().out.startswith("9 labels")

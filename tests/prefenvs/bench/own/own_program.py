"""A method's program that does what its first argument says; it leaves a mark each time it is started."""

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path


def write(folder: Path, score: float, options: argparse.Namespace) -> None:
    with (folder / "evaluations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["steps", "labels", "mean_return", "success", "seconds"])
        for share in (0.0, 0.5, 1.0):
            writer.writerow([int(100 * share), int(share * (options.labels or 0)), score * share, "", share])
    (folder / "summary.json").write_text(json.dumps({"score": score}))


def main() -> None:  # noqa: C901 - one branch for each kind
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    for name in ("--task", "--oracle", "--resume", "--dataset", "--preferences"):
        parser.add_argument(name)
    for name in ("--seed", "--labels"):
        parser.add_argument(name, type=int, default=0)
    parser.add_argument("--score", type=float, default=1.0)
    parser.add_argument("--folder")
    options = parser.parse_args()
    folder = Path(options.resume or options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "starts.txt").open("a") as marks:
        marks.write("resumed\n" if options.resume else "started\n")
    starts = (folder.parent / "starts.txt").read_text().count("\n")
    kind = options.kind
    if kind == "crash" or (kind == "crash-once" and starts == 1):
        print("it goes well so far")
        raise RuntimeError("the pendulum fell off")
    if kind == "refuse":
        print("prefenvs: labels must be at least 1, got 0", file=sys.stderr)
        raise SystemExit(2)
    if kind == "full":
        raise OSError(28, "No space left on device")
    if kind == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder.parent / "child.txt").write_text(str(child.pid))
        time.sleep(600)
    if kind == "daemon":
        # Twice away from its parent: out of the process group, and out of the tree of processes.
        sleep = "import time; time.sleep(600)"
        start = f"subprocess.Popen([sys.executable, '-c', '{sleep}'], start_new_session=True, stdout=-3)"
        child = subprocess.check_output([sys.executable, "-c", f"import subprocess, sys; print({start}.pid)"])
        (folder.parent / "child.txt").write_text(child.decode())
    if kind == "hog":
        held = []
        while True:
            held.append(bytearray(30_000_000))
            time.sleep(0.02)
    if kind == "patient" and not options.resume:
        (folder / "run.json").write_text("{}")

        def stop(*_: object) -> None:
            (folder / "checkpoint").mkdir(exist_ok=True)
            (folder / "checkpoint" / "state.json").write_text("{}")
            raise SystemExit(130)

        signal.signal(signal.SIGINT, stop)
        (folder.parent / "ready").touch()
        time.sleep(600)
    if kind == "silent":
        return
    write(folder, options.score + options.seed, options)


main()

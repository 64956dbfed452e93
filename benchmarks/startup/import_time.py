"""Processor time of `import prefenvs` and `prefenvs --help`, and what each imported package takes of it.

    python -m benchmarks.startup.import_time [--rounds 5] [--top 12]

Each round is a fresh process; the minimum over the rounds is printed, since other work on the machine only adds to it.
Limits on a quiet machine: 0.5 s and 1 s. By package: `python -X importtime`, once, on the clock, the own time of its
modules.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter

CASES = {
    "import prefenvs": (0.5, ["-c", "import prefenvs"]),
    "prefenvs --help": (1.0, ["-m", "prefenvs", "--help"]),
}
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def processor_seconds(arguments: list[str]) -> float:
    """Run Python with these arguments; returns its user and system time in seconds."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def by_package(arguments: list[str]) -> Counter[str]:
    """Return the microseconds that the modules of each package take themselves; prefenvs's by folder."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    taken = Counter[str]()
    for microseconds, module in LINE.findall(done.stderr):
        parts = module.split(".")
        taken[".".join(parts[: 2 if parts[0] == "prefenvs" else 1])] += int(microseconds)
    return taken


def main() -> None:
    """Print the table; ends with status 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--top", type=int, default=12)
    args = parser.parse_args()
    slow = []
    for name, (limit, arguments) in CASES.items():
        seconds = min(processor_seconds(arguments) for _ in range(args.rounds))
        print(f"{name}: {seconds:.2f} s of processor time, limit {limit} s")
        for package, microseconds in by_package(arguments).most_common(args.top):
            print(f"  {microseconds / 1_000:7.1f} ms  {package}")
        if seconds > limit:
            slow.append(name)
    if slow:
        raise SystemExit(f"over the limit: {', '.join(slow)}")


if __name__ == "__main__":
    main()

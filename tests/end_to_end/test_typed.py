"""The types are found in a script of a user, where the package is installed from a checkout."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_mypy_finds_every_part_through_the_path_of_an_editable_install(tmp_path: Path) -> None:
    """An editable install writes the folder src into a .pth file; MYPYPATH stands for that here."""
    assert [path.name for path in (ROOT / "src").iterdir() if not path.name.endswith(".egg-info")] == ["prefenvs"]
    script = tmp_path / "script.py"
    script.write_text("import prefenvs.agents\nimport prefenvs.oracles\nimport prefenvs.videos\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=skip", "--config-file=", str(script)]
    environment = {"MYPYPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "prefenvs" / "py.typed").is_file()

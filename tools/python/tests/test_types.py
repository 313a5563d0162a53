"""What the package says of its types: held to itself, to the compiled half, and to how it is used here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import readme_example

HERE = Path(__file__).parent


def run(*command: str, folder: Path | None = None) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_and_its_use_are_typed(tmp_path: Path) -> None:
    page = (HERE.parents[2] / "docs/src/python.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(programs) >= 5
    names = []
    for number, program in enumerate([*programs, readme_example()]):
        names.append(f"use{number}.py")
        (tmp_path / names[-1]).write_text(f"import devrx, numpy as np\n{program}")
    cache = f"--cache-dir={HERE.parents[2] / 'target/python/mypy'}"
    run("mypy", "--strict", cache, "--package", "devrx", folder=tmp_path)
    run("mypy", "--strict", cache, *names, folder=tmp_path)


def test_the_stub_is_the_compiled_half(tmp_path: Path) -> None:
    # Python 3.11 has the buffer protocol, and no method for it.
    (tmp_path / "allowed").write_text(r"devrx\._devrx\.Payload\.__buffer__")
    allowed = ("--allowlist", "allowed", "--ignore-unused-allowlist")
    run("mypy.stubtest", *allowed, "devrx._devrx", folder=tmp_path)

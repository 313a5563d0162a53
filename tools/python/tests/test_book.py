"""The programs of the book, as they are printed."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Cable, udp, wait_for

import devrx

PAGE = (Path(__file__).parents[3] / "docs/src/python.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def packet(number: int) -> bytes:
    """For the page's frames: a number of 4 bytes, then data."""
    return udp(struct.pack("!I", number) + bytes(1024))


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_book_runs(cable: Cable, number: int) -> None:
    program = PROGRAMS[number]
    makes = "devrx.attach(" in program
    if not makes:
        cable.attach(size="16M", keep=True, name="camera").close()
    try:
        running = subprocess.Popen(
            [sys.executable, "-c", f"import devrx, numpy as np\n{program}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DEVRX_SOCKET": str(cable.socket), "PYTHONUNBUFFERED": "1"},
        )
        wait_for("it receives, or is done", lambda: running.poll() is not None or receives(cable))
        cable.send_all((packet(at) for at in range(600)), rate=20000)
        time.sleep(0.3)
        # Most go on until somebody stops them.
        running.send_signal(signal.SIGINT)
        said, complained = running.communicate(timeout=5)
        assert running.returncode == 0 or complained.rstrip().endswith("KeyboardInterrupt"), complained
        assert said or "print(" not in program
    finally:
        if not makes:
            devrx.detach("camera", socket=cable.socket)


def receives(cable: Cable) -> bool:
    entries = devrx.stats(socket=cable.socket)["attachments"]
    return any(entry["name"] == "camera" and entry["state"] == "running" for entry in entries)

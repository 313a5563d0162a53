"""The real daemon on one end of a cable between two network namespaces, and traffic from the other."""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import devrx

NEAR, FAR = "eth0", "px0"
NEAR_MAC, FAR_MAC = bytes([2, 0, 0, 0, 0, 0x0B]), bytes([2, 0, 0, 0, 0, 0x0A])
LIMIT = 60
"""Seconds that one test may take: those of types read a lot the first time."""


def sh(line: str) -> str:
    """Runs a command line, split at spaces, which must succeed."""
    done = subprocess.run(line.split(), capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"{line}: {done.stderr}{done.stdout}"
    return done.stdout


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def udp(payload: bytes, port: int = 5000) -> bytes:
    """An Ethernet frame with a UDP datagram; without a UDP checksum, as IPv4 allows."""
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, bytes([10, 77, 0, 2]), bytes([10, 77, 0, 1])
    )
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    head = struct.pack("!HHHH", 4000, port, 8 + len(payload), 0)
    return NEAR_MAC + FAR_MAC + b"\x08\x00" + ip + head + payload


def body(number: int, length: int = 200) -> bytes:
    """What packet `number` carries: its number, and bytes that depend on it."""
    return struct.pack("!Q", number) + bytes((number * 7 + at) & 0xFF for at in range(8, length))


class Cable:
    """The namespaces, the daemon, and what is sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.binary = os.environ["DEVRX_BIN"]
        self.socket = folder / "devrx.sock"
        # The name says whose it is, so that the tests in Rust sweep it away where a killed run left it.
        self.near, self.far = (f"devrx-tests-{os.getpid()}-py-{end}" for end in ("near", "far"))
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        for name in (self.near, self.far):
            sh(f"ip netns add {name}")
        sh(
            f"ip -n {self.near} link add {NEAR} mtu 9000 address {NEAR_MAC.hex(':')} numrxqueues 2 type veth "
            f"peer name {FAR} mtu 9000 address {FAR_MAC.hex(':')} netns {self.far}"
        )
        for name, interface in ((self.near, NEAR), (self.far, FAR)):
            # Not a frame moves that a test did not send.
            subprocess.run(
                ["ip", "netns", "exec", name, "sh", "-c", f"echo 1 > /proc/sys/net/ipv6/conf/{interface}/disable_ipv6"],
                timeout=10,
            )
            sh(f"ip -n {name} link set {interface} arp off up")
        with open(self.folder / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(
                ["ip", "netns", "exec", self.near, "setpriv", "--pdeathsig", "KILL", "--"]
                + [self.binary, "run", "--nic", f"afxdp:{NEAR}", "--socket", str(self.socket)],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 10
        while True:
            try:
                devrx.stats(socket=self.socket)
                return
            except devrx.Unreachable:
                assert time.monotonic() < end and self.daemon.poll() is None, self.log()
                time.sleep(0.02)

    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.terminate()
            try:
                self.daemon.wait(5)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait(5)
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], timeout=10, capture_output=True)

    def send(self, frames: Iterable[bytes], rate: int = 20000) -> subprocess.Popen[str]:
        """Starts sending frames."""
        descriptor, path = tempfile.mkstemp(suffix=".pcap", dir=self.folder)
        with open(descriptor, "wb") as file:
            file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            for frame in frames:
                file.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)
        return subprocess.Popen(
            ["ip", "netns", "exec", self.far, "setpriv", "--pdeathsig", "KILL", "--"]
            + [self.binary, "send", "--interface", FAR, "--pcap", path, "--rate", str(rate)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def send_all(self, frames: Iterable[bytes], rate: int = 20000) -> None:
        """Sends frames."""
        sender = self.send(frames, rate)
        said, _ = sender.communicate(timeout=15)
        assert sender.returncode == 0, said

    def attach(self, size: int | str = "4M", name: str = "py", **more: object) -> devrx.Receiver:
        """An attachment for UDP port 5000."""
        options = {"flows": ["udp,dst-port=5000"], **more}
        end = time.monotonic() + 10
        while True:
            try:
                return devrx.attach(name, nic=NEAR, size=size, socket=self.socket, **{"queue": 0, **options})  # type: ignore[arg-type]
            except devrx.Refused as error:
                # The kernel lets go of the socket before when it comes to that, which on a busy machine takes longer than the daemon waits.
                if "EBUSY" not in str(error) or time.monotonic() > end:
                    raise


@pytest.fixture(scope="session")
def cable() -> Iterator[Cable]:
    if "DEVRX_BIN" not in os.environ:
        pytest.skip("DEVRX_BIN names no devrx program: run this by `cargo xtask wheel --test`")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    folder = Path(tempfile.mkdtemp(prefix="devrx-py-"))
    made = Cable(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Ends a test that hangs, and one that hangs where no signal is seen, with all of them."""

    def over(*_: object) -> None:
        raise TimeoutError(f"the test took more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT)
    faulthandler.dump_traceback_later(LIMIT + 15, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def wait_for(what: str, true: object, seconds: float = 3) -> None:
    """Waits until `true()`."""
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.01)


def attached(cable: Cable, name: str) -> bool:
    """Whether there is such an attachment."""
    entries = devrx.stats(socket=cable.socket)["attachments"]
    return any(entry["name"] == name and entry["state"] == "running" for entry in entries)


def readme_example() -> str:
    """The Python program in README.md."""
    readme = Path(__file__).parents[3] / "README.md"
    found = re.findall(r"```python\n(.*?)```", readme.read_text(), re.S)
    assert len(found) == 1, "README.md has one Python example"
    return str(found[0])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says the result once more, as `cargo xtask test` reads it: the way libtest does."""
    found = terminalreporter.stats
    skipped = found.get("skipped", [])
    failed = found.get("failed", []) + found.get("error", [])
    for report in skipped:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        terminalreporter.write_line(f"{report.nodeid} ... skipped: {report.nodeid}: {reason}")
    if failed:
        terminalreporter.write_line("failures:")
        for report in failed:
            terminalreporter.write_line(f"    {report.nodeid.replace(' ', '_')}")
        terminalreporter.write_line("")
    passed = len(found.get("passed", [])) + len(skipped)
    word = "FAILED" if failed else "ok"
    terminalreporter.write_line(f"test result: {word}. {passed} passed; {len(failed)} failed; 0 ignored")

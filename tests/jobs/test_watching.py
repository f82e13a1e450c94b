"""Logs watched as they come: folders, growing files, pipes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ktriage.case.store import open_store
from ktriage.cli import main
from ktriage.machine.image import busybox

sys.path.insert(0, str(Path(__file__).parents[1] / "case"))
import postgres

REMOTE = Path("/lib/systemd/systemd-journal-remote")

OOPS = """[    1.000000] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:{function}+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  caller+0x1be/0x22c
[   12.345686] ---[ end trace 0000000000000000 ]---
"""


@pytest.fixture
def watching(tmp_path) -> Iterator:
    """Return what watches sources, as a process whose lines can be read."""
    started = []

    def start(*sources: Path | str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "ktriage",
            "watch",
            "--json",
            "--case",
            tmp_path / "case.db",
            *sources,
        ]
        started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                bufsize=1,
                env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_a_growing_file_and_a_pipe(tmp_path, watching):
    folder, file, pipe = tmp_path / "logs", tmp_path / "console.log", tmp_path / "serial"
    folder.mkdir()
    (folder / "old.log").write_text(OOPS.format(function="old"))
    os.utime(folder / "old.log", (1, 1))
    file.write_text("[    0.000000] Linux version 6.1.0 (a@b) #1\n")
    os.mkfifo(pipe)
    process = watching(folder, file, pipe)
    with pipe.open("w") as serial:
        serial.write(OOPS.format(function="by_pipe"))
        serial.flush()
        with file.open("a") as log:
            log.write(OOPS.format(function="grown"))
        (folder / "new").mkdir()
        (folder / "new" / "one.log").write_text(OOPS.format(function="fresh"))
        seen = [json.loads(process.stdout.readline()) for _ in range(4)]
    found = {one["title"].rpartition(" ")[2]: Path(one["source"]).name for one in seen}
    assert found == {"old": "old.log", "by_pipe": "serial", "grown": "console.log", "fresh": "one.log"}
    assert all(one["new"] for one in seen)
    process.terminate()
    assert process.wait(timeout=20) == 0
    store = open_store(tmp_path / "case.db")
    assert store.bugs()[1] == 4


def test_a_watch_that_begins_anew_reads_no_crash_twice(tmp_path, watching):
    log = tmp_path / "console.log"
    log.write_text("[    0.000000] Linux version 6.1.0 (a@b) #1\n")

    def add(function: str, second: int) -> None:
        with log.open("a") as file:
            file.write(OOPS.format(function=function).partition("\n")[2].replace("   12.", f"{second:5}."))

    def told(process: subprocess.Popen) -> str:
        return json.loads(process.stdout.readline())["title"].rpartition(" ")[2]

    def end(process: subprocess.Popen) -> None:
        process.terminate()
        assert process.wait(timeout=20) == 0

    process = watching(log)
    for second, function in ((100, "first"), (400, "second")):
        add(function, second)
        assert told(process) == function
    end(process)
    process = watching(log)
    add("third", 900)
    assert told(process) == "third"
    end(process)
    store = open_store(tmp_path / "case.db")
    assert [bug.crashes for bug in store.bugs()[0]] == [1, 1, 1]
    store.close()
    # A store that was begun anew gets all of it.
    (tmp_path / "case.db").unlink()
    process = watching(log)
    assert [told(process) for _ in range(3)] == ["first", "second", "third"]


def test_a_stream_that_ends_ends_it(tmp_path, watching):
    pipe = tmp_path / "serial"
    os.mkfifo(pipe)
    process = watching(pipe)
    pipe.write_text(OOPS.format(function="last"))
    assert json.loads(process.stdout.readline())["title"].endswith("last")
    began = time.monotonic()
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - began < 20


@pytest.mark.skipif(postgres.binaries() is None, reason="PostgreSQL")
def test_a_database_that_goes_away_and_comes_back(tmp_path, watching):
    log = tmp_path / "console.log"
    log.write_text("[    0.000000] Linux version 6.1.0 (a@b) #1\n")
    with postgres.server() as server:
        process = watching("--case", server.url, log)
        with log.open("a") as file:
            file.write(OOPS.format(function="before"))
        assert json.loads(process.stdout.readline())["title"].endswith("before")
        server.kill()
        with log.open("a") as file:
            file.write(OOPS.format(function="without").replace("[   12.", "[  912."))
        assert "not kept yet" in process.stderr.readline()
        server.start()
        seen = json.loads(process.stdout.readline())
        assert (seen["title"].rpartition(" ")[2], seen["new"]) == ("without", True)
        process.terminate()
        assert process.wait(timeout=20) == 0


def eventually(holds) -> None:
    """Wait until ``holds`` returns something true."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def serial_line(place: Path) -> tuple[int, int]:
    """Make a terminal that ``place`` leads to, as udev makes a device; return its two ends."""
    master, slave = pty.openpty()
    place.symlink_to(os.ttyname(slave))
    return master, slave


def raw(slave: int) -> bool:
    attributes = termios.tcgetattr(slave)
    return not attributes[3] & (termios.ICANON | termios.ECHO) and attributes[5] == termios.B57600


def test_a_serial_line_that_is_unplugged_and_comes_back(tmp_path, watching):
    place = tmp_path / "ttyUSB0"
    master, slave = serial_line(place)
    process = watching("--baud", "57600", place)
    eventually(lambda: raw(slave))
    noise = b"\x00\xff\xfe\x00garb\x1b[0m\r\n\r\n"
    os.write(master, noise + OOPS.format(function="plugged").replace("\n", "\r\n").encode())
    seen = json.loads(process.stdout.readline())
    assert (seen["title"].rpartition(" ")[2], seen["source"]) == ("plugged", str(place))
    # What the machine says is not said back to it: there, a getty would take it for a login.
    assert select.select([master], [], [], 0)[0] == []
    place.unlink()
    os.close(master)
    os.close(slave)
    assert "went away" in process.stderr.readline()
    master, slave = serial_line(place)
    assert "is back" in process.stderr.readline()
    os.write(master, OOPS.format(function="again").replace("\n", "\r\n").encode())
    assert json.loads(process.stdout.readline())["title"].endswith("again")
    process.terminate()
    assert process.wait(timeout=20) == 0
    os.close(master)
    os.close(slave)


def test_a_serial_line_that_somebody_else_listens_to(tmp_path, capsys):
    place = tmp_path / "ttyUSB0"
    master, slave = serial_line(place)
    fcntl.flock(slave, fcntl.LOCK_EX)
    assert main(["watch", "--case", str(tmp_path / "case.db"), str(place)]) == 2
    assert capsys.readouterr().err == f"ktriage watch: {place}: another program listens to it\n"
    assert main(["watch", "--case", str(tmp_path / "case.db"), "--baud", "57601", str(place)]) == 2
    assert "57601" in capsys.readouterr().err
    os.close(master)
    os.close(slave)


@pytest.fixture
def initrd(tmp_path) -> Path:
    """Return an image whose init crashes the kernel."""
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    shutil.copy(busybox(), root / "busybox")
    (root / "init").write_text(
        "#!/busybox sh\n/busybox mount -t proc proc /proc\necho c >/proc/sysrq-trigger\n"
    )
    (root / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(root)}\n" for path in root.rglob("*"))
    command = ["cpio", "--quiet", "-o", "-H", "newc"]
    archive = subprocess.run(command, input=names.encode(), cwd=root, capture_output=True, check=True)
    (tmp_path / "initrd").write_bytes(archive.stdout)
    return tmp_path / "initrd"


@pytest.mark.vm
@pytest.mark.parametrize("line", ["pty", "unix:{}/console.sock,server=on,wait=on"])
def test_a_kernel_that_dies_on_its_console(tmp_path, watching, kernel, initrd, line):
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "256M", "-display", "none", "-no-reboot", "-nodefaults",
         "-S", "-monitor", "stdio", "-serial", line.format(tmp_path), "-kernel", kernel.image,
         "-initrd", initrd, "-append", "console=ttyS0 panic=-1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    try:
        # QEMU begins when somebody is at the socket, and does not know it of a terminal.
        place = tmp_path / "console.sock"
        if line == "pty":
            place = next(word for said in qemu.stdout for word in said.split() if "/dev/pts/" in word)
        eventually(Path(place).exists)
        process = watching("--baud", "57600", place)
        if line == "pty":
            with Path(place).open() as terminal:
                eventually(lambda: raw(terminal.fileno()))
        qemu.stdin.write("cont\n")
        seen = json.loads(process.stdout.readline())
        assert seen["source"] == str(place)
        assert seen["title"] == "kernel panic: sysrq triggered crash"
        assert "went away" in process.stderr.readline()
        assert qemu.wait(timeout=60) == 0
    finally:
        qemu.kill()
        qemu.communicate()


def journal_of(log: str, boot: str, later: float) -> bytes:
    """Return a log as journald would hand it on (systemd.io/JOURNAL_EXPORT_FORMATS), ``later`` seconds on."""
    entries = []
    for line in log.splitlines():
        stamp, _, text = line.partition("] ")
        micros = int((float(stamp.strip("[ ")) + later) * 1e6)
        fields = {
            "__REALTIME_TIMESTAMP": int(time.time() * 1e6), "__MONOTONIC_TIMESTAMP": micros,
            "_BOOT_ID": boot, "_MACHINE_ID": boot, "_HOSTNAME": "box", "_TRANSPORT": "kernel",
            "_SOURCE_MONOTONIC_TIMESTAMP": micros, "SYSLOG_IDENTIFIER": "kernel", "MESSAGE": text,
        }  # fmt: skip
        entries.append("".join(f"{name}={value}\n" for name, value in fields.items()))
    return "\n".join(entries).encode() + b"\n"


def listeners(place: Path) -> list[int]:
    """Return the processes that have a journal below ``place`` open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()).startswith(str(place)):
                found.append(int(link.parts[2]))
    return found


@pytest.mark.skipif(not (REMOTE.exists() and shutil.which("journalctl")), reason="systemd-journal-remote")
def test_journals_of_other_machines(tmp_path, watching):
    folder = tmp_path / "remote"
    folder.mkdir()
    one, other = "a" * 32, "b" * 32

    def send(function: str, boot: str, later: float) -> None:
        subprocess.run(
            [REMOTE, "-o", folder / f"{boot}.journal", "-"], check=True, capture_output=True,
            input=journal_of(OOPS.format(function=function), boot, later),
        )  # fmt: skip

    send("before", one, 0)
    process = watching(f"journal:{folder}")
    eventually(lambda: listeners(folder))
    time.sleep(1)  # until it is at their ends
    send("first", one, 100)
    send("second", other, 0)
    seen = [json.loads(process.stdout.readline()) for _ in range(2)]
    found = {crash["title"].rpartition(" ")[2]: crash["source"] for crash in seen}
    assert found == {
        "first": f"journal:{folder} box boot {one}",
        "second": f"journal:{folder} box boot {other}",
    }
    process.kill()
    process.wait()
    eventually(lambda: not listeners(folder))


def test_a_missing_source_is_said(tmp_path, capsys):
    assert main(["watch", "--case", str(tmp_path / "case.db"), str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_import_fails_on_what_is_new(tmp_path, capsys):
    log = tmp_path / "a.log"
    log.write_text(OOPS.format(function="alpha"))
    command = ["import", "--case", str(tmp_path / "case.db"), "--exit-code", str(log)]
    assert main(command) == 1
    assert main(command) == 0
    log.write_text(OOPS.format(function="alpha").replace("81", "82"))
    assert main(command) == 0
    capsys.readouterr()

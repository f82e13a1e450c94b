"""Recording on the running kernel, by ktriage in a guest: tracefs is put back, whatever ends it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from live_python import live_python

from ktriage.kernel import FolderSources, Kernel, build_module
from ktriage.machine import End, Guest, GuestSpec, Plan, prepare, run

MODULES = Path(__file__).parents[1] / "modules"
MAIN = b"import sys\nfrom ktriage.cli import main\nsys.exit(main(sys.argv[1:]))\n"
SETUP = """
export PYTHONHOME=/python PYTHONPATH=/python
cd /tmp
T=/sys/kernel/tracing
record() { python3 -S /python/main.py refs record "$@" 2>&1; echo "code $?"; }
left() { ls $T/instances; cat $T/kprobe_events; }
up() { until grep -qs 1 $T/instances/ktriage*/events/$1/enable; do sleep 0.1; done; }
"""
CRASHED = """
echo == killed
python3 -S /python/main.py refs record --get get_device --put put_device -o killed 2>/dev/null &
up 'ktriage*/put_put_device'
kill -9 $!; wait $!
left
echo == next
echo 'echo virtio0 > /sys/bus/virtio/drivers/virtio_blk/bind' > again
record --get get_device --put put_device:1 -o - -- sh again
left
"""
WRONG = """
echo == lib
record --get kobject_get --put kobject_put -o -
echo == nonsense
record --get nonsense --put put_device -o -
echo == unloaded
record --module forgetful -o -
echo == unmounted
umount $T; umount /sys/kernel/debug
record --module lender --wait -o -
mount -t tracefs tracefs $T
left
"""
STOPPED = """
echo == stopped
insmod /ktriage/lender.ko
python3 -S /python/main.py refs record --module lender -o - 2>&1 &
up module/module_put
insmod /ktriage/hasty.ko
echo 1 > /proc/hasty
kill -INT $!; wait $!
echo "code $?"
left
"""


@pytest.fixture(scope="module")
def says(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run all of it in one guest, for the interpreter starts slowly there; return what each part printed."""
    guest: Guest = prepare(GuestSpec(kernel.image, kernel.modules, memory_mib=512))
    files = live_python("ktriage.cli.refs", "ktriage.cli.refs_record", "ktriage.refs.record")
    files["python/main.py"] = MAIN
    for folder, names in (("lender", ("lender", "hasty")), ("shelf", ("shelf",))):
        build = build_module(FolderSources(MODULES / folder), kernel=kernel, name=folder)
        files |= {f"ktriage/{name}.ko": build.folder / f"{name}.ko" for name in names}
    files["ktriage/all"] = (SETUP + CRASHED + STOPPED + WRONG).encode()
    place = tmp_path_factory.mktemp("live")
    left = run(guest, Plan(("step all",), files), place, timeout=300)
    text = (place / "output.log").read_text().replace("\r", "")
    assert left.end is End.DONE, text
    parts = re.split(r"^== (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.vm
@pytest.mark.matrix
def test_what_a_killed_recorder_leaves_is_removed_by_the_next(says: dict[str, str]) -> None:
    assert len(re.findall(r"^ktriage-\d+-\d+$", says["killed"], re.MULTILINE)) == 1
    assert len(re.findall(r"^p:ktriage_\d+_\d+/(?:get|put)_", says["killed"], re.MULTILINE)) == 2
    after = says["next"].split("code 0\n")
    assert after[1:] == [""]
    assert "get_get_device: (get_device+0x" in says["next"]
    assert re.search(r"obj=0xffff[0-9a-f]{12} .*\n.*<stack trace>\n => ", says["next"])


@pytest.mark.vm
@pytest.mark.matrix
def test_an_interrupted_recording_ends_with_what_it_has(says: dict[str, str]) -> None:
    assert "module_get: lender call_site=resolve_symbol refcnt=2" in says["stopped"]
    assert " => hasty_borrow+0x" in says["stopped"]
    assert "[hasty]" in says["stopped"]
    assert says["stopped"].endswith("code 0\n")


@pytest.mark.vm
@pytest.mark.matrix
@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("lib", "kobject_get can't be probed: it was built without tracing"),
        ("nonsense", "no function nonsense in this kernel"),
        ("unloaded", "no module forgetful is loaded"),
        ("unmounted", "no tracefs at /sys/kernel/tracing"),
    ],
)
def test_what_can_not_be_recorded_is_said_in_one_line(says: dict[str, str], part: str, message: str) -> None:
    said, code, left = says[part].rpartition("code 2\n")
    assert code
    assert left == ""
    lines = [line for line in said.splitlines() if line.startswith("ktriage refs: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in said

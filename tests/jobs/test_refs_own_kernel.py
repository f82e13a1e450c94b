"""References that need an own kernel: kobjects, which Debian's can't probe, and netdevices with trackers."""

from __future__ import annotations

from pathlib import Path

import pytest
from refs_cases import lab, modules, run_case

from ktriage.kernel import Kernel
from ktriage.kernel.config import GUEST, Config
from ktriage.kernel.tree import build_tree, packaged_source

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(3600)]

FRAGMENT = Path(__file__).parents[1] / "fixtures/refs/kernel.config"


@pytest.fixture(scope="module")
def own() -> Kernel:
    """Return a small kernel with kprobes everywhere and ref_tracker; building it takes minutes, once."""
    config = Config("small", (GUEST, FRAGMENT.read_text()))
    build = build_tree(packaged_source("linux-source-6.1"), config)
    assert build.kernel, build.error
    return build.kernel


def named(kernel: Kernel) -> str:
    return f'image = "{kernel.image}"\nrelease = "{kernel.release}"'


def test_a_kobject_that_is_never_freed_names_who_kept_it(own: Kernel, tmp_path: Path) -> None:
    use = "insmod /ktriage/shelf.ko damaged=5; for i in $(seq 0 23) 5 1; do echo $i > $R; done"
    files = modules(own, "shelf", "shelf")
    refs = 'get = ["kobject_create_and_add:ret+56", "kobject_get:1+56"]\nput = "kobject_put:1+56"'
    case = run_case(
        lab(tmp_path, (f"R=/sys/kernel/shelf/read; {use}; rmmod shelf",), files, refs, kernel=named(own))
    )
    [lost] = case.wrong.values()
    assert (lost.first, lost.last) == (0, 2)
    assert [(one.function, one.holder, one.count) for one in lost.unmatched_gets] == [
        ("shelf_find", "shelf", 2)
    ]
    assert not lost.unmatched_puts


def test_a_netdevice_that_can_not_go_names_who_keeps_it(own: Kernel, tmp_path: Path) -> None:
    use = "cd /ktriage; insmod dummy.ko; insmod keeper.ko; ip link set dummy0 up; echo dummy0 > /proc/keeper"
    go = "ip link set dummy0 down; echo dummy0 > /proc/keeper; ip link del dummy0 & sleep 15"
    refs = 'get = "ref_tracker_alloc:2"\nput = "ref_tracker_free:2"'
    files = modules(own, "keeper", "keeper")
    assert own.headers
    files["/ktriage/dummy.ko"] = own.headers / "drivers/net/dummy.ko"
    case = run_case(lab(tmp_path, (f"{use}; {go}",), files, refs, kernel=named(own)))
    console = (Path(str(case.outcome.directory)) / "console.log").read_text()
    assert "unregister_netdevice: waiting for dummy0 to become free" in console
    kept = [one for account in case.accounts.values() for one in account.holders]
    assert [(one.holder, one.function, one.count) for one in kept] == [("keeper", "keeper_look", 1)]

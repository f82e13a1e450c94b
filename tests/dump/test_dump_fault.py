"""Bad pointers in real guests: each must be named as the source names it, and what it points into told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from guests import Dumped, dump_after, module_file

from ktriage.cli import main
from ktriage.dump import open_vmcore
from ktriage.dump.dataflow import Operand, address_of, decode
from ktriage.dump.fault import Fault, find_fault
from ktriage.dump.members import member_at
from ktriage.dump.summary import summarize
from ktriage.kernel import Kernel
from ktriage.machine import Guest, GuestSpec, prepare


@pytest.fixture(scope="module")
def guest(debug_kernel: Kernel) -> Guest:
    return prepare(GuestSpec(kernel=debug_kernel.image, modules=debug_kernel.modules))


@pytest.fixture(scope="module")
def died(guest, debug_kernel, tmp_path_factory):
    """Return what makes a guest die of a case, once each."""
    made: dict[str, Dumped] = {}

    def die(how: str) -> Dumped:
        if how not in made:
            folder = tmp_path_factory.mktemp(how)
            made[how] = dump_after(guest, debug_kernel, folder, "badread", [f"echo {how} >/proc/badread"])
        return made[how]

    return die


def fault_of(dumped: Dumped) -> Fault:
    core = open_vmcore(dumped.vmcore, dumped.kernel.vmlinux, dumped.module)
    fault = find_fault(core)
    assert fault is not None, core.notes
    return fault


@pytest.mark.vm
@pytest.mark.parametrize(
    ("how", "access", "target", "bad", "chain"),
    [
        ("element", "read", "ring->count", "ring is NULL", ["card->rings[0]", "card"]),
        (
            "chain", "write", "card->parent->item->value", "card->parent->item is NULL",
            ["card->parent->item", "card->parent", "card"],
        ),
        (
            "call", "call", "card->ops->start()", "card->ops->start is NULL",
            ["card->ops->start", "card->ops", "card"],
        ),
        (
            "error", "read", "ring->count", "ring is an error that was returned as a pointer: -ENODEV",
            ["ring"],
        ),
        ("global", "read", "other_card->num_rings", "other_card is NULL", ["other_card"]),
    ],
)  # fmt: skip
def test_the_way_to_the_bad_pointer(died, how, access, target, bad, chain):
    fault = fault_of(died(how))
    assert (fault.kind, fault.target, fault.bad) == (access, target, bad)
    assert [link.expression for link in fault.chain] == chain
    assert all(link.certain for link in fault.chain)
    assert fault.where.function == f"badread_{how}"
    source = (Path(__file__).parents[1] / "modules/badread/badread.c").read_text().splitlines()
    assert fault.where.line
    assert f"badread_{how}(" in "\n".join(source[fault.where.line - 10 : fault.where.line])


@pytest.mark.vm
def test_an_array_is_told_as_a_whole_and_objects_by_their_cache(died):
    fault = fault_of(died("element"))
    element, card = fault.chain
    assert element.elements == "all 8 elements of card->rings are NULL"
    assert (element.variable, element.value, element.now) == ("ring", 0, 0)
    assert card.object == "an object of kmalloc-192, in use"
    assert "all 8 elements" in fault.sentence


@pytest.mark.vm
def test_a_freed_object_is_named(died):
    fault = fault_of(died("freed"))
    assert fault.target == "item->ring->count"
    assert [link.freed for link in fault.chain] == [False, True, False]
    assert fault.chain[1].expression == "card->item"
    assert "item is an object of kmalloc-32, which is free" in fault.sentence


@pytest.mark.vm
def test_a_deleted_list_entry_is_named(died):
    fault = fault_of(died("list"))
    assert "item->entry.next is LIST_POISON1" in fault.bad
    assert fault.kind == "write"


@pytest.mark.vm
def test_an_oops_without_a_panic_is_told_from_what_it_printed(guest, debug_kernel, tmp_path):
    commands = ["echo 0 >/proc/sys/kernel/panic_on_oops", "echo element >/proc/badread"]
    dumped = dump_after(guest, debug_kernel, tmp_path / "it", "badread", commands, timeout=10)
    core = open_vmcore(dumped.vmcore, debug_kernel.vmlinux, dumped.module)
    assert find_fault(core) is None
    _, crashes, _ = summarize(core)
    fault = find_fault(core, crashes)
    assert fault is not None, core.notes
    assert fault.bad == "ring is NULL"
    assert fault.chain[0].elements == "all 8 elements of card->rings are NULL"


@pytest.mark.vm
def test_without_the_modules_file_the_registers_are_told(died):
    dumped = died("chain")
    core = open_vmcore(dumped.vmcore, dumped.kernel.vmlinux)
    fault = find_fault(core)
    if fault is not None:
        assert fault.operand == "rax + 0x18"
        assert "NULL" in fault.bad


@pytest.mark.vm
def test_the_summary_says_it(died, capsys):
    dumped = died("element")
    assert main(dumped.arguments) == 0
    assert "ring is NULL; all 8 elements of card->rings are NULL" in capsys.readouterr().out
    assert main([*dumped.arguments, "--json"]) == 0
    (fault,) = [f for f in map(json.loads, capsys.readouterr().out.splitlines()) if f["kind"] == "fault"]
    assert fault["access"] == "read"
    assert fault["chain"][0]["expression"] == "card->rings[0]"


@pytest.mark.vm
def test_members_are_found_by_offset(died, debug_kernel):
    core = open_vmcore(died("element").vmcore, debug_kernel.vmlinux, module_file(debug_kernel, "badread"))
    card = core.program.type("struct card")
    assert member_at(card, 0x18 + 8 * 3, 8).path == ".rings[3]"
    assert member_at(card, 0x80, 8).path == ".items.prev"
    assert member_at(card, 0x58, 4).path == ".num_rings"
    assert member_at(card, 0x58, 2) is None
    assert member_at(card, 0x88, 8) is None
    assert member_at(card, -8, 8) is None


def test_a_register_is_followed_through_jumps():
    # 0: test esi,esi; 2: je 9; 4: mov rax,[rdi+8]; 8: nop; 9: mov ecx,[rax+4]; c: ret
    function = decode(bytes.fromhex("85f6 7405 488b4708 90 8b4804 c3".replace(" ", "")), 0x1000)
    use = function.place(0x1009)
    assert use is not None
    assert function.origins("rax", use) == {-1, function.place(0x1004)}
    step = function.steps[use]
    assert step.touches == Operand("rax", None, 1, 4, 4)
    assert address_of(step.touches, {"rax": 0xFFFF_FFFF_FFFF_FFFF}) == 3
    assert address_of(step.touches, {}) is None


@pytest.mark.vm
def test_the_shell_has_it_as_a_variable(died, tmp_path, capsys):
    script = tmp_path / "look.py"
    script.write_text(
        "print(fault.target, len(modules), [t.comm for t in all_tasks][0], prog['jiffies'].value_() > 0)\n"
    )
    words = [word for word in died("chain").arguments if word != "show"]
    words.insert(1, "shell")
    assert main([*words, "--exec", str(script)]) == 0
    assert capsys.readouterr().out.startswith("card->parent->item->value 1")

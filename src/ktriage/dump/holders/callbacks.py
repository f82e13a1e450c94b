"""What calls into code, or points at operations, without a reference to the module that they are in.

A timer, a hook or a pending RCU callback does not keep a module: its exit function must take it back. One
that is left points into memory that is gone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import drgn
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.kthread import to_kthread
from drgn.helpers.linux.percpu import per_cpu

from ktriage.dump.holders.lists import hlist_for_each_entry, list_for_each_entry
from ktriage.dump.holders.mounts import super_blocks
from ktriage.dump.holders.netdevs import netdevs
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.socks import all_socks, for_each_net
from ktriage.dump.holders.walk import KERNEL_HALF, Walk, text
from ktriage.dump.timers import delayed_work, read_timers
from ktriage.dump.workqueues import read_workqueues

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PF_KTHREAD = 0x00200000
KVFREE_OFFSETS = 4096
"""An RCU callback below this is no function, but an offset for kfree_rcu() (include/linux/rcupdate.h)."""
MOST_CALLBACKS = 1 << 20
MOST_HOOKS = 1 << 10
NOTIFIERS = (
    "netdev_chain", "inetaddr_chain", "inet6addr_chain", "inetaddr_validator_chain", "reboot_notifier_list",
    "panic_notifier_list", "module_notify_list", "die_chain", "oom_notify_list", "cpu_pm_notifier_chain",
    "keyboard_notifier_list", "vt_notifier_list", "fb_notifier_list", "netlink_chain",
    "switchdev_notif_chain", "usb_notifier_list", "crypto_chain", "pm_chain_head", "restart_handler_list",
    "task_free_notifier",
)  # fmt: skip
"""Heads of notifier chains, as far as they are variables of the kernel's."""
LISTS = (
    # variable, file, type of an entry, member of the list, members that point at code or operations
    ("proto_list", "sock.c", "struct proto", "node", ("close",)),
    ("tcp_cong_list", "tcp_cong.c", "struct tcp_congestion_ops", "list", ("cong_avoid", "ssthresh")),
    ("tcp_ulp_list", "tcp_ulp.c", "struct tcp_ulp_ops", "list", ("init",)),
    ("misc_list", "char/misc.c", "struct miscdevice", "list", ("fops",)),
    ("formats", "exec.c", "struct linux_binfmt", "lh", ("load_binary",)),
    ("ptype_all", "dev.c", "struct packet_type", "list", ("func",)),
    ("shrinker_list", None, "struct shrinker", "list", ("scan_objects",)),
    ("crypto_alg_list", "crypto/api.c", "struct crypto_alg", "cra_list", ("cra_module",)),
    ("link_ops", "rtnetlink.c", "struct rtnl_link_ops", "list", ("setup",)),
)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Something at ``address`` that leads to ``target``, a function or a table of them.

    ``kind`` is what it is (``timer``, ``work``, ``RCU callback``, ``tracepoint``, ...), ``path`` how one
    gets to it.
    """

    target: int
    kind: str
    address: int
    type: str
    path: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands in the reports' ``pointers``."""
        return asdict(self)


def timers(walk: Walk) -> Iterator[Pointer]:
    """Yield the armed timers, and the works that timers will queue."""
    for timer in read_timers(walk.places):
        work = delayed_work(walk.places, timer)
        if work is None:
            yield Pointer(timer.function, timer.kind, timer.address, _TIMERS[timer.kind], f"CPU {timer.cpu}")
        else:
            yield Pointer(
                int(work.work.func), "delayed work", work.value_(), "struct delayed_work", f"CPU {timer.cpu}"
            )


_TIMERS = {"timer": "struct timer_list", "hrtimer": "struct hrtimer"}


def works(walk: Walk) -> Iterator[Pointer]:
    """Yield the works that are queued or run."""
    for work in read_workqueues(walk.places).works:
        path = f"workqueue {work.workqueue or '?'}, {work.state}"
        yield Pointer(work.function, "work", work.address, "struct work_struct", path)


def rcu_callbacks(walk: Walk) -> Iterator[Pointer]:
    """Yield the callbacks that wait for a grace period (``call_rcu()``)."""
    data = walk.variable("rcu_data")
    if data is None:
        return
    head = walk.layout("struct callback_head", "next", "func")
    for cpu in for_each_possible_cpu(walk.program):
        with walk.guard(f"the RCU callbacks of CPU {cpu}"):
            place = int(per_cpu(data, cpu).cblist.head)
            for _ in range(MOST_CALLBACKS):
                if place < KERNEL_HALF:
                    break
                following, function = head.read(place)
                if function >= KVFREE_OFFSETS:
                    yield Pointer(function, "RCU callback", place, "struct callback_head", f"CPU {cpu}")
                place = following


def tracepoints(walk: Walk) -> Iterator[Pointer]:
    """Yield the probes of tracepoints, the kernel's and modules'."""
    for tracepoint in _tracepoints(walk):
        with walk.guard(f"tracepoint {tracepoint.value_():#x}"):
            if not tracepoint.funcs:
                continue
            name = text(tracepoint.name)
            for number in range(MOST_HOOKS):
                function = int(tracepoint.funcs[number].func)
                if not function:
                    break
                yield Pointer(function, "tracepoint", tracepoint.value_(), "struct tracepoint", name)


def _tracepoints(walk: Walk) -> Iterator[drgn.Object]:
    """Yield ``struct tracepoint *`` from tables of pointers, or of offsets.

    They are of offsets since Linux 4.19 with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS.
    """
    arrays = []
    start, end = (walk.places.symbol_address(f"__{side}___tracepoints_ptrs") for side in ("start", "stop"))
    kind = walk.program.type("tracepoint_ptr_t")
    size = drgn.sizeof(kind)
    if start and end and start < end:
        arrays.append((start, (end - start) // size))
    for module in walk.modules:
        with walk.guard(f"the tracepoints of {module.name}"):
            struct = walk.object("struct module", module.address)
            arrays.append((int(struct.tracepoints_ptrs), int(struct.num_tracepoints)))
    for base, count in arrays:
        data = walk.program.read(base, size * count) if count else b""
        for number in range(count):
            value = int.from_bytes(data[number * size : (number + 1) * size], "little", signed=size == 4)
            address = base + number * size + value if size == 4 else value
            yield walk.object("struct tracepoint", address)


def kprobes(walk: Walk) -> Iterator[Pointer]:
    """Yield the handlers of kprobes, and what they are on."""
    table = walk.variable("kprobe_table")
    for bucket in table if table is not None else ():
        for probe in hlist_for_each_entry("struct kprobe", bucket.address_of_(), "hlist"):
            with walk.guard(f"kprobe {probe.value_():#x}"):
                path = f"kprobe on {walk.name(int(probe.addr))}"
                yield Pointer(int(probe.addr), "kprobe", probe.value_(), "struct kprobe", path)
                for member in ("pre_handler", "post_handler"):
                    if probe.member_(member):
                        target = int(probe.member_(member))
                        yield Pointer(target, "kprobe handler", probe.value_(), "struct kprobe", path)


def packet_hooks(walk: Walk) -> Iterator[Pointer]:
    """Yield netfilter's hooks of all network namespaces."""
    for net in for_each_net(walk):
        if not hasattr(net, "nf"):  # without CONFIG_NETFILTER
            return
        for member in net.nf.type_.members:
            if not (member.name or "").startswith("hooks_"):
                continue
            with walk.guard(f"netfilter's {member.name}"):
                for entries in net.nf.member_(member.name):
                    if entries:
                        yield from _hooks(entries, member.name.removeprefix("hooks_"))


def _hooks(entries: drgn.Object, family: str) -> Iterator[Pointer]:
    for number in range(min(int(entries.num_hook_entries), MOST_HOOKS)):
        hook = entries.hooks[number]
        path = f"{family} hook {number}"
        yield Pointer(int(hook.hook), "netfilter hook", entries.value_(), "struct nf_hook_entries", path)


def notifiers(walk: Walk) -> Iterator[Pointer]:
    """Yield the callbacks of notifier chains."""
    for name in NOTIFIERS:
        chain = walk.variable(name)
        if chain is None:
            continue
        with walk.guard(f"the chain {name}"):
            block = chain.head
            for _ in range(MOST_HOOKS):
                if not block:
                    break
                yield Pointer(
                    int(block.notifier_call), "notifier", block.value_(), "struct notifier_block", name
                )
                block = block.next


def registered(walk: Walk) -> Iterator[Pointer]:
    """Yield what stands in the kernel's lists of protocols, devices, formats and the like."""
    for name, file, type_name, member, targets in LISTS:
        head = walk.variable(name, file)
        if head is None:
            continue
        for entry in walk.each(
            f"the list {name}", list_for_each_entry(type_name, head.address_of_(), member)
        ):
            with walk.guard(f"{type_name} {entry.value_():#x}"):
                for target in targets:
                    value = int(entry.member_(target))
                    if value:
                        yield Pointer(value, f"{name} entry", entry.value_(), type_name, target)
    kind = walk.variable("file_systems", "filesystems.c")
    for _ in range(MOST_HOOKS):
        if kind is None or not kind:
            return
        yield Pointer(kind.value_(), "file system", kind.value_(), "struct file_system_type", "file_systems")
        kind = kind.next


def functions_traced(walk: Walk) -> Iterator[Pointer]:
    """Yield the functions that ftrace calls."""
    operations = walk.variable("ftrace_ops_list")
    for _ in range(MOST_HOOKS):
        if operations is None or not operations or operations.value_() < KERNEL_HALF:
            return
        if operations.func:
            yield Pointer(
                int(operations.func), "ftrace", operations.value_(), "struct ftrace_ops", "ftrace_ops_list"
            )
        operations = operations.next


def proc_entries(walk: Walk) -> Iterator[Pointer]:
    """Yield the operations of /proc's entries: ``proc_ops`` since Linux 5.6 (commit d56c0d45f0e2)."""
    cache = walk.variable("proc_dir_entry_cache")
    if cache is None:
        return
    member = "proc_ops" if walk.program.type("struct proc_dir_entry").has_member("proc_ops") else "proc_fops"
    layout = walk.layout("struct proc_dir_entry", member, "in_use.counter", "name")
    for address, (operations, users, name) in walk.slabs.objects(cache, layout):
        # One that was removed has BIAS added, and stays for as long as its inode is cached.
        if users < 0:
            continue
        if operations >= KERNEL_HALF and name >= KERNEL_HALF:
            yield Pointer(
                operations, "proc entry", address, "struct proc_dir_entry", f"/proc … {_string(walk, name)}"
            )


def _string(walk: Walk, address: int) -> str:
    try:
        return str(walk.program.read_c_string(address, max_size=64), errors="replace")
    except drgn.FaultError:
        return "?"


def objects(walk: Walk) -> Iterator[Pointer]:
    """Yield the operations of open files, sockets, super blocks and network devices."""
    files = open_files(walk)
    for file in files.by_address.values():
        yield Pointer(file.operations, "file", file.address, "struct file", files.holder(file))
    found = all_socks(walk)
    for sock in found.socks.values():
        yield Pointer(sock.protocol, "sock", sock.address, "struct sock", found.path(sock))
    for socket in found.sockets.values():
        yield Pointer(socket.operations, "socket", socket.address, "struct socket", found.socket_path(socket))
    for block in super_blocks(walk):
        yield Pointer(int(block.s_op), "super block", block.value_(), "struct super_block", "s_op")
        yield Pointer(int(block.s_type), "super block", block.value_(), "struct super_block", "s_type")
    for device in netdevs(walk):
        name = text(device.name)
        for member in ("netdev_ops", "ethtool_ops", "rx_handler", "rtnl_link_ops"):
            value = int(device.member_(member))
            if value:
                yield Pointer(value, "net device", device.value_(), "struct net_device", f"{name} → {member}")


def threads(walk: Walk) -> Iterator[Pointer]:
    """Yield the functions of kernel threads."""
    layout = walk.layout("struct task_struct", "flags")
    for task, name in open_files(walk).tasks:
        with walk.guard(name):
            if layout.read(task)[0] & PF_KTHREAD:
                thread = to_kthread(walk.object("struct task_struct", task))
                if thread and thread.threadfn:
                    yield Pointer(int(thread.threadfn), "kernel thread", task, "struct task_struct", name)


POINTERS: tuple[Callable[[Walk], Iterator[Pointer]], ...] = (
    timers,
    works,
    rcu_callbacks,
    tracepoints,
    kprobes,
    packet_hooks,
    notifiers,
    registered,
    functions_traced,
    proc_entries,
    objects,
    threads,
)

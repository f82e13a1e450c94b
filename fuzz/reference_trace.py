"""Fuzz the reading of traces into a ledger: no exception, accounts that add up, the same however it comes in.

usage: fuzz/reference_trace.py [--cpu-minutes N] [--max-mb N] [LIBFUZZER-OPTION]... [INPUT]...

It begins with generated histories and with the traces that the tests keep.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ktriage"]):
    from ktriage.refs.judge import accounts
    from ktriage.refs.ledger import Ledger
    from ktriage.refs.names import Names
    from ktriage.refs.read import reader_for
    from ktriage.refs.simulate import Plan, history, routes
    from ktriage.refs.sources import chunks
    from ktriage.refs.tree import balance_tree, folded, printed

from harness import fuzz

ROOT = Path(__file__).parents[1]
WORDS = (
    " => ",
    "=> ",
    "<stack trace>\n",
    "<user stack trace>\n",
    "kernel_stack:         <stack trace >\n",
    "] ..s1.    1.000000: ",
    "module_get: ulp call_site=f refcnt=2\n",
    "module_put: ulp call_site=g [m] refcnt=0\n",
    "module_load: ulp OE\n",
    "module_free: ulp\n",
    "CPU:1 [LOST 3 EVENTS]\n",
    "CPU:1 [EVENTS DROPPED]\n",
    "# entries-in-buffer/entries-written: 3/9",
    "# refs: kind=k get=a put=b object=o count=c\n",
    "x_get: (x_get+0x0/0x10) obj=0x10 count=1\n",
    "x_put: (f+0x1/0x10 <- x_put) obj=0x10 count=-1\n",
    "resolve_symbol",
    "module_unload_free",
    "do_init_module",
    "__symbol_get",
    "handle_softirqs",
    "refs: get o count=1 stack=f;g\n",
    "refs: put o count=0\n",
    "refs: free o\n",
    "refs: lost 2\n",
    "a@ffff has 2/3 users at\n",
    "ref_tracker: leaked reference.\n",
    "refcount_t: underflow; use-after-free.\n",
    "unregister_netdevice: waiting for eth0 to become free. Usage count = 2\n",
    "a 1 [000] 1.000001: module:module_get: ",
    "PERF_RECORD_LOST lost 3",
)


def _read(data: bytes, size: int) -> list[dict[str, object]]:
    names = Names()
    ledger = Ledger(names)
    reader = reader_for(data[: 1 << 16], names)
    for at in range(0, len(data), size):
        ledger.feed(reader.feed(data[at : at + size]))
    ledger.feed(reader.close())
    found = accounts(ledger)
    for one in found:
        assert one.gets + one.puts <= one.events
        assert sum(entry.count for entry in one.unmatched_puts) <= one.puts
        tree = balance_tree(ledger, one)
        assert (tree.gets, tree.puts) == (one.gets, one.puts)
        list(printed(tree))
    list(folded(ledger, found))
    return [one.to_json() for one in found]


def target(data: bytes) -> None:
    """Read a trace whole and in pieces."""
    whole = _read(data, 1 << 20)
    json.dumps(whole)
    assert _read(data, 1000) == whole


def traces() -> list[bytes]:
    """Return the traces to begin with."""
    made = []
    for seed in range(3):
        plan = Plan(
            pairs=40, leaks=1, overputs=1, lost=0.02, routes=routes(random.Random(seed), 3, mixed=True)
        )
        made.append("\n".join(history(plan, seed).lines).encode())
    kept = sorted((ROOT / "tests/fixtures/refs").glob("*.zst"))
    return made + [b"".join(chunks(str(path)))[: 32 << 10] for path in kept]


if __name__ == "__main__":
    fuzz("reference_trace", target, traces(), WORDS)

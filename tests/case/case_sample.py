"""A bisection of a small history, worked out by Bayes' rule, for the pages under test."""

from __future__ import annotations

import hashlib
import math
import random

from ktriage.bisect.types import Answer, Belief, Candidate, End, Log, Run, Start, Verification
from ktriage.case.bisection import from_log
from ktriage.case.types import CaseFile, Change, Vmcore
from ktriage.console.types import Crash, Frame
from ktriage.dump.types import ModuleState
from ktriage.words import OutcomeKind

SUBJECTS = """ulp: start with an empty upper layer
ulp: count bytes that pass through
ulp: answer getsockopt with the count
ulp: let the peer's name be read
ulp: keep the statistics in per-cpu counters
ulp: add a self test for the counters
ulp: build without CONFIG_IPV6
ulp: say which socket an error is about
ulp: split parsing into a file of its own
ulp: bound the length of a name
ulp: parse the header without a copy
ulp: use kmem_cache for contexts
ulp: initialise the lock before first use
ulp: print through pr_fmt
ulp: document the options
ulp: fail when the cache can't be made
ulp: merge branch 'parser'
ulp: free the context by RCU
ulp: drop a lock that protects nothing
ulp: clone the context of a listener
ulp: move the reference to where a child is first used
ulp: name the work queue after the module
ulp: read the limit once
ulp: merge branch 'children'
ulp: make the limit a module parameter
ulp: count children apart
ulp: turn a comment into an assertion
ulp: use the new setsockopt signature
ulp: keep the hot fields in one cache line
ulp: do not wake a reader for nothing
ulp: merge branch 'limits'
ulp: say in the log how many children there were
ulp: version 0.9""".splitlines()

CULPRIT = 20
BROKEN = {10, 11}
DIFF = """diff --git a/ulp_main.c b/ulp_main.c
index 1a2b3c4..5d6e7f8 100644
--- a/ulp_main.c
+++ b/ulp_main.c
@@ -88,17 +88,22 @@ static void ulp_clone(const struct request_sock *req, struct sock *newsk,
 \t\t      const gfp_t priority)
 {
 \tstruct inet_connection_sock *icsk = inet_csk(newsk);
 \tstruct ulp_context *ctx;

-\t__module_get(THIS_MODULE);
 \tctx = kmem_cache_zalloc(ulp_cache, priority);
 \tif (!ctx) {
 \t\ticsk->icsk_ulp_ops = NULL;
-\t\tmodule_put(THIS_MODULE);
 \t\treturn;
 \t}
 \trcu_assign_pointer(icsk->icsk_ulp_data, ctx);
 }

 static int ulp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len)
 {
+\tstruct ulp_context *ctx = ulp_ctx(sk);
+
+\tif (!ctx->used) {
+\t\t__module_get(THIS_MODULE);
+\t\tctx->used = true;
+\t}
 \treturn tcp_prot.recvmsg(sk, msg, len);
"""

CONSOLE = """[   12.459050] ------------[ cut here ]------------
[   12.459052] WARNING: CPU: 1 PID: 214 at kernel/module/main.c:831 module_put+0x5c/0x70
[   12.459053] Modules linked in: ulp(O) virtio_console
[   12.459054] CPU: 1 PID: 214 Comm: server Tainted: G           O       6.1.0-56-cloud-amd64 #1
[   12.459077]  tcp_cleanup_ulp+0x1e/0x40
<script>alert("from the log")</script> \x1b[31m red \u202e turned
"""


def commit_hash(place: int) -> str:
    return hashlib.sha1(f"commit {place}".encode()).hexdigest()


def sample_log(seed: int = 3, rate: float = 0.55, verified: bool = True) -> Log:
    """Bisect the sample: the most informative revision each time, the crash rate known."""
    rng = random.Random(seed)
    count = len(SUBJECTS)
    parents = tuple((i - 1, i - 4) if "merge" in SUBJECTS[i] else (i - 1,) for i in range(count))
    hashes = tuple(commit_hash(i) for i in range(count))
    good = commit_hash(-1)
    start = Start("/src/ulp", good, hashes[-1], count, 0.998, seed, 0.0, 2, hashes, tuple(SUBJECTS), parents)
    mass = [1 / count] * count
    records: list = [start, _belief(0, mass, hashes, 0.0)]
    when, runs, broken = 0.0, 0, set()
    while max(mass) < 0.998:
        assert runs < 200
        aim = rng.choice((0.4, 0.4, 0.4, 0.6))
        tested = min(
            (i for i in range(count) if i not in broken), key=lambda i: abs(sum(mass[: i + 1]) - aim)
        )
        outcome = OutcomeKind.OK
        if tested in BROKEN:
            outcome = OutcomeKind.BUILD_FAILED
            broken.add(tested)
        elif tested >= CULPRIT and rng.random() < rate:
            outcome = OutcomeKind.CRASHED
        elif rng.random() < 0.06:
            outcome = rng.choice([OutcomeKind.INFRA, OutcomeKind.HUNG, OutcomeKind.OTHER_CRASH])
        runs, when = runs + 1, when + 1.3
        title = "WARNING in module_put" if outcome is OutcomeKind.CRASHED else None
        if outcome is OutcomeKind.OTHER_CRASH:
            title = "BUG: unable to handle kernel NULL pointer dereference in ulp_stats"
        records.append(
            Run(f"a{runs}", hashes[tested], when, outcome, 1.1, 4.0 if tested % 3 == 0 else 0.0, title)
        )
        if outcome in (OutcomeKind.CRASHED, OutcomeKind.OK):
            seen = 1 - rate if outcome is OutcomeKind.OK else rate
            never = 0.999 if outcome is OutcomeKind.OK else 0.001
            mass = [p * (seen if i <= tested else never) for i, p in enumerate(mass)]
            mass = [p / sum(mass) for p in mass]
        records.append(_belief(runs, mass, hashes, when))
    ranked = sorted(zip(mass, hashes, SUBJECTS, strict=True), reverse=True)
    best = ranked[0]
    answer = Answer(
        culprit=best[1],
        probability=best[0],
        candidates=tuple(Candidate(h, p, s) for p, h, s in ranked[:5]),
        runs=runs,
        revisions=len({r.commit for r in records if isinstance(r, Run)}),
        builds=9,
        outcomes={},
        seconds=when,
        verdict="culprit",
        subject=best[2],
        author="Nadia Osei <nadia@example.org>",
        date="2026-03-04T10:11:12+01:00",
        crash_rate=rate,
        crash_interval=(rate - 0.14, rate + 0.13),
        seed=seed,
        verification=Verification(True, "gone", "crashes", "ok", 14, 2, 21.0) if verified else None,
    )
    return Log(start, (*records, End(answer, when)))


def _belief(runs: int, mass: list[float], hashes: tuple[str, ...], when: float) -> Belief:
    entropy = -sum(p * math.log2(p) for p in mass if p > 0)
    top = sorted(zip(mass, hashes, strict=True), reverse=True)[:5]
    return Belief(runs, 0, 0, entropy, tuple(Candidate(h, p) for p, h in top), tuple(mass), 0.0, when)


def sample_crash() -> Crash:
    stack = (
        Frame("module_put", 0x5C, 0x70, file="kernel/module/main.c", line=831, context="task"),
        Frame("tcp_cleanup_ulp", 0x1E, 0x40, file="net/ipv4/tcp_ulp.c", line=128, context="task"),
        Frame("ulp_recvmsg", 0x10, 0x60, module="ulp", file="/tmp/b/ulp_main.c", line=109, context="task"),
        Frame("ulp_close_<b>child</b>", 0x22, 0x80, module="ulp", context="task"),
        Frame("inet_csk_destroy_sock", 0x8D, 0x130, file="net/ipv4/inet_connection_sock.c", line=1222),
        Frame(
            "inet_child_forget", 0x3A, 0xC0, file="net/ipv4/inet_connection_sock.c", line=1287, inline=True
        ),
        Frame("inet_csk_listen_stop", 0x1A3, 0x460, file="net/ipv4/inet_connection_sock.c", line=1316),
        Frame("kmem_cache_free", 0x1A, 0x3F0, reliable=False),
        Frame("__tcp_close", 0x2E9, 0x470, file="net/ipv4/tcp.c", line=2790),
    )
    return Crash(
        "console.log",
        0,
        900,
        1,
        "WARNING in module_put",
        frame="module_put",
        cpu=1,
        pid=214,
        comm="server",
        kernel="6.1.0-56-cloud-amd64",
        hardware="QEMU Standard PC (Q35 + ICH9, 2009)",
        taint="G           O",
        modules=("ulp",),
        registers={"rax": 0, "rbx": 0xFFFFFFFF, "rip": 0xFFFFFFFF8113F8AC, "cr2": 0x7F00},
        stack=stack,
        text=CONSOLE,
        guilty_file="kernel/module/main.c",
    )


def sample_module() -> ModuleState:
    return ModuleState(
        name="ulp",
        address=0xFFFFFFFFC0325040,
        state="live",
        refcnt_raw=0,
        refcnt=-1,
        users=(),
        ranges=(("core", 0xFFFFFFFFC0323000, 0xFFFFFFFFC0329000),),
        taints="OE",
        exit=0xFFFFFFFFC0323ABC,
    )


def sample_case(**changes: object) -> CaseFile:
    log = sample_log()
    culprit = commit_hash(CULPRIT)
    values: dict = {
        "title": "WARNING in module_put",
        "bisection": from_log(log),
        "culprit": Change(
            culprit,
            SUBJECTS[CULPRIT],
            "Nadia Osei",
            "nadia@example.org",
            "2026-03-04T10:11:12+01:00",
            "Children never read need no reference.\n\nSigned-off-by: Nadia Osei <nadia@example.org>",
            DIFF,
        ),
        "crash": sample_crash(),
        "modules_before": "ulp 24576 1 - Live 0xffffffffc0323000 (OE)\nvirtio_console 40960 0 - Live 0x0\n",
        "modules_after": "ulp 24576 -1 - Live 0xffffffffc0323000 (OE)\nvirtio_console 40960 0 - Live 0x0\n",
        "vmcore": Vmcore("/var/tmp/ktriage/demo/vmcore", 536870912, "ulp", (sample_module(),)),
        "mail": "To: Nadia Osei <nadia@example.org>\nSubject: [bisected] WARNING in module_put\n\nHello,\n",
        "kernel": "6.1.0-56-cloud-amd64",
        "created": "2026-11-20T05:50:00+00:00",
        "trials": "/var/tmp/ktriage/demo/trials",
        "log": "/var/tmp/ktriage/demo/bisection.jsonl",
        "commands": (
            ("ktriage repro run ktriage.toml -n 20", "Run the reproducer 20 times on the culprit:"),
        ),
    }
    return CaseFile(**(values | changes))

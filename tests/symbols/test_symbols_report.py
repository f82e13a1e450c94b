from __future__ import annotations

from ktriage.console.types import Crash, Frame
from ktriage.symbols.report import annotated_text

TEXT = """RIP: 0010:module_put+0x8b/0x90
Call Trace:
 <TASK>
 task_work_run+0x59/0x90
 do_exit+0x381/0xb10
 tcp_close+0x1f/0x80 net/ipv4/tcp.c:1
 ulp_recv+0x1/0x2 [ulp]
 ? unknown+0x1/0x2
R13: 00007ffec7e683d4
"""


def test_lines_are_written_behind_their_entries():
    stack = (
        Frame("module_put", 0x8B, 0x90, file="kernel/module/main.c", line=857),
        Frame("task_work_run", 0x59, 0x90, file="kernel/task_work.c", line=204),
        Frame("exit_task_work", file="include/linux/task_work.h", line=39, inline=True),
        Frame("do_exit", 0x381, 0xB10, file="kernel/exit.c", line=887),
        Frame("tcp_close", 0x1F, 0x80, file="net/ipv4/tcp.c", line=2),
        Frame("ulp_recv", 1, 2, module="ulp", file="ulp.c", line=9),
        Frame("unknown", 1, 2),
    )
    assert (
        annotated_text(Crash("", 0, 0, 1, "t", stack=stack, text=TEXT))
        == """\
RIP: 0010:module_put+0x8b/0x90 kernel/module/main.c:857
Call Trace:
 <TASK>
 task_work_run+0x59/0x90 kernel/task_work.c:204
 exit_task_work include/linux/task_work.h:39 [inline]
 do_exit+0x381/0xb10 kernel/exit.c:887
 tcp_close+0x1f/0x80 net/ipv4/tcp.c:1
 ulp_recv+0x1/0x2 [ulp] ulp.c:9
 ? unknown+0x1/0x2
R13: 00007ffec7e683d4
"""
    )


def test_without_a_stack_the_text_stays():
    assert annotated_text(Crash("", 0, 0, 1, "t", text=TEXT)) == TEXT

"""Reads a vmcore: modules, their reference counts, the kernel's own log.

``open_vmcore`` opens one, ``module_state`` and ``module_states`` read modules, ``tasks`` the
tasks, ``read_log`` the log, ``summarize`` the rest.
"""

from __future__ import annotations

from ktriage.dump.core import Vmcore, open_vmcore
from ktriage.dump.log import log_text, read_log
from ktriage.dump.modules import module_state, module_states
from ktriage.dump.summary import summarize
from ktriage.dump.tasks import running_tasks, tasks
from ktriage.dump.types import LogLine, ModuleState, Summary, TaskState

__all__ = [
    "LogLine",
    "ModuleState",
    "Summary",
    "TaskState",
    "Vmcore",
    "log_text",
    "module_state",
    "module_states",
    "open_vmcore",
    "read_log",
    "running_tasks",
    "summarize",
    "tasks",
]

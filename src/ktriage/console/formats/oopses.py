"""Oopses and faults: the CPU could not go on."""

from __future__ import annotations

from ktriage.console.formats.format import Format, Stack, trapped

ACCESS = ("bad-access in {frame}",)

FORMATS = (
    Format(
        "BUG:",
        "BUG: (?:unable to handle kernel paging request|unable to handle page fault for address"
        "|Unable to handle kernel data access)",
        "BUG: unable to handle kernel paging request in {frame}",
        alt=ACCESS,
        stack=trapped(),
    ),
    Format(
        "BUG:",
        "BUG: (?:unable to handle kernel|[kK]ernel) NULL pointer dereference",
        "BUG: unable to handle kernel NULL pointer dereference in {frame}",
        alt=ACCESS,
        stack=trapped(),
    ),
    # Older kernels print this line in two halves, and the second may go missing.
    Format("BUG:", "BUG: [uU]nable to handle kernel", "BUG: unable to handle kernel", corrupted=True),
    # arm, arm64, riscv and s390x announce the same without "BUG:".
    Format(
        "Unable to handle kernel",
        "Unable to handle kernel (?P<what>paging request|NULL pointer dereference|access to user memory)",
        "BUG: unable to handle kernel {what} in {frame}",
        alt=ACCESS,
        stack=trapped(),
    ),
    Format(
        "general protection fault",
        "general protection fault.*:",
        "general protection fault in {frame}",
        alt=ACCESS,
        stack=trapped(),
    ),
    Format("stack segment: ", "stack segment: ", "stack segment fault in {frame}", stack=trapped()),
    Format(
        "PANIC: double fault", "PANIC: double fault", "PANIC: double fault in {frame}", stack=Stack(("{ip}",))
    ),
    Format("divide error:", "divide error: ", "divide error in {frame}", stack=Stack(("{ip}",))),
    # So spelled since v5.8, 9d06c4027f21 ("x86/entry: Convert Divide Error to IDTENTRY").
    Format("divide_error:", "divide_error: ", "divide error in {frame}", stack=Stack(("{ip}",))),
    Format("invalid opcode:", "invalid opcode: ", "invalid opcode in {frame}", stack=Stack(("{ip}",))),
    Format("int3:", "int3: ", "int3 in {frame}", stack=trapped()),
    Format("Internal error:", "Internal error:", "Internal error in {frame}", alt=ACCESS, stack=trapped()),
    Format("Unhandled fault:", "Unhandled fault:", "Unhandled fault in {frame}", alt=ACCESS, stack=trapped()),
    Format("Alignment trap:", "Alignment trap:", "Alignment trap in {frame}", stack=trapped()),
    Format(
        "BUG:",
        "BUG: .*stack guard page was hit at",
        "BUG: stack guard page was hit in {frame}",
        alt=("stack-overflow in {frame}",),
        stack=trapped(choose="stall"),
    ),
)

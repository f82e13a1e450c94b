"""/proc/modules before and after a crash, compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One module whose line matters; counts are as printed, ``—`` where the module was not loaded."""

    name: str
    before: str
    after: str
    users: str
    bad: bool


def parse_modules(text: str) -> dict[str, tuple[str, str]]:
    """Read the text of /proc/modules: name to (count, users).

    A line is ``name size count users state address``; users end with a comma, ``-`` where there are
    none (kernel/module/procfs.c). Lines of another form are skipped.
    """
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[1].isdigit() and fields[2].lstrip("-").isdigit():
            found[fields[0]] = (fields[2], "" if fields[3] == "-" else fields[3].rstrip(","))
    return found


def compare_modules(before: str | None, after: str | None, always: str | None = None) -> list[ModuleRow]:
    """Return the modules whose count changed or is below zero, and ``always`` by name; worst first."""
    old, new = parse_modules(before or ""), parse_modules(after or "")
    rows = []
    for name in {**old, **new}:
        count_old, count_new = old.get(name, ("—", ""))[0], new.get(name, ("—", ""))[0]
        bad = count_new.startswith("-")
        if bad or name == always or (before and after and count_old != count_new):
            rows.append(ModuleRow(name, count_old, count_new, new.get(name, ("", ""))[1], bad))
    return sorted(rows, key=lambda row: (not row.bad, row.name))


def modules_note(rows: list[ModuleRow]) -> str:
    """Say in a sentence what the counts mean, or nothing where they are in order."""
    below = [row for row in rows if row.bad]
    if not below:
        return ""
    names = ", ".join(f"{row.name} stands at {row.after}" for row in below)
    return f"{names}: more references were put than were ever got."

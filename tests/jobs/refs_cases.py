"""Reference counts that go wrong in a guest, recorded while they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ktriage.jobs.lab import Lab
from ktriage.jobs.labs import open_lab
from ktriage.kernel import FolderSources, Kernel, build_module
from ktriage.refs import Account, read_traces
from ktriage.trial import Outcome, load_spec

MODULES = Path(__file__).parents[1] / "modules"
PACKAGE = "linux-image-cloud-amd64"

SPEC = """
[kernel]
{kernel}
[guest]
memory = "256M"
{guest}
[guest.files]
{files}
[run]
commands = [{commands}]
exit_codes = [0, 1]
timeout = {timeout}
[hunted]
patterns = ["Oops|BUG"]
[refs]
{refs}
"""


@dataclass(frozen=True)
class Case:
    """A run of a case: its outcome, and the ledger by object."""

    outcome: Outcome
    accounts: dict[str, Account]
    trace: str

    @property
    def wrong(self) -> dict[str, Account]:
        """The objects with something to report."""
        return {name: one for name, one in self.accounts.items() if one.unmatched_gets or one.unmatched_puts}


def modules(kernel: Kernel, folder: str, *names: str) -> dict[str, Path]:
    """Build a folder of tests/modules and return its modules, by their place in the guest."""
    build = build_module(FolderSources(MODULES / folder), kernel=kernel, name=names[0])
    assert build.module, build.error
    return {f"/ktriage/{name}.ko": build.folder / f"{name}.ko" for name in names}


def lab(
    place: Path,
    commands: tuple[str, ...],
    files: dict[str, Path],
    refs: str,
    *,
    kernel: str = f'package = "{PACKAGE}"',
    guest: str = "",
    timeout: float = 60,
) -> Lab:
    """Return what runs a case."""
    text = SPEC.format(
        kernel=kernel,
        guest=guest,
        files="\n".join(f'"{target}" = "{source}"' for target, source in files.items()),
        commands=", ".join(f"'''{command}'''" for command in commands),
        timeout=timeout,
        refs=refs,
    )
    spec = place / "ktriage.toml"
    spec.write_text(text)
    return open_lab(load_spec(spec), place / "trials")


def run_case(made: Lab, name: str = "run", commit: str | None = None) -> Case:
    """Run a case once and read what it recorded."""
    outcome, _ = made.trial(name, commit)
    assert outcome.refs is not None, outcome
    accounts = read_traces([outcome.refs.trace])
    return Case(outcome, {account.object: account for account in accounts}, outcome.refs.trace)

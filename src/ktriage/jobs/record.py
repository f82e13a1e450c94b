"""References recorded in a guest while a reproducer runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.jobs.labs import open_lab
from ktriage.trial import Outcome, Spec
from ktriage.trial.spec import RefsTable


def with_refs(
    spec: Spec, module: str | None, get: tuple[str, ...], put: tuple[str, ...], *, stacks: bool = True
) -> Spec:
    """Return a specification that records: what is asked for, else what its own [refs] says, else its module.

    Raises UserError where that is nothing, or half of a pair.
    """
    if module or get or put:
        from ktriage.refs.record_events import wanted

        wanted(module, get, put)
        table = RefsTable(module=module, get=get, put=put, stacks=stacks)
    elif spec.refs is not None:
        return spec
    elif spec.module is not None:
        table = RefsTable(module=spec.module.name, stacks=stacks)
    else:
        raise UserError("say what to record: --module, or --get and --put, or [refs] in the specification")
    return spec.model_copy(update={"refs": table})


def record_in_guest(
    spec: Spec,
    directory: Path,
    *,
    module: str | None = None,
    get: tuple[str, ...] = (),
    put: tuple[str, ...] = (),
    stacks: bool = True,
    repo: Path | None = None,
    rev: str | None = None,
    runs: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run a reproducer and record references meanwhile; each run is kept in a folder of ``directory``.

    It is run until the hunted crash shows, ``runs`` times at the most; the last outcome is returned. Raises
    UserError where the guest can't record what is asked for.
    """
    commit = Repository(repo).resolve(rev or "HEAD") if repo else None
    spec = with_refs(spec, module, get, put, stacks=stacks)
    lab = open_lab(spec, directory, repo=repo, progress=progress)
    for number in range(runs):
        outcome, _ = lab.trial(f"record-{number:04}", commit)
        if outcome.hunted:
            break
    return outcome

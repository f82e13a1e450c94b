"""What a step of a bisection in a kernel tree costs besides make and the guest.

Goes through revisions of a git repository that holds a kernel tree, in an order in which a bisection would,
builds and runs each once, and prints where the time went: make's own, the guest's own, and the rest (moving
the checkout, configuring, keeping what was built, taking its signature, starting QEMU). The build folder is
kept from one call to the next, so the first call is the long one.

    python benchmarks/tree.py SPEC --repo LINUX --good REV --bad REV [--steps N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from ktriage.history.git import git
from ktriage.history.repository import Repository
from ktriage.jobs.labs import open_lab
from ktriage.jobs.tree_lab import TreeLab
from ktriage.kernel import Built
from ktriage.trial import load_spec


def halves(commits: list[str], steps: int) -> list[str]:
    """Return revisions in an order in which a bisection may ask for them."""
    order: list[str] = []
    spans = [(0, len(commits) - 1)]
    for low, high in spans:
        if low <= high and len(order) < steps:
            middle = (low + high) // 2
            order.append(commits[middle])
            spans += [(low, middle - 1), (middle + 1, high)]
    return order


def main() -> int:
    """Print a line for each revision, and the overhead of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--good", required=True)
    parser.add_argument("--bad", required=True)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    repository = Repository(args.repo)
    names = git(args.repo, "rev-list", "--topo-order", f"{args.good}..{args.bad}").split()
    with tempfile.TemporaryDirectory() as folder:
        lab = open_lab(load_spec(args.spec), Path(folder), repo=repository.path)
        assert isinstance(lab, TreeLab)
        began = time.monotonic()
        lab.boots(repository.resolve(args.bad))
        print(f"{args.bad} built and booted in {time.monotonic() - began:.1f} s (the first build, or none)")
        print(f"{'revision':12} {'outcome':13} {'all':>7} {'make':>7} {'guest':>7} {'rest':>7} {'over':>6}")
        sums = [0.0, 0.0, 0.0]
        for number, commit in enumerate(halves(names, args.steps)):
            began = time.monotonic()
            outcome, built = lab.trial(f"step-{number}", commit)
            seconds = time.monotonic() - began
            assert isinstance(built, Built)
            making = built.make_seconds if built.fresh else 0.0
            guest = sum(outcome.seconds.get(part, 0.0) for part in ("start", "run", "dump"))
            own = making + guest
            for place, value in enumerate((seconds, making, guest)):
                sums[place] += value if built.fresh else 0.0
            rest = seconds - own
            share = f"{rest / own:.0%}" if own else "-"
            print(
                f"{commit[:12]} {outcome.kind:13} {seconds:7.2f} {making:7.2f} {guest:7.2f} {rest:7.2f} "
                f"{share:>6}{'' if built.fresh else '  (built before)'}"
            )
        total, making, guest = sums
        if making:
            print(f"overhead of the steps that built: {(total - making - guest) / (making + guest):.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

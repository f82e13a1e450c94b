"""What ``ktriage bisect run`` adds to the time of the command that it runs.

Makes a repository of 100,000 commits with merges and a few hundred files, bisects it with a command that
crashes in 6 of 10 runs where the culprit is, and subtracts the commands' own time from the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = """#!/bin/bash
sleep 0.02
if [ -e bug ]; then exit $((RANDOM % 10 < 6)); fi
exit 0
"""


def make_repository(path: Path, commits: int, files: int, culprit: int, seed: int) -> None:
    """Write a history with a side branch and a merge every 10 commits, by git fast-import."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
    rng = random.Random(seed)
    feed = subprocess.Popen(
        ["git", "-C", str(path), "fast-import", "--quiet", "--done"], stdin=subprocess.PIPE, text=True
    )
    assert feed.stdin is not None
    out = feed.stdin.write

    def commit(mark: int, parents: list[int], subject: str, changes: list[tuple[str, str]]) -> None:
        out(f"commit refs/heads/main\nmark :{mark}\n")
        out(
            f"committer C <c@example.org> {1_000_000_000 + 60 * mark} +0000\ndata {len(subject)}\n{subject}\n"
        )
        out("".join(f"{word} :{p}\n" for word, p in zip(["from", "merge"], parents, strict=False)))
        for name, text in changes:
            out(f"M 644 inline {name}\ndata {len(text)}\n{text}\n")
        out("\n")

    commit(1, [], "start", [(f"d{i % 20}/f{i}.c", f"int f{i};\n" * 20) for i in range(files)])
    last, side = 1, 1
    for mark in range(2, commits + 1):
        i = rng.randrange(files)
        changes = [(f"d{i % 20}/f{i}.c", f"int f{i}; /* {mark} */\n" * 20)]
        if mark == culprit:
            changes.append(("bug", "here\n"))
        if mark % 10 == 5:
            side = last
        if mark % 10 in (6, 7):
            # On the side branch, which the next commit merges.
            commit(mark, [side], f"side {mark}", [(f"s{mark % 100}", f"{mark}\n"), *changes[1:]])
            side = mark
        elif mark % 10 == 8:
            commit(mark, [last, side], f"merge {mark}", [(f"s{(mark - 1) % 100}", "merged\n"), *changes[1:]])
            last = mark
        else:
            commit(mark, [last], f"change {mark}", changes)
            last = mark
    out("done\n")
    feed.stdin.close()
    if feed.wait():
        raise SystemExit("git fast-import failed")


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", action="store_true", help="with a build command, a worktree each")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        repo = place / "repo"
        # Not on a side branch, so that what fast-import writes is what a merge would.
        culprit = args.commits // 3 // 10 * 10 + 1
        make_repository(repo, args.commits, args.files, culprit, args.seed)
        first = subprocess.run(
            ["git", "-C", str(repo), "rev-list", "--max-parents=0", "main"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        command = place / "command"
        command.write_text(COMMAND)
        command.chmod(0o755)
        log = place / "log"
        argv = [sys.executable, "-m", "ktriage", "bisect", "run", "--json", "--repo", str(repo)]
        argv += ["--good", first, "--bad", "main", "--log", str(log), "--no-verify"]
        argv += ["--build", "true"] if args.build else []
        env = os.environ | {"XDG_CACHE_HOME": str(place / "cache")}
        began = time.monotonic()
        done = subprocess.run([*argv, "--", str(command)], check=False, stdout=subprocess.PIPE, env=env)
        whole = time.monotonic() - began
        records = [json.loads(line) for line in done.stdout.splitlines()]
        runs, answer = records[:-1], records[-1]
        own = sum(run["run_seconds"] + run["build_seconds"] for run in runs)
        written = [json.loads(line) for line in log.read_text().splitlines()]
        begin = next(record["when"] for record in written if record["record"] == "chosen")
        search = runs[-1]["when"] - begin
        print(
            json.dumps(
                {
                    "commits": args.commits,
                    "verdict": answer["verdict"],
                    "runs": answer["runs"],
                    "revisions": answer["revisions"],
                    "seconds": round(whole, 2),
                    "before_and_after": round(whole - search, 2),
                    "own_ms_per_run": round(1000 * own / len(runs), 1),
                    "added_ms_per_run": round(1000 * (search - own) / len(runs), 1),
                }
            )
        )


if __name__ == "__main__":
    main()

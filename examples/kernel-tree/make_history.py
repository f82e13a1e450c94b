#!/usr/bin/env python3
"""Make a git repository with a history of small commits on top of Debian's kernel source.

The first commit is the source of Debian's ``linux-source-6.1``, as it is unpacked. On top of it come the
patches in ``history/``, in the order that ``history/series`` tells, on branches that are merged; one of them
brings a bug. ``--seed`` decides in which order the branches come and where the bug goes in. There is no
checkout: what is made is a bare repository. Authors, dates and messages are fixed, so the same source and
seed give the same hashes on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HISTORY = Path(__file__).resolve().parent / "history"
MAINTAINER = ("Ilse Varga", "ilse.varga@example.org")
BUGS = ("underflow", "uaf")
MAIN = "main"
BEGAN = 1767600000
"""When the history begins, in seconds of the epoch: 5 January 2026."""
STEP = 5 * 3600 + 17 * 60
"""Seconds from one commit to the next."""
SOURCE = "linux-source-6.1"
NO_CONFIGURATION = {
    "PATH": os.environ.get("PATH", os.defpath),
    "LC_ALL": "C",
    "HOME": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_DEFAULT_HASH": "sha1",
}


class HistoryError(Exception):
    """The history could not be made: the destination is taken, a patch does not fit, or git failed."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch of ``history/``: ``author`` is (name, address), ``message`` has its subject."""

    name: str
    author: tuple[str, str]
    message: str
    builds: bool = True


@dataclass(frozen=True, slots=True)
class Topic:
    """Patches that belong together, in order; those of ``main`` get no branch."""

    name: str
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """``history/series``, read."""

    before: tuple[Patch, ...]
    topics: tuple[Topic, ...]
    bugs: Mapping[str, Patch]


def read_patch(name: str, builds: bool = True) -> Patch:
    """Read a patch of ``history/``; raises HistoryError where it has no author or subject."""
    head, _, body = (HISTORY / name).read_text(encoding="utf-8").partition("\n\n")
    author = re.search(r"^From: (.*) <(.*)>$", head, re.MULTILINE)
    subject = re.search(r"^Subject: \[PATCH\] (.*)$", head, re.MULTILINE)
    if author is None or subject is None:
        raise HistoryError(f"history/{name}: no author or no subject")
    message = f"{subject[1]}\n\n{body.partition(chr(10) + '---' + chr(10))[0].strip()}\n"
    return Patch(name, (author[1], author[2]), message, builds)


def read_series() -> Series:
    """Read ``history/series``; raises HistoryError where a line is not right."""
    before: list[Patch] = []
    topics: list[tuple[str, list[Patch]]] = []
    bugs: dict[str, Patch] = {}
    for line in (HISTORY / "series").read_text(encoding="utf-8").splitlines():
        match line.partition("#")[0].split():
            case []:
                continue
            case ["before", name]:
                before.append(read_patch(name))
            case ["plant", bug, name]:
                bugs[bug] = read_patch(name)
            case ["main"]:
                topics.append((MAIN, []))
            case ["topic", name]:
                topics.append((name, []))
            case [name, *marks] if topics and marks in ([], ["no-build"]):
                topics[-1][1].append(read_patch(name, not marks))
            case _:
                raise HistoryError(f"history/series: not understood: {line}")
    return Series(tuple(before), tuple(Topic(name, tuple(patches)) for name, patches in topics), bugs)


def plan(series: Series, bug: str, seed: int) -> list[Topic]:
    """Return the topics in the order that ``seed`` gives, with the bug's patch in one of networking's."""
    dice = random.Random(seed)
    topics = list(series.topics)
    dice.shuffle(topics)
    networking = [place for place, topic in enumerate(topics) if topic.name.startswith("net/")]
    chosen = dice.choice(networking)
    patches = list(topics[chosen].patches)
    # Not among those that do not build: the culprit itself is to be testable.
    free = [at for at in range(len(patches) + 1) if at == 0 or patches[at - 1].builds]
    patches.insert(dice.choice(free), series.bugs[bug])
    topics[chosen] = Topic(topics[chosen].name, tuple(patches))
    return topics


@dataclass(slots=True)
class Maker:
    """Makes commits in a bare repository, without a checkout."""

    repo: Path
    clock: int = BEGAN
    commits: dict[str, str] = field(default_factory=dict)
    """Hash by the name of the patch."""
    messages: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    index_tree: str = ""

    def git(
        self, *args: str, stdin: bytes | None = None, who: tuple[str, str] = MAINTAINER, check: bool = True
    ) -> str:
        """Run git with nothing of this machine's configuration."""
        date = f"{self.clock} +0000"
        env = NO_CONFIGURATION | {
            "GIT_DIR": str(self.repo),
            "GIT_INDEX_FILE": str(self.repo / "ktriage-index"),
            "GIT_AUTHOR_NAME": who[0],
            "GIT_AUTHOR_EMAIL": who[1],
            "GIT_AUTHOR_DATE": date,
            "GIT_COMMITTER_NAME": MAINTAINER[0],
            "GIT_COMMITTER_EMAIL": MAINTAINER[1],
            "GIT_COMMITTER_DATE": date,
        }
        try:
            done = subprocess.run(["git", *args], env=env, input=stdin, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise HistoryError("git is not installed") from error
        if done.returncode and check:
            said = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
            raise HistoryError(f"git {args[0]}: {said.splitlines()[0] if said else done.returncode}")
        return "" if done.returncode else done.stdout.decode().strip()

    def tree(self, commit: str) -> str:
        """Return the tree of a commit."""
        return self.git("rev-parse", f"{commit}^{{tree}}")

    def commit(self, tree: str, parents: list[str], message: str, who: tuple[str, str] = MAINTAINER) -> str:
        """Make a commit and return its hash; a little time passes."""
        self.clock += STEP
        options = [word for parent in parents for word in ("-p", parent)]
        return self.git("commit-tree", tree, *options, "-F", "-", stdin=message.encode(), who=who)

    def apply(self, patch: Patch, parent: str) -> str:
        """Put a patch on a commit and return the new one, or ``parent`` where it does not fit this source."""
        if self.index_tree != (tree := self.tree(parent)):
            self.git("read-tree", tree)
            self.index_tree = tree
        try:
            self.git("apply", "--cached", "--whitespace=nowarn", str(HISTORY / patch.name))
        except HistoryError:
            self.skipped.append(patch.name)
            return parent
        self.index_tree = self.git("write-tree")
        made = self.commit(self.index_tree, [parent], self._message(patch), patch.author)
        self.commits[patch.name] = made
        self.messages[patch.name] = patch.message.splitlines()[0]
        return made

    def _message(self, patch: Patch) -> str:
        """Return a patch's message with the commits that it names by the names of their patches."""

        def named(match: re.Match[str]) -> str:
            name = f"{match[1]}.patch"
            return (
                f'{self.commits[name][:12]} ("{self.messages[name]}")' if name in self.commits else match[0]
            )

        return re.sub(r"@([\w-]+)@", named, patch.message)

    def merge(self, branch: str, into: str, tip: str) -> str:
        """Merge ``tip`` of ``branch`` into the commit ``into`` and return the merge."""
        tree = self.git("merge-tree", "--write-tree", into, tip).splitlines()[0]
        return self.commit(tree, [into, tip], f"Merge branch '{branch}'\n")


def entries(source: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (mode, path from the top, path) of the files and links of a source tree, sorted."""
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if name not in (".git", ".pc", "__pycache__"))
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in sorted(names + links):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            kind = "120000" if stat.S_ISLNK(mode) else "100755" if mode & stat.S_IXUSR else "100644"
            yield kind, str(path.relative_to(source)), path


def import_source(maker: Maker, source: Path, name: str) -> str:
    """Make a commit of a source tree and return it; it is packed lightly, which is three times as fast."""
    options = ["-c", "core.compression=1", "-c", "pack.compression=1", "-c", "core.bigFileThreshold=1m"]
    process = subprocess.Popen(
        ["git", *options, "fast-import", "--quiet", "--done"],
        env=NO_CONFIGURATION | {"GIT_DIR": str(maker.repo)},
        stdin=subprocess.PIPE,
    )
    assert process.stdin
    message = f"Import {name}\n".encode()
    maker.clock += STEP
    who = f"{MAINTAINER[0]} <{MAINTAINER[1]}> {maker.clock} +0000\n".encode()
    write = process.stdin.write
    try:
        write(b"commit refs/heads/main\nauthor " + who + b"committer " + who)
        write(b"data %d\n%s\n" % (len(message), message))
        for mode, path, file in entries(source):
            data = str(file.readlink()).encode() if mode == "120000" else file.read_bytes()
            quoted = path.replace("\\", "\\\\").replace('"', '\\"')
            write(f'M {mode} inline "{quoted}"\ndata {len(data)}\n'.encode() + data + b"\n")
        write(b"done\n")
        process.stdin.close()
    except BrokenPipeError:
        pass
    if process.wait():
        raise HistoryError(f"git fast-import ended with {process.returncode}")
    return maker.git("rev-parse", "refs/heads/main")


def version(source: Path) -> str:
    """Return the kernel's version from the Makefile of its source."""
    text = (source / "Makefile").read_text()
    values = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", text, re.MULTILINE))
    return ".".join(values[key] for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))


def make_history(dest: Path, source: Path, *, bug: str = BUGS[0], seed: int = 0) -> dict[str, object]:
    """Make the repository in ``dest``, a folder that is empty or not there yet; takes about half a minute.

    Returns ``good``, ``bad`` and ``culprit`` as full hashes, how many ``commits`` stand between them, and by
    name the patches that did not fit this source (``skipped``). Raises HistoryError.
    """
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise HistoryError(f"{dest} is there already and not an empty folder")
    if not (source / "MAINTAINERS").is_file():
        raise HistoryError(f"no kernel source in {source}")
    series = read_series()
    dest.mkdir(parents=True, exist_ok=True)
    maker = Maker(dest.resolve())
    maker.git("init", "--quiet", "--bare", "--template=", "--initial-branch=main")
    tip = import_source(maker, source, f"Linux {version(source)}")
    for patch in series.before:
        tip = maker.apply(patch, tip)
    good = tip
    # A branch leaves where main stood one merge ago, so that branches lie side by side.
    earlier = tip
    for topic in plan(series, bug, seed):
        if topic.name == MAIN:
            for patch in topic.patches:
                tip = maker.apply(patch, tip)
            continue
        leaves, head = earlier, earlier
        for patch in topic.patches:
            head = maker.apply(patch, head)
        if head != leaves:
            earlier, tip = tip, maker.merge(topic.name, tip, head)
    (dest / "ktriage-index").unlink(missing_ok=True)
    planted = series.bugs[bug].name
    missing = [patch.name for patch in (*series.before, series.bugs[bug]) if patch.name in maker.skipped]
    if missing:
        raise HistoryError(f"history/{missing[0]} does not fit {source}")
    for name, commit in (("heads/main", tip), ("tags/good", good), ("tags/bad", tip)):
        maker.git("update-ref", f"refs/{name}", commit)
    return {
        "good": good,
        "bad": tip,
        "culprit": maker.commits[planted],
        "commits": int(maker.git("rev-list", "--count", f"{good}..{tip}")),
        "skipped": maker.skipped,
    }


def debian_source() -> Path:
    """Return the folder of Debian's kernel source, fetched where it is not in the cache."""
    # Only who has no source of their own needs ktriage here.
    from ktriage.kernel.tree import packaged_source

    return packaged_source(SOURCE, progress=lambda text: print(text, file=sys.stderr))


def main() -> int:
    """Make the repository in the folder that is named, and print good, bad and culprit as JSON."""
    parser = argparse.ArgumentParser(description="Make a git history on top of Debian's kernel source.")
    parser.add_argument("dest", type=Path, help="folder to make it in: empty, or not there yet")
    parser.add_argument("--bug", choices=BUGS, default=BUGS[0], help="which one is planted (underflow)")
    parser.add_argument("--seed", type=int, default=0, help="decides where it is (0)")
    parser.add_argument("--source", type=Path, help=f"kernel source (Debian's {SOURCE})")
    args = parser.parse_args()
    try:
        made = make_history(args.dest, args.source or debian_source(), bug=args.bug, seed=args.seed)
    except (HistoryError, OSError) as error:
        print(f"make_history: {error}", file=sys.stderr)
        return 2
    for name in made["skipped"] if isinstance(made["skipped"], list) else []:
        print(f"make_history: {name} does not fit this source and is left out", file=sys.stderr)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the harnesses share: a run that goes on after a failure, slow inputs, a mutator that knows lines.

Every harness takes libFuzzer's options and, before them, its own: ``--cpu-minutes N`` ends the run after so
much processor time (default: none), ``--max-mb N`` bounds its memory. Inputs that widen the coverage are
kept in ``~/.cache/ktriage/fuzz/NAME`` and are where the next run begins; what failed is in
``~/.cache/ktriage/fuzz/NAME-found``, once for each place in the code: the input and, as ``.txt``, why.
With files as arguments, each of them is run once. Needs atheris: ``pip install -e .[fuzz]``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris

from ktriage.cache import cache_root

SLOW_SECONDS = 0.5
"""So much processor time an input may take however small; the code is slowed by its instruments."""
SLOW_SECONDS_PER_MB = 40.0
LONGEST = 64 << 10
_SLOWER = 1.5

Target = Callable[[bytes], None]


class Run:
    """One run of a target: what failed, what was slow, and when it is time to end."""

    def __init__(self, name: str, target: Target, cpu_seconds: float) -> None:
        self._target = target
        self._limit = cpu_seconds
        self._found = cache_root() / "fuzz" / f"{name}-found"
        self._found.mkdir(parents=True, exist_ok=True)
        self._failures: set[str] = set()
        self._slowest = 0.0
        self._count = 0
        self._memory: list[int] = []

    def once(self, data: bytes) -> None:
        """Run the target on one input; raises nothing that the target raised."""
        began = time.process_time()
        try:
            self._target(data)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is what is looked for
            self._failed(data, error)
        now = time.process_time()
        self._timed(data, now - began)
        self._count += 1
        if self._count % 10_000 == 0:
            self._memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        if self._limit and now > self._limit:
            self._end()

    def _failed(self, data: bytes, error: Exception) -> None:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/harness" not in f.filename]
        place = f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}"
        if place not in self._failures:
            self._failures.add(place)
            self._keep(data, place, "".join(traceback.format_exception(error)))

    def _timed(self, data: bytes, seconds: float) -> None:
        allowed = SLOW_SECONDS + SLOW_SECONDS_PER_MB * len(data) / 1e6
        if seconds / allowed > max(1.0, _SLOWER * self._slowest):
            self._slowest = seconds / allowed
            self._failures.add("slow")
            self._keep(data, "slow", f"{seconds:.2f} s of processor time for {len(data)} bytes\n")

    def _keep(self, data: bytes, what: str, why: str) -> None:
        path = self._found / hashlib.sha256(data).hexdigest()[:12]
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{what}\n\n{why}")
        print(f"found: {what}: {path}", flush=True)

    def _end(self) -> None:
        print(
            f"{self._count} inputs in {time.process_time():.0f} s of processor time, "
            f"{len(self._failures)} kinds of failure; "
            f"peak memory in MB at every 10000 inputs: {self._memory}",
            flush=True,
        )
        # libFuzzer has no other way to stop from within.
        os._exit(1 if self._failures else 0)


def fuzz(
    name: str, target: Target, seeds: Iterable[bytes], words: Iterable[str] = (), *, lines: bool = True
) -> None:
    """Fuzz ``target``; does not return.

    ``seeds`` are put into the corpus (cut at 64 KB), ``words`` become the dictionary, and with
    ``lines`` half the inputs are made by moving lines instead of bytes.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--cpu-minutes", type=float, default=0.0)
    parser.add_argument("--max-mb", type=int, default=1024)
    options, rest = parser.parse_known_args()
    run = Run(name, target, options.cpu_minutes * 60)
    files = [Path(argument) for argument in rest if not argument.startswith("-")]
    if files:
        for file in files:
            target(file.read_bytes())
        return
    corpus = cache_root() / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        data = seed[:LONGEST]
        (corpus / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    dictionary = corpus.with_suffix(".dict")
    known = list(dict.fromkeys(words))
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in known))
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-dict={dictionary}",
        f"-max_len={LONGEST}",
        f"-rss_limit_mb={options.max_mb}",
        "-timeout=60",
        f"-artifact_prefix={corpus}-found/",
        *rest,
    ]
    mutator = _line_mutator([word.encode() for word in known])
    atheris.Setup(arguments, run.once, **({"custom_mutator": mutator} if lines else {}))
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(
        char if " " <= char <= "~" and char not in '"\\' else f"\\x{byte:02x}"
        for char, byte in zip(word, word.encode("latin-1"), strict=True)
    )


def _line_mutator(words: list[bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that moves, repeats, cuts and joins lines, or leaves it to libFuzzer."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)  # not for secrets
        lines = data.split(b"\n")
        if len(lines) < 2 or chance.random() < 0.4:
            mutated: bytes = atheris.Mutate(data, len(data))
            return mutated
        for _ in range(chance.choice((1, 1, 2, 4))):
            chance.choice(_MOVES)(lines, chance, words)
        return b"\n".join(lines)[:max_size]

    return mutate


def _spot(lines: list[bytes], chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(lines))
    return start, start + min(chance.choice((1, 1, 2, 5, 20)), len(lines) - start)


def _drop(lines: list[bytes], chance: random.Random, _: list[bytes]) -> None:
    start, end = _spot(lines, chance)
    if end - start < len(lines):
        del lines[start:end]


def _repeat(lines: list[bytes], chance: random.Random, _: list[bytes]) -> None:
    start, end = _spot(lines, chance)
    lines[start:end] = lines[start:end] * chance.choice((2, 3, 30))


def _move(lines: list[bytes], chance: random.Random, _: list[bytes]) -> None:
    start, end = _spot(lines, chance)
    moved = lines[start:end]
    del lines[start:end]
    at = chance.randrange(len(lines) + 1)
    lines[at:at] = moved


def _shuffle(lines: list[bytes], chance: random.Random, _: list[bytes]) -> None:
    start, end = _spot(lines, chance)
    part = lines[start:end]
    chance.shuffle(part)
    lines[start:end] = part


def _cut(lines: list[bytes], chance: random.Random, _: list[bytes]) -> None:
    at = chance.randrange(len(lines))
    place = chance.randrange(len(lines[at]) + 1)
    lines[at] = lines[at][:place] if chance.random() < 0.5 else lines[at][place:]


def _join(lines: list[bytes], chance: random.Random, _: list[bytes]) -> None:
    at = chance.randrange(len(lines))
    lines[at : at + 2] = [b"".join(lines[at : at + 2])]


def _word(lines: list[bytes], chance: random.Random, words: list[bytes]) -> None:
    if words:
        at = chance.randrange(len(lines))
        place = chance.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + chance.choice(words) + lines[at][place:]


_MOVES = (_drop, _repeat, _move, _shuffle, _cut, _join, _word)

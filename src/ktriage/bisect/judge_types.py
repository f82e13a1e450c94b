"""What can be said of a bisection that someone else made: the belief that its runs support, and doubts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Weight = Literal["strong", "weak", "note"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Commits that the tested revisions do not tell apart, and the chance that the culprit is among them.

    They are those that ``commit`` has and ``after`` has not, ``commits`` of them as far as that is known.
    """

    commit: str
    after: str | None
    commits: float | None
    probability: float
    title: str | None = None


@dataclass(frozen=True, slots=True)
class More:
    """Runs that would tell more: ``runs`` at ``commit``, the first of which is worth ``gain`` bits.

    ``reaches`` is how probable the likeliest commit is after them, if they come out as expected.
    """

    commit: str
    runs: int
    gain: float
    reaches: float
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Belief:
    """What the runs of a log support.

    ``model`` is ``graph`` where the commits of a repository were weighed, ``chain`` where only the tested
    revisions are known, put in a line as the bisection narrowed. ``claimed`` is the probability of the
    commit that the log names, None where it names none. ``already`` and ``nowhere`` are the chances that
    the good revision has the culprit, and that no revision has. ``titles`` gives, for each other title,
    the chance that it is the ``hunted`` crash under another name. ``assumed`` runs are taken for each line
    that gives no number. ``entropy`` is what stays unknown, in bits. ``approximate`` says that the log does
    not tell how many commits lie between all its revisions.
    """

    model: Literal["chain", "graph"]
    hunted: str | None
    stretches: tuple[Stretch, ...]
    claimed: float | None
    already: float
    nowhere: float
    entropy: float
    crash_rate: float
    crash_interval: tuple[float, float]
    false_rate: float
    titles: dict[str, float] = field(default_factory=dict)
    assumed: int | None = None
    approximate: bool = False
    more: tuple[More, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage bisect audit --json`` has as ``posterior``."""
        data = asdict(self)
        data["candidates"] = data.pop("stretches")
        return data


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason not to take the answer on trust, or where ``weight`` is ``note``, why one need not worry.

    ``kind`` names it for programs, ``evidence`` has the numbers that ``text`` says in words.
    """

    kind: str
    weight: Weight
    text: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage bisect audit --json`` has in ``doubts``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The belief, None where no revision was tested, and the doubts, the strongest first."""

    belief: Belief | None
    doubts: tuple[Doubt, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the log: ``files`` on the crash's stack, innermost first, without the code that
    only reports; the files and parents of the commit that the log names; ``notes`` on what could not be had.
    """  # noqa: D205 (one sentence)

    files: tuple[str, ...] = ()
    culprit_files: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def say(probability: float) -> str:
    """Say a probability in two digits, and one next to 1 as ``over`` so many nines.

    >>> say(0.00291), say(3.2e-7), say(0.99995), say(1.0)
    ('0.0029', '3.2e-07', 'over 0.9999', '1')
    """
    if 0.999 < probability < 1:
        return f"over {min(int(probability * 10_000), 9999) / 10_000}"
    return f"{probability:.2g}"


def plural(count: int, one: str) -> str:
    """Say how many of what: ``1 run``, ``2 runs``."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"

"""The balance of gets and puts by call path, outermost function first.

Most paths take or drop only: a factory's gets are dropped in a sink. Which imbalance is legitimate is learnt
(``pairing``): the paths that belong together and balance, save for what is still held, are folded away. What
is accused stands out with all that leads to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ktriage.refs.judge import is_accused
from ktriage.refs.ledger import Ledger
from ktriage.refs.types import Account, Counted, Path

_DEEPEST = 100


@dataclass(slots=True)
class Node:
    """A function with all that was called from it.

    ``leaked`` and ``overput`` are how many gets and puts below are accused. ``paths`` counts the call paths
    that end here or below.
    """

    name: str
    gets: int = 0
    puts: int = 0
    leaked: int = 0
    overput: int = 0
    paths: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the node as JSON has it."""
        data: dict[str, Any] = {name: getattr(self, name) for name in Node.__slots__ if name != "children"}
        data["children"] = [child.to_json() for child in self.children.values()]
        return data


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the printed tree. ``folded`` lines stand for ``paths`` call paths in balance."""

    depth: int
    text: str
    gets: int
    puts: int
    leaked: int = 0
    overput: int = 0
    folded: int = 0


def balance_tree(ledger: Ledger, account: Account) -> Node:
    """Return the tree of one object; its root is the object."""
    accused = is_accused(account)
    root = Node(account.object)
    for path, gets, puts in paths_of(ledger, account):
        node = root
        wrong = accused.get(path.names, (0, 0))
        _add(node, gets, puts, wrong)
        for place in (*reversed(path.places[path.site : path.site + _DEEPEST]),):
            node = node.children.setdefault(str(place), Node(str(place)))
            _add(node, gets, puts, wrong)
        accused.pop(path.names, None)
    return root


def _add(node: Node, gets: int, puts: int, wrong: tuple[int, int]) -> None:
    node.gets += gets
    node.puts += puts
    node.leaked += wrong[0]
    node.overput += wrong[1]
    node.paths += 1


def paths_of(ledger: Ledger, account: Account) -> Iterator[tuple[Path, int, int]]:
    """Yield each call path of an object with how often it took and dropped."""
    counted = ledger.names.known(Counted(account.kind, account.object))
    for path, use in ledger.uses.get(counted, {}).items():
        yield ledger.names.paths[path], use.gets, use.puts


def printed(root: Node) -> Iterator[Line]:
    """Yield the tree's lines: a chain of callers with one callee each is one line, balance is folded."""
    yield Line(0, root.name, root.gets, root.puts, root.leaked, root.overput)
    yield from _below(root, 1)


def _below(node: Node, depth: int) -> Iterator[Line]:
    wrong = [child for child in node.children.values() if child.leaked or child.overput]
    right = [child for child in node.children.values() if not (child.leaked or child.overput)]
    for child in sorted(wrong, key=lambda child: -(child.leaked + child.overput)):
        chain, last = [child.name], child
        while len(last.children) == 1 and (only := next(iter(last.children.values()))).paths == last.paths:
            chain.append(only.name)
            last = only
        yield Line(depth, " > ".join(chain), child.gets, child.puts, child.leaked, child.overput)
        yield from _below(last, depth + 1)
    if right:
        paths = sum(child.paths for child in right)
        gets, puts = sum(child.gets for child in right), sum(child.puts for child in right)
        yield Line(depth, _named(right), gets, puts, folded=paths)


def _named(nodes: list[Node]) -> str:
    shown = ", ".join(node.name for node in sorted(nodes, key=lambda node: -(node.gets + node.puts))[:3])
    return shown if len(nodes) <= 3 else f"{shown} and {len(nodes) - 3} more"


def folded(ledger: Ledger, accounts: Iterable[Account]) -> Iterator[str]:
    """Yield folded stacks as flame graph programs read them: ``object;outer;...;inner;get 12``."""
    for account in accounts:
        counts: dict[str, int] = defaultdict(int)
        for path, gets, puts in paths_of(ledger, account):
            names = ";".join(str(place).replace(";", ":") for place in reversed(path.places[path.site :]))
            stack = ";".join(part for part in (account.object.replace(";", ":"), names) if part)
            counts[f"{stack};get"] += gets
            counts[f"{stack};put"] += puts
        yield from (f"{stack} {count}" for stack, count in counts.items() if count)

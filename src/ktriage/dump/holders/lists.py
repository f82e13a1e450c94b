"""drgn's walks along lists and trees, stopped where they run in a circle.

A list of a broken kernel may lead back into itself and never to its head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import drgn
from drgn.helpers.linux import block, fs, net, rbtree
from drgn.helpers.linux import list as lists

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")

MOST_ITEMS = 1 << 20


def once(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items; raises ValueError where an object comes again, or there are too many."""
    seen: set[int] = set()
    for count, item in enumerate(items):
        if isinstance(item, drgn.Object) and item.type_.kind == drgn.TypeKind.POINTER:
            address = item.value_()
            if address in seen:
                raise ValueError(f"it runs in a circle at {address:#x}")
            seen.add(address)
        if count >= MOST_ITEMS:
            raise ValueError(f"it does not end after {count:,}")
        yield item


def list_for_each_entry(type_name: str, head: drgn.Object, member: str) -> Iterator[drgn.Object]:
    """Yield the entries of a ``struct list_head *``."""
    return once(lists.list_for_each_entry(type_name, head, member))


def hlist_for_each_entry(type_name: str, head: drgn.Object, member: str) -> Iterator[drgn.Object]:
    """Yield the entries of a ``struct hlist_head *``."""
    return once(lists.hlist_for_each_entry(type_name, head, member))


def rbtree_inorder_for_each_entry(type_name: str, root: drgn.Object, member: str) -> Iterator[drgn.Object]:
    """Yield the entries of a ``struct rb_root *``; a tree that leads back raises RecursionError."""
    return once(rbtree.rbtree_inorder_for_each_entry(type_name, root, member))


def for_each_disk(program: drgn.Program) -> Iterator[drgn.Object]:
    """Yield all disks, as ``struct gendisk *``."""
    return once(block.for_each_disk(program))


def super_block_for_each_mount(super_block: drgn.Object) -> Iterator[drgn.Object]:
    """Yield the mounts of a ``struct super_block *``."""
    return once(fs.super_block_for_each_mount(super_block))


def neigh_table_for_each_neighbor(table: drgn.Object) -> Iterator[drgn.Object]:
    """Yield the neighbours of a ``struct neigh_hash_table *``."""
    return once(net.neigh_table_for_each_neighbor(table))

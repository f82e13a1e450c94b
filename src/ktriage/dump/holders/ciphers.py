"""The crypto API: transforms, counted by algorithm. Who has them the kernel does not record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.walk import BROKEN, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

REGISTERED = 1
"""What a registered algorithm's count starts at (``__crypto_register_alg()`` in crypto/algapi.c)."""


def algorithms_in_use(walk: Walk) -> Iterator[Holder]:
    """Yield how many references are taken through each algorithm.

    ``crypto_mod_get()`` counts up ``cra_refcnt`` and takes a reference to ``cra_module``, once for each
    transform; so what is above the one of being registered is bound, exactly.
    """
    head = walk.variable("crypto_alg_list")
    if head is None:
        return
    algorithms = list_for_each_entry("struct crypto_alg", head.address_of_(), "cra_list")
    for algorithm in walk.each("the algorithms of the crypto API", algorithms):
        try:
            owner = walk.owner(algorithm.cra_module)
            count = int(algorithm.cra_refcnt.refs.counter) - REGISTERED
        except BROKEN as error:
            walk.note(f"algorithm {algorithm.value_():#x}", error)
            continue
        if owner and count > 0:
            path = f"transforms of {text(algorithm.cra_driver_name)} (who has them is not recorded)"
            yield Holder(owner, "crypto", algorithm.value_(), "struct crypto_alg", path, count)

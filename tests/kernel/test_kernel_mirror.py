"""Trees that come from another machine: the first whole, later ones as what is new in them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ktriage.errors import MachineryError
from ktriage.history.repository import Repository
from ktriage.kernel import Checkout
from ktriage.kernel.mirror import Mirror


def test_trees_come_whole_and_then_in_parts(small_kernel, tmp_path: Path, monkeypatch) -> None:
    noise = random.Random(1)
    files = {f"noise/{n}.c": "".join(f"{noise.random()}\n" for _ in range(2000)) for n in range(3)}
    small_kernel.commit("noise", files)
    old = small_kernel.git("rev-parse", "HEAD^{tree}")
    name = "noise/1.c"
    small_kernel.commit("one line", {name: files[name].replace("\n", "\n1\n", 1)})
    patch = small_kernel.git("diff", "HEAD~1") + "\n"
    small_kernel.git("checkout", "-q", "HEAD~1")
    small_kernel.commit("another", {"more.c": "int most;\n"})
    checkout = Checkout(Repository(small_kernel.path))
    new, _ = checkout.tree_of("HEAD", (patch,))  # which no commit has
    assert new
    packs = {}
    for key, tree, without in (("whole", old, ()), ("part", new, (old,))):
        packs[key] = tmp_path / key
        checkout.pack(tree, without, packs[key])
    assert packs["part"].stat().st_size < 2000 < packs["whole"].stat().st_size
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "there"))
    mirror = Mirror("small")
    with pytest.raises(MachineryError, match="is broken"):
        mirror.take(new, packs["part"])
    assert mirror.trees() == ()
    mirror.take(old, packs["whole"])
    mirror.take(new, packs["part"])
    assert Mirror("small").trees() == (old, new)
    there = mirror.checkout()
    assert there.code_of(new) == checkout.code_of(new)
    with there.held():
        assert (there.move(old) / name).read_text() == files[name]
        assert (there.move(new) / "more.c").read_text() == "int most;\n"
        assert (there.tree / name).read_text().splitlines()[1] == "1"
    cut = tmp_path / "cut"
    cut.write_bytes(packs["whole"].read_bytes()[:-100])
    with pytest.raises(MachineryError, match="is broken"):
        Mirror("other").take(old, cut)

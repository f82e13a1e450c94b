"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ktriage.kernel import Kernel, packaged_kernel
from ktriage.machine import Guest, GuestSpec, prepare

PACKAGE = "linux-image-cloud-amd64"


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """Return Debian's newest cloud kernel, with headers."""
    return packaged_kernel(PACKAGE, headers=True)


@pytest.fixture(scope="session")
def guest(kernel: Kernel) -> Guest:
    """Return a saved guest on that kernel."""
    return prepare(GuestSpec(kernel.image, kernel.modules))


@pytest.fixture
def small_disk() -> Iterator[Callable[[str, Path], Path]]:
    """Return what mounts a disk of a size, as "16k", at a place that it makes; skips where it may not."""
    mounted = []

    def mount(size: str, place: Path) -> Path:
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True
        )
        if done.returncode:
            pytest.skip("no right to mount a small disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


class Repo:
    """A git repository that tests write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "A Developer")
        self.git("config", "user.email", "dev@example.org")

    def git(self, *arguments: str) -> str:
        """Run git in the repository and return what it prints."""
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, subject: str, files: dict[str, str]) -> str:
        """Write files, commit them and return the commit's hash."""
        for name, text in files.items():
            place = self.path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Return an empty git repository."""
    return Repo(tmp_path / "repo")


SMALL_MAKEFILE = """\
tinyconfig olddefconfig:
	@mkdir -p $(O) && touch $(KCONFIG_CONFIG) && sort -o $(KCONFIG_CONFIG) $(KCONFIG_CONFIG)
vmlinux: $(O)/vmlinux
	@mkdir -p $(O)/include/config && echo 6.1.0-small > $(O)/include/config/kernel.release
	@nm $(O)/vmlinux > $(O)/System.map
bzImage: vmlinux
	@mkdir -p $(O)/arch/x86/boot && cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
$(O)/vmlinux: $(O)/init.o $(O)/more.o
	$(CC) $(KCFLAGS) -nostdlib -static -Wl,--build-id -o $@ $^
$(O)/%.o: %.c
	@echo "  CC      $*.o"
	$(CC) $(KCFLAGS) -g -O2 -ffreestanding -c -o $@ $(CURDIR)/$<
"""
SMALL_INIT = "int answer = %s;\nvoid _start(void) { for (;;) answer++; }\n"
SMALL_FILES = {
    "Makefile": SMALL_MAKEFILE,
    "Kconfig": 'config A\n\tbool "A"\n',
    "scripts/kconfig/merge_config.sh": "",
    "arch/x86/x.S": "",
    "arch/arm/a.S": "",
    "Documentation/admin.rst": "Text.\n",
    "init.c": SMALL_INIT % "42",
    "more.c": "int more;\n",
}
"""A tree that has a kernel's makefile targets, and is built in no time; it does not boot."""


@pytest.fixture
def small_kernel(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """Return a repository with one commit of a small tree; what is built of it goes to a cache of its own."""
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "cache"))
    repo.commit("small", SMALL_FILES)
    return repo

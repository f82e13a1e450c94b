"""What of a reproducer is to be shortened: a C program, a script, or the specification's commands."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ktriage.errors import UserError
from ktriage.machine import Program
from ktriage.trial import Spec
from ktriage.trial.pieces import c_guards, c_pieces, c_wrappings, line_pieces
from ktriage.trial.shrink import Split

STRICT = (
    "-Werror=implicit-function-declaration",
    "-Werror=implicit-int",
    "-Werror=int-conversion",
    "-Werror=incompatible-pointer-types",
    "-Werror=return-type",
    "-Werror=uninitialized",
    "-Werror=maybe-uninitialized",
)
"""Without these a C compiler takes programs that no longer say what they mean; they cost no run then."""
ANY_EXIT_CODE = tuple(range(256))
_COMMANDS = re.compile(r"^commands\s*=\s*\[.*?\]\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Target:
    """A text and the place that it has in the guest.

    ``path`` is the file that holds it, ``place`` the path in the guest that a shorter one is put to, None for
    the specification's own commands. ``compiled`` says that it is a C program.
    """

    path: Path
    place: str | None
    compiled: bool
    commands: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What to call it."""
        return self.path.name if self.place else f"the commands of {self.path.name}"

    @property
    def output(self) -> Path:
        """Where the shorter one is written unless told otherwise: beside the original."""
        return self.path.with_name(f"{self.path.stem}.min{self.path.suffix}")

    def text(self) -> bytes:
        """Return the text that is to be shortened; raises UserError where it can't be read."""
        if self.place is None:
            return "".join(f"{command}\n" for command in self.commands).encode()
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from error

    def splits(self) -> tuple[Split, ...]:
        """Return the ways to tell what of a text can be taken out by itself."""
        if self.compiled:
            return c_pieces, c_wrappings, c_guards
        return (partial(line_pieces, comments=self.place is not None),)

    def lines(self, text: bytes) -> int:
        """Count the lines that have something on them."""
        return sum(bool(line.strip()) for line in text.splitlines())

    def build(self, text: bytes, folder: Path) -> Path | None:
        """Return the file that goes into the guest, or None where ``text`` makes none."""
        made = folder / hashlib.sha256(text).hexdigest()[:20]
        if not text.strip():
            return None
        if self.compiled:
            return made if made.exists() or self._compile(text, made) else None
        made.write_bytes(text)
        shell = self.place is None or re.match(rb"#!.*\b(?:ba|da|a)?sh\b", text) or self.path.suffix == ".sh"
        if shell and subprocess.run(["/bin/sh", "-n", made], capture_output=True, check=False).returncode:
            return None
        return made

    def _compile(self, text: bytes, made: Path) -> bool:
        """Compile a C text; with ``STRICT`` unless the original does not stand it."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise UserError("no C compiler on this machine", hint="apt-get install gcc libc6-dev")
        command = [compiler, "-x", "c", "-static", *Program(self.path).flags, f"-I{self.path.parent}"]
        command += ["-o", str(made), "-"]
        original = text == self.text()
        for flags in (STRICT, ()) if original else (STRICT if self._strict(made.parent) else (),):
            done = subprocess.run([*command, *flags], input=text, capture_output=True, check=False)
            if done.returncode == 0:
                if original and flags:
                    (made.parent / "strict").touch()
                return True
        return False

    def _strict(self, folder: Path) -> bool:
        return (folder / "strict").exists()

    def spec(self, spec: Spec, text: bytes, folder: Path, timeout: float | None) -> Spec:
        """Return a specification that runs ``text``, built before, in place of the original."""
        limit = spec.run.timeout if timeout is None else min(timeout, spec.run.timeout)
        # How a shortened program ends says nothing of the machine.
        run = spec.run.model_copy(update={"timeout": limit, "exit_codes": ANY_EXIT_CODE, "vmcore": "never"})
        if self.place is None:
            commands = tuple(line for line in text.decode(errors="surrogateescape").splitlines() if line)
            return spec.model_copy(update={"run": run.model_copy(update={"commands": commands})})
        made = folder / hashlib.sha256(text).hexdigest()[:20]
        files = {**spec.guest.files, self.place: str(made.resolve())}
        return spec.model_copy(update={"run": run, "guest": spec.guest.model_copy(update={"files": files})})

    def tidy(self, text: bytes, folder: Path) -> bytes:
        """Return a text without the empty lines that were left side by side, where that changes nothing."""
        tidied = re.sub(rb"\{\n{2,}", b"{\n", re.sub(rb"\{ +\}", b"{ }", text))
        tidied = re.sub(rb"\n{3,}", b"\n\n", tidied).lstrip(b"\n")
        before, after = self.build(text, folder), self.build(tidied, folder)
        same = before and after and (not self.compiled or before.read_bytes() == after.read_bytes())
        return tidied if same else text

    def write(self, text: bytes, place: Path) -> None:
        """Write the shorter one: a file of its kind, or a specification with fewer commands."""
        if self.place is not None:
            place.write_bytes(text)
            return
        lines = [line for line in text.decode(errors="surrogateescape").splitlines() if line]
        quoted = "".join(f"    {_quoted(line)},\n" for line in lines)
        before = self.path.read_text(encoding="utf-8")
        place.write_text(
            _COMMANDS.sub(lambda _: f"commands = [\n{quoted}]", before, count=1), encoding="utf-8"
        )


def _quoted(text: str) -> str:
    """Return a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
    return f'"{escaped}"'


def find_target(spec: Spec, path: Path, file: Path | None = None) -> Target:
    """Return what of a specification at ``path`` is to be shortened: ``file``, or what there is one of.

    Raises UserError where that is not clear.
    """
    sources = {spec.path(name).resolve(): name for name in spec.guest.compile}
    files = {spec.path(name).resolve(): place for place, name in spec.guest.files.items()}
    if file is not None:
        resolved = file.resolve()
        if resolved in sources:
            return Target(file, f"/bin/{file.stem}", compiled=True)
        if resolved in files:
            return Target(file, files[resolved], compiled=False)
        raise UserError(f"{file} is neither in [guest] compile nor in files of {path}")
    if len(sources) == 1:
        source = next(iter(sources))
        return Target(source, f"/bin/{source.stem}", compiled=True)
    if not sources and len(files) == 1:
        source, place = next(iter(files.items()))
        return Target(source, place, compiled=False)
    if not sources and len(spec.run.commands) > 1:
        return Target(path, None, compiled=False, commands=spec.run.commands)
    names = ", ".join(str(source.name) for source in (*sources, *files))
    raise UserError(f"{path} has more than one file that could be shortened: {names}", hint="--file NAME")

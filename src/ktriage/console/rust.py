"""Rust's names as the source has them (RFC 2603, "v0" symbol mangling, which the kernel's Rust code uses).

``_RNvMs_NtCsabc_11rust_binder7processNtB4_7Process5flush`` is ``<rust_binder::process::Process>::flush``.
"""

from __future__ import annotations

from collections.abc import Callable

_BASIC = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize",
    "j": "usize", "l": "i32", "m": "u32", "n": "i128", "o": "u128", "p": "_", "s": "i16", "t": "u16",
    "u": "()", "v": "...", "x": "i64", "y": "u64", "z": "!",
}  # fmt: skip
_DIGITS = "0123456789"
_BASE62 = _DIGITS + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DEEPEST = 64
_LONGEST = 4096


class _NotRustError(Exception):
    """The name is no v0 symbol after all."""


def demangled(name: str) -> str:
    """Return ``name`` as Rust's source has it; what is no Rust symbol comes back as it is."""
    if not name.startswith("_R") or len(name) < 4 or name[2] in _DIGITS:
        return name
    try:
        return _Parser(name[2:]).path(in_type=False)
    except (_NotRustError, IndexError, ValueError):
        return name


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._made = 0

    def _next(self) -> str:
        char = self._text[self._at]
        self._at += 1
        return char

    def _take(self, char: str) -> bool:
        if self._text[self._at : self._at + 1] != char:
            return False
        self._at += 1
        return True

    def _deeper(self) -> None:
        self._depth += 1
        self._made += 1
        if self._depth > _DEEPEST or self._made > _LONGEST:
            raise _NotRustError

    def _base62(self) -> int:
        if self._take("_"):
            return 0
        value = 0
        while (char := self._next()) != "_":
            digit = _BASE62.find(char)
            if digit < 0:
                raise _NotRustError
            value = value * 62 + digit
        return value + 1

    def _disambiguator(self) -> int:
        return self._base62() + 1 if self._take("s") else 0

    def _identifier(self) -> str:
        puny = self._take("u")
        start = self._at
        while self._text[self._at : self._at + 1] in tuple(_DIGITS):
            self._at += 1
        length = int(self._text[start : self._at] or "0")
        self._take("_")
        word = self._text[self._at : self._at + length]
        if len(word) < length:
            raise _NotRustError
        self._at += length
        return f"punycode{{{word}}}" if puny else word

    def _back(self, read: Callable[[], str]) -> str:
        """Read what stands earlier in the name, which only may point further back."""
        start = self._at - 1
        target = self._base62()
        if target >= start:
            raise _NotRustError
        here, self._at = self._at, target
        text = read()
        self._at = here
        return text

    def path(self, *, in_type: bool) -> str:
        """Read a path."""
        self._deeper()
        try:
            return self._path(self._next(), in_type=in_type)
        finally:
            self._depth -= 1

    def _path(self, kind: str, *, in_type: bool) -> str:
        match kind:
            case "C":
                self._disambiguator()
                return self._identifier()
            case "M":
                self._skip_impl()
                return f"<{self._type()}>"
            case "X":
                self._skip_impl()
                return f"<{self._type()} as {self.path(in_type=True)}>"
            case "Y":
                return f"<{self._type()} as {self.path(in_type=True)}>"
            case "N":
                return self._nested(self._next(), in_type=in_type)
            case "I":
                path = self.path(in_type=in_type)
                return f"{path}{'' if in_type else '::'}<{', '.join(self._until_end(self._argument))}>"
            case "B":
                return self._back(lambda: self.path(in_type=in_type))
        raise _NotRustError

    def _skip_impl(self) -> None:
        self._disambiguator()
        self.path(in_type=True)

    def _nested(self, space: str, *, in_type: bool) -> str:
        path = self.path(in_type=in_type)
        number = self._disambiguator()
        word = self._identifier()
        if space.isupper():
            what = {"C": "closure", "S": "shim"}.get(space, space)
            return f"{path}::{{{what}{':' + word if word else ''}#{number}}}"
        return f"{path}::{word}" if word else path

    def _until_end(self, read: Callable[[], str]) -> list[str]:
        items = []
        while not self._take("E"):
            items.append(read())
        return items

    def _argument(self) -> str:
        if self._take("L"):
            return self._lifetime()
        if self._take("K"):
            return self._constant()
        return self._type()

    def _lifetime(self) -> str:
        number = self._base62()
        return f"'{chr(96 + number)}" if 0 < number <= 26 else "'_"

    def _type(self) -> str:
        self._deeper()
        try:
            kind = self._next()
            return _BASIC.get(kind) or self._compound(kind)
        finally:
            self._depth -= 1

    def _compound(self, kind: str) -> str:
        match kind:
            case "A":
                return f"[{self._type()}; {self._constant()}]"
            case "S":
                return f"[{self._type()}]"
            case "T":
                items = self._until_end(self._type)
                return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
            case "R" | "Q":
                if self._take("L"):
                    self._lifetime()
                return ("&mut " if kind == "Q" else "&") + self._type()
            case "P":
                return f"*const {self._type()}"
            case "O":
                return f"*mut {self._type()}"
            case "F":
                return self._function()
            case "D":
                return self._dynamic()
            case "B":
                return self._back(self._type)
        return self._path(kind, in_type=True)

    def _function(self) -> str:
        if self._take("G"):
            self._base62()
        unsafe = "unsafe " if self._take("U") else ""
        abi = ""
        if self._take("K"):
            abi = f'extern "{"C" if self._take("C") else self._identifier().replace("_", "-")}" '
        arguments = ", ".join(self._until_end(self._type))
        returned = self._type()
        return f"{unsafe}{abi}fn({arguments})" + ("" if returned == "()" else f" -> {returned}")

    def _dynamic(self) -> str:
        if self._take("G"):
            self._base62()
        traits = " + ".join(self._until_end(self._trait))
        if self._take("L"):
            self._lifetime()
        return f"dyn {traits}"

    def _trait(self) -> str:
        path = self.path(in_type=True)
        bound = []
        while self._take("p"):
            bound.append(f"{self._identifier()} = {self._type()}")
        return f"{path}<{', '.join(bound)}>" if bound else path

    def _constant(self) -> str:
        kind = self._next()
        if kind == "B":
            return self._back(self._constant)
        if kind == "p":
            return "_"
        sign = "-" if self._take("n") else ""
        start = self._at
        while self._next() != "_":
            pass
        value = int(self._text[start : self._at - 1] or "0", 16)
        if kind == "b":
            return "true" if value else "false"
        return f"{sign}{value}"

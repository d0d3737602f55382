"""Reads shell text into the simple commands of which it is made, and refuses what it does not know.

A grammar of our own, because what it is for is to refuse. Kept parsers of shell (bashlex, tree-sitter-bash)
aim to accept, and go on after what they have misread; shfmt, which is exact, is a process for each command.
This one knows the part of POSIX shell that checks are written in: lists, pipelines, groups, `if`, `for`,
`while`, quotes, `$name` and `$(…)`. In all that it reads dash and bash agree; everything else is Unreadable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNKNOWN = "\0"
"""What stands in a word for what only the shell will know."""

_BLANK, _BREAK = " \t", " \t\n;&|()<>"
_RESERVED = re.compile(r"(?:[a-z]+|[!{}])(?=[ \t\n;&|()<>]|\Z)")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_PARAMETER = re.compile(rf"\$(?:\{{(?:{_NAME}|[0-9@*#?$!-])\}}|{_NAME}|[0-9@*#?$!-])")
_ASSIGNMENT = re.compile(rf"({_NAME})(?:\+?=|\[)")
_FOR = re.compile(rf"[ \t]+({_NAME})(?=[ \t\n;])")
_IN = re.compile(r"[ \t\n]*in(?=[ \t\n;])")
_REDIRECTION = re.compile(r"\d*(<<<|<<|<>|<&|<|>>|>&|>\||>)")
_DESCRIPTOR = re.compile(r"(?:\d|-)(?=[ \t\n;&|()<>]|\Z)")
_OWN_NAME = re.compile(r"[a-z_][a-z0-9_]*|LANG|LC_[A-Z]+|TZ")
"""Variables that text may set: PATH, IFS, LD_PRELOAD and the like decide what its commands are."""


class Unreadable(Exception):
    """Text that is not shell as checks are written, or that writes by itself; the message says what."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word without its quotes; it `splits` where the shell may make others of it, `globs` where paths."""

    text: str
    splits: bool = False
    globs: bool = False

    @property
    def is_one(self) -> bool:
        """Whether it stays one word."""
        return not (self.splits or self.globs)

    @property
    def is_fixed(self) -> bool:
        """Whether it stays just this."""
        return self.is_one and UNKNOWN not in self.text

    @property
    def is_operand(self) -> bool:
        """Whether nothing that becomes of it is an option."""
        start = self.text[:1]
        return (self.is_fixed and start != "-") or (
            not self.splits and start not in {"", "-", "*", "?", "[", UNKNOWN}
        )


@dataclass(frozen=True, slots=True)
class Command:
    """A simple command: its program and arguments, and whether its input comes from a file."""

    words: tuple[Word, ...]
    fed: bool = False


def commands(text: str) -> tuple[Command, ...]:
    """Every simple command of `text`, those of its substitutions too; raises Unreadable."""
    if UNKNOWN in text:
        raise Unreadable("there is a NUL in it")
    reader = _Reader(text)
    try:
        reader.read_list()
    except RecursionError:
        raise Unreadable("it is nested too deep") from None
    return tuple(reader.found)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self.found: list[Command] = []

    def read_list(self, *enders: str) -> str:
        """Commands up to one of these words, or to the end of the text; which of them it was."""
        while True:
            self._skip(_BLANK + "\n")
            if (ender := self._ender(enders)) is not None:
                return ender
            self._pipeline()
            self._skip(_BLANK)
            if self._takes("&&") or self._takes("||") or self._next in ("", "\n", ")"):
                continue
            if not self._takes(";") or self._next == ";":
                raise self._unreadable()

    def _ender(self, enders: tuple[str, ...]) -> str | None:
        if not self._next and not enders:
            return ""
        for word in enders:
            if word == ")" and self._takes(")"):
                return word
        found = _RESERVED.match(self._text, self._at)
        if found and found[0] in enders:
            self._at = found.end()
            return found[0]
        return None

    def _pipeline(self) -> None:
        while (found := _RESERVED.match(self._text, self._at)) and found[0] == "!":
            self._at = found.end()
            self._skip(_BLANK)
        self._command()
        self._skip(_BLANK)
        while self._next == "|" and not self._text.startswith(("||", "|&"), self._at):
            self._at += 1
            self._skip(_BLANK + "\n")
            self._command()
            self._skip(_BLANK)

    def _command(self) -> None:
        if self._text.startswith("((", self._at):
            raise Unreadable("arithmetic is not read")
        found = _RESERVED.match(self._text, self._at)
        word = "(" if self._next == "(" else found[0] if found else ""
        compound = {"(": self._subshell, "{": self._group, "if": self._if, "for": self._for,
                    "while": self._while, "until": self._while}.get(word)  # fmt: skip
        if compound is None:
            self._simple()
            return
        self._at += len(word)
        compound()
        self._skip(_BLANK)
        while self._redirection() is not None:
            self._skip(_BLANK)

    def _subshell(self) -> None:
        self.read_list(")")

    def _group(self) -> None:
        self.read_list("}")

    def _if(self) -> None:
        ender = "elif"
        while ender == "elif":
            self.read_list("then")
            ender = self.read_list("elif", "else", "fi")
        if ender == "else":
            self.read_list("fi")

    def _while(self) -> None:
        self.read_list("do")
        self.read_list("done")

    def _for(self) -> None:
        name = _FOR.match(self._text, self._at)
        if name is None:
            raise self._unreadable()
        _require_own(name[1])
        self._at = name.end()
        if words := _IN.match(self._text, self._at):
            self._at = words.end()
            self._skip(_BLANK)
            while self._next not in ("", ";", "\n"):
                self._word()
                self._skip(_BLANK)
        self._skip(_BLANK)
        self._takes(";")
        self._skip(_BLANK + "\n")
        if self._ender(("do",)) is None:
            raise self._unreadable()
        self.read_list("done")

    def _simple(self) -> None:
        words: list[Word] = []
        start, fed = self._at, False
        while True:
            self._skip(_BLANK)
            if (reads := self._redirection()) is not None:
                fed |= reads
            elif self._next in ("", "\n", ";", "&", "|", "(", ")"):
                break
            elif not words and (name := _ASSIGNMENT.match(self._text, self._at)):
                self._assignment(name)
            else:
                words.append(self._word())
        if self._at == start:
            raise self._unreadable()
        if words:
            self.found.append(Command(tuple(words), fed))

    def _assignment(self, name: re.Match[str]) -> None:
        _require_own(name[1])
        if name[0].endswith("["):
            raise Unreadable("arrays are not read")
        self._at = name.end()
        if self._next not in ("", *_BREAK):
            self._word()

    def _redirection(self) -> bool | None:
        """Whether a redirection that begins here is of a file that is read; None when none begins here."""
        found = _REDIRECTION.match(self._text, self._at)
        if found is None:
            return None
        self._at, kind = found.end(), found[1]
        if kind in ("<&", ">&"):
            if (descriptor := _DESCRIPTOR.match(self._text, self._at)) is None:
                raise Unreadable(f"{kind} leads elsewhere than to an open file")
            self._at = descriptor.end()
            return False
        if kind not in ("<", ">", ">>"):
            raise Unreadable(f"{kind} is not read")
        self._skip(_BLANK)
        target = self._word()
        if kind != "<" and not (target.is_fixed and target.text == "/dev/null"):
            raise Unreadable(f"{kind} writes into {shown(target)}")
        return kind == "<"

    def _word(self) -> Word:
        start, text, splits, globs = self._at, "", False, False
        while (char := self._next) and char not in _BREAK:
            if char == "'":
                text += self._single()
            elif char == '"':
                more, many = self._double()
                text, splits = text + more, splits or many
            elif char == "\\":
                text += self._escaped()
            elif char == "$":
                more = self._dollar("(['\"")
                text, splits = text + more, splits or more == UNKNOWN
            elif char == "`":
                raise Unreadable("backquotes are not read: write $(…)")
            else:
                self._at += 1
                text, globs = text + char, globs or char in "*?[~"
                splits |= char == "{"  # bash makes several words of {a,b}
        if self._at == start:
            raise self._unreadable()
        return Word(text, splits, globs)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise Unreadable("a quote is left open")
        text, self._at = self._text[self._at + 1 : end], end + 1
        return text

    def _double(self) -> tuple[str, bool]:
        """What stands between double quotes, and whether `$@` may make several words of it."""
        text, many = "", False
        self._at += 1
        while (char := self._next) != '"':
            if char == "$":
                many |= self._text.startswith(("$@", "${@}"), self._at)
                text += self._dollar("[")
            elif char == "\\" and self._text[self._at + 1 : self._at + 2] in ("$", "`", '"', "\\", "\n"):
                text += self._escaped()
            elif char in ("", "`"):
                raise Unreadable("backquotes are not read: write $(…)" if char else "a quote is left open")
            else:
                self._at += 1
                text += char
        self._at += 1
        return text, many

    def _escaped(self) -> str:
        char = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if not char:
            raise Unreadable("a backslash is left open")
        return "" if char == "\n" else char

    def _dollar(self, strange: str) -> str:
        """What a `$` begins: a parameter or a substitution, UNKNOWN; else it is itself."""
        if self._text.startswith("$((", self._at):
            raise Unreadable("arithmetic is not read")
        if self._takes("$("):
            self.read_list(")")
            return UNKNOWN
        if found := _PARAMETER.match(self._text, self._at):
            self._at = found.end()
            return UNKNOWN
        self._at += 1
        after = self._text[self._at : self._at + 1]
        # A line may go on between a `$` and its name.
        if (after and after in f"{{{strange}") or self._text.startswith("\\\n", self._at):
            raise Unreadable(f"${after} is not read")
        return "$"

    @property
    def _next(self) -> str:
        """The next character, "" at the end; a line that goes on after a backslash is one line."""
        while self._text.startswith("\\\n", self._at):
            self._at += 2
        return self._text[self._at : self._at + 1]

    def _skip(self, blanks: str) -> None:
        """Go on to what is neither blank nor comment."""
        while self._next and self._next in blanks:
            self._at += 1
        if self._next == "#":
            end = self._text.find("\n", self._at)
            self._at = len(self._text) if end < 0 else end
            self._skip(blanks)

    def _takes(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _unreadable(self) -> Unreadable:
        rest = self._text[self._at :].split("\n")[0][:40]
        return Unreadable(f'"{rest}" is not read here' if rest else "it ends too early")


def shown(word: Word) -> str:
    """A word for people: what is not known of it as an ellipsis."""
    return word.text.replace(UNKNOWN, "…")[:80]


def _require_own(name: str) -> None:
    if not _OWN_NAME.fullmatch(name):
        raise Unreadable(f"{name} may decide what other commands do")

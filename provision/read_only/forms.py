"""In which forms a program only reads: with which options, and with what besides them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from provision.read_only.shell import Command, Word, shown


class NotReading(Exception):
    """A command that is not on the list; the message says which part of it, and why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a program is told: options with their values, the rest, and whether it is `fed` from a file."""

    options: tuple[tuple[str, Word | None], ...]
    operands: tuple[Word, ...]
    fed: bool

    def of(self, *names: str) -> list[str]:
        """The values of an option, by any of its names."""
        return [value.text for name, value in self.options if name in names and value is not None]

    @property
    def rest(self) -> str:
        """The operands as one text."""
        return " ".join(word.text for word in self.operands)


@dataclass(frozen=True, slots=True)
class Form:
    """How a program reads: options without a value and with one ("-n="), and the rest, as a pattern.

    Letters may be put together ("-Hlt") where each is an option. `early` are the options of programs that
    look for none after the first operand. `also` judges what a pattern cannot.
    """

    options: str = ""
    rest: str = r".*"
    early: bool = False
    also: Callable[[Told], None] | None = None

    def judge(self, program: str, command: Command) -> None:
        """Raise NotReading when what the program is told is of no such form."""
        told = self.read(program, command)
        if not re.fullmatch(self.rest, told.rest, re.DOTALL):
            raise NotReading(
                f'{program} is not known to only read with "{" ".join(map(shown, told.operands))}"'
            )
        if self.also:
            self.also(told)

    def read(self, program: str, command: Command) -> Told:
        """Tell options from operands; raises NotReading for an option that is none of the form's."""
        options: list[tuple[str, Word | None]] = []
        operands: list[Word] = []
        rest = iter(command.words[1:])
        for word in rest:
            if word.is_fixed and word.text == "--":
                operands += rest
            elif word.is_operand or word.text == "-":
                operands += [word, *(rest if self.early else ())]
            else:
                options += self._option(program, word, rest)
        return Told(tuple(options), tuple(operands), command.fed)

    def _option(self, program: str, word: Word, rest: Iterator[Word]) -> Iterator[tuple[str, Word | None]]:
        known, (name, equals, value) = self.options.split(), word.text.partition("=")
        if not word.is_fixed:
            raise NotReading(f"{program} is told what only the shell will know ({shown(word)})")
        if word.text in known:
            yield word.text, None
        elif f"{name}=" in known:
            yield name, Word(value) if equals else _value(program, name, rest)
        else:
            yield from self._letters(program, word.text, rest)

    def _letters(self, program: str, text: str, rest: Iterator[Word]) -> Iterator[tuple[str, Word | None]]:
        known = self.options.split()
        for at, letter in enumerate(text[1:], 2):
            option = f"-{letter}"
            if f"{option}=" in known and not text.startswith("--"):
                yield option, Word(text[at:]) if text[at:] else _value(program, option, rest)
                return
            if option not in known or text.startswith("--"):
                raise NotReading(f"{program} is not known to only read with {text}")
            yield option, None


def _value(program: str, name: str, rest: Iterator[Word]) -> Word:
    value = next(rest, None)
    if value is None or not value.is_one:
        raise NotReading(f"{program} {name} has no value that is known before the shell runs")
    return value

"""Script: the commands of a batch script, read as the shell reads them, to know what becomes of a name in them.

In a word of a command a value can be anything: the shell does not read it again. Elsewhere, in what the shell or
another program reads as text of its own (``bash -c``, ``eval``, a here-document, ``$( )``), a value could become a
command. What is not understood here counts as that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from asyncckpt.launch.slurm.readers import reader_of, reads_input

NAME = re.compile(r"\{\{[ \t]*(\w*)[ \t]*\}\}")
_HERE = re.compile(r"<<(-?)[ \t]*\\?(['\"]?)([^\s'\"<>;&|()]+)\2")
_SUMS = frozenset({"$(( ))", "(( ))", "$[ ]"})
"""What is worked out: there ``<<`` begins no document."""


@dataclass(slots=True)
class Place:
    """Where a name stands: in which quote (``#`` is a comment), and who reads there again, if anybody does."""

    start: int
    end: int
    name: str
    quote: str
    reader: str | None = None


@dataclass(slots=True)
class Word:
    """A word without its quotes, NUL for a name, and whether there is anything in it that parts words or commands."""

    text: str = ""
    places: list[Place] = field(default_factory=list)
    is_long: bool = False


class Script:
    """Finds the `places` of names in `text`."""

    def __init__(self, text: str) -> None:
        self.places: list[Place] = []
        self._text = text
        self._at = 0
        self._nested: list[str] = []
        """What is open around us that is read again, outermost first."""
        self._lost: str | None = None
        """Why everything from here on may be anything."""
        self._words: list[Word] = []
        self._word: Word | None = None
        self._is_piped = False
        self._piped: str | None = None
        self._awaited: list[tuple[bool, str]] = []
        while self._at < len(text):
            self._element()
        self._end_command(piped=False)
        for place in self.places:
            # Whatever a group of commands prints may go into a pipe.
            place.reader = place.reader or (self._piped if place.quote != "#" else None)

    def line(self, place: Place) -> int:
        """The line that `place` is in, from 1."""
        return self._text.count("\n", 0, place.start) + 1

    def _element(self, *, has_single: bool = True) -> None:
        """Go on by one name, quote, escape, nested text or character."""
        text, at = self._text, self._at
        two = text[at : at + 2]
        if self._took_name("") or self._took_nested(two, in_quotes=False):
            return
        if two[0] == "\\":
            self._say(two[1:].strip("\n"))
            self._at += 2
        elif two in ("$'", '$"'):
            self._quoted(two)
        elif two[0] == '"' or (two[0] == "'" and has_single):
            self._quoted(two[0])
        elif two[0] == "#" and self._word is None and self._nested[-1:] != ["${ }"]:
            self._comment()
        elif two == "<<" and _SUMS.isdisjoint(self._nested):
            self._here()
        else:
            self._character(text[at])

    def _took_name(self, quote: str) -> bool:
        found = NAME.match(self._text, self._at)
        if found is None:
            return False
        place = Place(found.start(), found.end(), found[1], quote)
        if quote != "#":
            place.reader = self._nested[0] if self._nested else self._lost
            self._say("\0").places.append(place)
        self.places.append(place)
        self._at = found.end()
        return True

    def _took_nested(self, two: str, *, in_quotes: bool) -> bool:
        if two[:1] == "`":
            self._inside("`", "`", "`")
        elif two in ("$(", "<(", ">(") and not (in_quotes and two != "$("):
            is_sum = self._text.startswith("$((", self._at)
            self._inside(two, ")", "$(( ))" if is_sum else f"{two} )")
        elif two == "${":
            self._inside(two, "}", "${ }", single=not in_quotes)
        elif two == "$[":
            self._inside(two, "]", "$[ ]", single=not in_quotes)
        elif two == "((" or (two[:1] == "(" and self._nested):
            self._inside("(", ")", "( )" if self._nested else "(( ))")
        else:
            return False
        return True

    def _inside(self, opening: str, closing: str, reader: str, *, single: bool = True) -> None:
        """Go on behind what closes; names on the way are read again."""
        begin = self._at
        self._say("", is_long=False)
        outer, self._word = self._word, Word()
        self._at += len(opening)
        self._nested.append(reader)
        while self._at < len(self._text) and not self._text.startswith(closing, self._at):
            self._element(has_single=single)
        self._at += len(closing)
        self._nested.pop()
        self._word = outer
        if re.search(r"\bcase\b", self._text[begin : self._at]):
            self._lost = "what follows a case in $( )"  # its patterns end as the parenthesis does

    def _quoted(self, quote: str) -> None:
        """Go on behind a quote."""
        first = len(self.places)
        kind = quote[-1]
        self._say("")
        self._at += len(quote)
        while self._at < len(self._text) and self._text[self._at] != kind:
            two = self._text[self._at : self._at + 2]
            if self._took_name(kind):
                if quote == "$'":
                    self.places[-1].reader = "$' '"
            elif two[0] == "\\" and quote != "'":
                self._say(two[1:])
                self._at += 2
            elif kind != '"' or not self._took_nested(two, in_quotes=True):
                self._say(two[0], is_long=two[0].isspace() or two[0] in ";&|")
                self._at += 1
        if self._at >= len(self._text):
            for place in self.places[first:]:
                place.reader = "a quote that is not closed"
        self._at += 1

    def _comment(self) -> None:
        while self._at < len(self._text) and self._text[self._at] != "\n":
            if not self._took_name("#"):
                self._at += 1

    def _here(self) -> None:
        """Note a here-document, whose text begins with the next line."""
        self._end_word()
        if self._text.startswith("<<<", self._at):
            self._words.append(Word("<<<"))
            self._at += 3
        elif found := _HERE.match(self._text, self._at):
            self._awaited.append((bool(found[1]), found[3]))
            self._at = found.end()
        else:
            self._lost = "what follows <<"
            self._at += 2

    def _character(self, character: str) -> None:
        self._at += 1
        before, after = self._text[self._at - 2 : self._at - 1], self._text[self._at : self._at + 1]
        if character == "&" and (before in ("<", ">") or after == ">"):
            self._say(character)  # of a redirection
        elif character == "|" and after != "|" and before not in ("|", ">"):
            self._at += after == "&"
            self._end_command(piped=True)
        elif character in ";&|()\n":
            self._end_command(piped=False)
            if character == "\n":
                self._documents()
        elif character.isspace():
            self._end_word()
        else:
            self._say(character)

    def _documents(self) -> None:
        """Go on behind the here-documents that were awaited; names in them are read again."""
        for is_indented, mark in self._awaited:
            while self._at < len(self._text):
                end = self._text.find("\n", self._at) + 1 or len(self._text) + 1
                line = self._text[self._at : end - 1]
                for found in NAME.finditer(line):
                    start = self._at + found.start()
                    place = Place(start, start + len(found[0]), found[1], "", "a here-document")
                    self.places.append(place)
                self._at = end
                if (line.lstrip("\t") if is_indented else line) == mark:
                    break
        self._awaited.clear()

    def _say(self, text: str, *, is_long: bool = False) -> Word:
        if self._word is None:
            self._word = Word()
        self._word.text += text
        self._word.is_long |= is_long
        return self._word

    def _end_word(self) -> None:
        if self._word is not None and not self._nested:
            self._words.append(self._word)
        self._word = None

    def _end_command(self, *, piped: bool) -> None:
        self._end_word()
        if self._nested:
            return
        reader = reader_of([word.text for word in self._words])
        if reader is not None and self._is_piped and reads_input(reader):
            self._piped = f"| {reader}"
        self._tell(reader or _named_by_a_job(self._words))
        if self._words or piped:
            self._is_piped = piped
        self._words = []

    def _tell(self, reader: str | None) -> None:
        """Who reads the words of this command again; who gets one with several in it, if it does not only show it."""
        for word in self._words:
            told = reader or ("a text of several words" if word.is_long and not _shows(self._words) else None)
            for place in word.places:
                place.reader = place.reader or told


_BEFORE = re.compile(r"then|do|else|elif|if|while|until|!|time|\{|exec|command|builtin|\w+=.*")
"""What stands before the word that is run."""


def _first(words: list[Word]) -> Word | None:
    return next((word for word in words if not _BEFORE.fullmatch(word.text)), None)


def _named_by_a_job(words: list[Word]) -> str | None:
    """A command whose name is that of a job or of an experiment, which were never meant to be one."""
    first = _first(words)
    if first is None or not first.text.startswith("\0") or first.places[0].name not in ("experiment_name", "job_name"):
        return None
    return "the name of a command"


def _shows(words: list[Word]) -> bool:
    """Whether this command shows its words to somebody, and writes no file of them, which could be a script."""
    first = _first(words)
    said = [word.text for word in words]
    files = [text for text in said if re.match(r"[\d&]?>", text) and not re.match(r"[\d&]?>(&\d|>?/dev/)", text)]
    return first is not None and first.text in ("echo", "printf", "logger") and not files

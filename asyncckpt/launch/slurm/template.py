"""Template: a batch script with ``{{names}}``, of which none can become a command, whatever its value.

In a word of a command a name becomes a variable of the shell, which does not read its value again; in quotes or out of
them it is one word. Where something does read it again, see `script`, only a value of plain characters is put. The
values are in the environment too, as ``ASYNCCKPT_CONFIG_PATH`` and so on: there anything can use any of them. Lines for
sbatch, ``#SBATCH``, are no shell's; in those a value is put in quotes as sbatch reads them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.slurm.script import NAME, Place, Script

_SHELL = re.compile(r"#!\s*/\S*\b(env\s+)?(ba|da|k|z)?sh\b")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
"""What no shell and no other language reads as anything but itself."""

NAMES = ("config_path", "experiment_name", "job_name", "output_dir", "project_root")
"""What a template can name."""

NEEDED = "config_path"


class Template:
    """A batch script in which names stand for what differs from job to job. Raises `ConfigurationError`."""

    def __init__(self, path: Path) -> None:
        try:
            self.text = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the template {path} cannot be read: {error}") from error
        self._path = path
        self._check()
        lines = self.text.splitlines()
        first = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
        self._head = lines[:first]
        self._body = "\n".join(lines[first:])
        self._script = Script(self._body)

    def _check(self) -> None:
        if not _SHELL.match(self.text):
            raise ConfigurationError(f"{self._path} has to begin with the line of a shell, such as #!/bin/bash")
        named = NAME.findall(self.text)
        if unknown := [name for name in named if name not in NAMES]:
            raise ConfigurationError(f"{self._path} names {{{{{unknown[0]}}}}}; there are {', '.join(NAMES)}")
        if NEEDED not in named and variable(NEEDED) not in self.text:
            raise ConfigurationError(f"{self._path} does not name {{{{{NEEDED}}}}}: a job would not know what to run")

    def runs(self, program: str) -> bool:
        """Whether the commands of the script have this word."""
        said = re.sub(r"(?m)(^|\s)#.*", "", self._body)
        return re.search(rf"(?<![\w-]){re.escape(program)}(?![\w-])", said) is not None

    def option(self, pattern: str) -> str | None:
        """The value of the option of sbatch that the script has last itself, by a pattern for what it is called."""
        lines = (line.removeprefix("#SBATCH").partition(" #")[0] for line in self._head if line.startswith("#SBATCH"))
        found = [match[1] for line in lines for match in re.finditer(rf"(?<=\s)(?:{pattern})[=\s]*(\S*)", line)]
        return found[-1] if found else None

    def filled(self, values: Mapping[str, str]) -> str:
        """The script of one job. Raises `ConfigurationError` for a value that is not plain where it has to be."""
        head = [_in_directive(line, values) for line in self._head]
        # Before the first command and after the last line that sbatch reads.
        assigned = [f"export {variable(name)}={shlex.quote(value)}" for name, value in sorted(values.items())]
        made: list[str] = []
        at = 0
        for place in self._script.places:
            made += [self._body[at : place.start], self._put(place, values[place.name])]
            at = place.end
        return "\n".join([*head, *assigned, "".join([*made, self._body[at:]])]) + "\n"

    def _put(self, place: Place, value: str) -> str:
        if place.reader is None:
            opening, closing = {"": ('"', '"'), "'": ("'\"", "\"'")}.get(place.quote, ("", ""))
            return f"{opening}${{{variable(place.name)}}}{closing}"
        if _PLAIN.fullmatch(value):
            return value
        line = len(self._head) + self._script.line(place)
        raise ConfigurationError(
            f"{self._path}, line {line}: {{{{{place.name}}}}} is {value!r}, and with {place.reader} a part of that "
            f"could be run as a command. Name the variable of the environment there, {variable(place.name)}, in a way "
            "that what reads it takes for one, or use letters, digits and @%+=:,./_- only"
        )


def variable(name: str) -> str:
    """The variable of the environment that has the value of a name."""
    return f"ASYNCCKPT_{name.upper()}"


def _in_directive(line: str, values: Mapping[str, str]) -> str:
    def quoted(found: re.Match[str]) -> str:
        text = _CONTROL.sub("_", values[found[1]])
        return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'

    return NAME.sub(quoted, line)

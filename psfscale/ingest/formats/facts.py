"""Single values of an exposure or a CCD: from cards, file names, keys or the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astropy.io import fits

from psfscale.errors import InputError, PsfscaleError
from psfscale.ingest.formats.bounds import matched
from psfscale.ingest.formats.units import to_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psfscale.survey.recipe import NumberSource, TextSource


_MESSAGE = 400
_LONGEST = 128
"""Letters of a word: an id, the name of a filter, the region of a section."""


class FileDefectError(InputError):
    """A file that cannot be ingested, where the recipe is not to blame: it is refused."""


def one_line(error: BaseException) -> str:
    """Return the message of an error of another library without its line ends, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]} ..."


def damage(path: Path, error: Exception) -> str:
    """Return why a file is refused, with its path, from whatever reading it raised."""
    text = one_line(error)
    if not isinstance(error, PsfscaleError):
        text = f"it is damaged ({type(error).__name__}: {text})"
    return text if str(path) in text else f"{path}: {text}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Where the recipe's sources look things up.

    Attributes
    ----------
    path : of the file
    headers : FITS headers, the CCD's own first
    groups : named groups of the file name
    keys : single values of a stack
    """

    path: Path
    headers: tuple[Mapping[str, Any], ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)

    def card(self, names: tuple[str, ...], what: str) -> Any:
        """Value of the first of these cards that a header has."""
        for name in names:
            for header in self.headers:
                if name in header:
                    value = self._read(header, name, what)
                    if value is None or isinstance(value, fits.card.Undefined):
                        msg = f"{self.path}: header card {name} for the {what} has no value"
                        raise FileDefectError(msg)
                    return value
        msg = f"{self.path}: no header card {' or '.join(names)} for the {what}"
        raise FileDefectError(msg)

    def _read(self, header: Mapping[str, Any], name: str, what: str) -> Any:
        try:
            return header[name]
        except (fits.VerifyError, ValueError, TypeError) as error:
            msg = (
                f"{self.path}: header card {name} for the {what} cannot be read: {one_line(error)}"
            )
            raise FileDefectError(msg) from error

    def text(self, source: TextSource, what: str) -> str:
        """The word that `source` points to.

        Raises
        ------
        FileDefectError
            It is missing, empty, or does not match the source's pattern.
        """
        word = str(self._raw(source, what)).strip()
        if source.pattern is not None:
            match = matched(source.pattern, word, whole=False)
            if match is None or not match.groups():
                msg = f"{self.path}: the {what} {word!r} does not match {source.pattern!r}"
                raise FileDefectError(msg)
            word = match.group(1) or ""
        word = source.names.get(word, word)
        if not word:
            msg = f"{self.path}: the {what} is empty"
            raise FileDefectError(msg)
        if not word.isprintable() or len(word) > _LONGEST:
            msg = (
                f"{self.path}: the {what} {word[:_LONGEST]!r} must be of at most {_LONGEST} "
                "letters, without line ends and other control characters"
            )
            raise FileDefectError(msg)
        return word

    def number(self, source: NumberSource, target: str, what: str) -> float:
        """The number that `source` points to, in the unit `target`.

        Raises
        ------
        FileDefectError
            It is missing or not a number.
        InputError
            Its unit is unknown or of another kind.
        """
        raw = self._raw(source, what)
        if hasattr(raw, "item"):
            raw = raw.item()
        try:
            number = to_number(raw, source.unit, target)
        except InputError as error:
            msg = f"{self.path}: {what}: {error}"
            raise InputError(msg) from error
        if not math.isfinite(number):
            msg = f"{self.path}: the {what} is {number}, expected a finite number"
            raise FileDefectError(msg)
        return number

    def _raw(self, source: TextSource | NumberSource, what: str) -> Any:
        if source.card is not None:
            return self.card(source.card, what)
        if source.value is not None:
            return source.value
        if source.key is not None:
            return self._named(self.keys, source.key, f"key for the {what}")
        group = getattr(source, "group", None)
        if group is not None:
            return self._named(self.groups, group, f"group in the file name for the {what}")
        msg = f"{self.path}: the {what} cannot come from a column here"
        raise InputError(msg)

    def _named(self, values: Mapping[str, Any], name: str, what: str) -> Any:
        if name not in values:
            msg = f"{self.path}: no {what} named {name!r}; there are {sorted(values) or 'none'}"
            raise FileDefectError(msg)
        return values[name]


def filename_groups(path: Path, pattern: str | None) -> dict[str, str]:
    """Named groups of the file name; empty without a pattern.

    Raises
    ------
    FileDefectError
        The name does not match.
    """
    if pattern is None:
        return {}
    match = matched(pattern, path.name, whole=True)
    if match is None:
        msg = f"{path}: the file name does not match {pattern!r}"
        raise FileDefectError(msg)
    return {name: text for name, text in match.groupdict().items() if text is not None}


def sibling(path: Path, pattern: str, names: Mapping[str, object]) -> Path:
    """Path of a file beside `path`, its pattern filled in.

    Raises
    ------
    FileDefectError
        A filled-in word holds a path separator.
    InputError
        The pattern names something unknown.
    """
    for name, word in names.items():
        if "/" in str(word) or "\\" in str(word) or str(word) == "..":
            msg = f"{path}: {name} {word!r} must not hold a path"
            raise FileDefectError(msg)
    known = {
        "directory": path.parent,
        "root": path.parent.parent,
        "stem": path.name.partition(".")[0],
        **names,
    }
    try:
        return Path(pattern.format(**known))
    except (KeyError, IndexError) as error:
        msg = f"path pattern {pattern!r} names {error}; known are {sorted(known)}"
        raise InputError(msg) from error

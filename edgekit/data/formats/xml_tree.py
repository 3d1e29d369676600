"""Parses small XML files into trees with line numbers; document types and entities are rejected."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from edgekit.data.formats.text_lines import file_bytes, looks_like_html
from edgekit.errors import DataError

__all__ = ["Element", "element_from_file"]

_MAX_BYTES = 4 << 20
_MAX_DEPTH = 64
_DECLARED = re.compile(rb"""\s*<\?xml\s[^>]*?encoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
# Windows writes its own extensions of these, by the same names.
_EAST_ASIAN = {
    "gb2312": "gb18030", "gbk": "gb18030", "gb18030": "gb18030",
    "big5": "cp950", "cp950": "cp950", "big5hkscs": "big5hkscs",
    "shift_jis": "cp932", "cp932": "cp932", "euc_jp": "euc_jp", "iso2022_jp": "iso2022_jp",
    "euc_kr": "cp949", "cp949": "cp949",
}  # fmt: skip
"""Encodings of several bytes by Python's names, which the parser does not know."""


_ENCODING_HINT = 'save it in UTF-8, or declare its encoding in its first line: <?xml version="1.0" encoding="gbk"?>'


@dataclass
class Element:
    """One XML element.

    Attributes:
        tag: tag name.
        line: line of the start tag, from 1.
        text: text before the first child, stripped.
        children: child elements, in order.
    """

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        """Returns the children with this tag."""
        return [child for child in self.children if child.tag == tag]

    def find(self, tag: str) -> Element | None:
        """Returns the first child with this tag, or None."""
        return next(iter(self.all(tag)), None)


def element_from_file(path: Path) -> Element:
    """Parses a file and returns its root element.

    Encodings that the file declares are read, such as gb2312. A document type is rejected, because its entities can
    expand to gigabytes or read other files (CWE-776, CWE-611).

    Raises:
        DataError: the file cannot be read, is not XML, has a document type, or is nested deeper than 64 levels; names
            the line.
    """
    content = file_bytes(path, _MAX_BYTES)
    if looks_like_html(content):
        raise DataError(f"{path}: expected XML, got a web page", hint="download the file itself")
    content, encoding = _in_known_encoding(content, path)
    parser = expat.ParserCreate(encoding)
    tree = _Tree(path, parser)
    try:
        parser.Parse(content, True)
    except expat.ExpatError as e:
        hint = "" if _is_utf8(content) else _ENCODING_HINT
        raise DataError(f"{path}, line {e.lineno}: expected XML, got: {expat.ErrorString(e.code)}", hint=hint) from e
    except (LookupError, ValueError) as e:  # an encoding that Python does not support here
        raise DataError(f"{path}: expected XML in UTF-8, got: {e}", hint=_ENCODING_HINT) from e
    return tree.root.children[0]


def _in_known_encoding(content: bytes, path: Path) -> tuple[bytes, str | None]:
    """Returns a file in an encoding of the parser, and that encoding; None for the one that the file declares."""
    declared = _DECLARED.match(content)
    try:
        name = codecs.lookup(declared[1].decode()).name if declared else ""
    except LookupError:
        return content, None  # the parser says so
    if name not in _EAST_ASIAN:
        return content, None
    try:
        return content.decode(_EAST_ASIAN[name]).encode(), "utf-8"
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise DataError(f"{path}, line {line}: expected XML in {name}, as it declares, got other bytes") from e


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Tree:
    """Expat handlers that build the tree."""

    def __init__(self, path: Path, parser: expat.XMLParserType) -> None:
        self.root = Element("", 0)
        self._path = path
        self._parser = parser
        self._open = [self.root]
        # Comments split a text into many parts: to add each to the text before it would take quadratic time.
        self._texts: list[list[str]] = [[]]
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.buffer_text = True

    def _start(self, tag: str, attributes: object) -> None:
        line = self._parser.CurrentLineNumber
        if len(self._open) > _MAX_DEPTH:
            raise DataError(f"{self._path}, line {line}: expected at most {_MAX_DEPTH} nested elements, got more")
        element = Element(tag, line)
        self._open[-1].children.append(element)
        self._open.append(element)
        self._texts.append([])

    def _end(self, tag: str) -> None:
        element = self._open.pop()
        element.text = "".join(self._texts.pop()).strip()

    def _characters(self, text: str) -> None:
        element = self._open[-1]
        if not element.children:  # the supported formats have only whitespace between elements
            self._texts[-1].append(text)

    def _doctype(self, *_: object) -> None:
        line = self._parser.CurrentLineNumber
        raise DataError(f"{self._path}, line {line}: expected XML without a document type, got <!DOCTYPE")

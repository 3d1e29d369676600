"""Texts of an ONNX file that are not UTF-8, which protobuf reads, but does not write again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["require_texts"]

_COMMENTS = frozenset({"doc_string", "denotation", "metadata_props", "quantization_annotation"})
"""Fields that say something about a part, and change nothing of what it computes."""


def require_texts(message: Message) -> None:
    """Checks all texts of a message and of those in it, and removes comments that are not UTF-8, in place.

    Raises:
        TypeError: a name is not UTF-8.
    """
    for field, value in message.ListFields():
        if field.name in _COMMENTS:
            if not _is_text(field, value):
                message.ClearField(field.name)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if not _is_text(field, value):
                raise TypeError(f"{field.name}: expected text, got {value!r}")
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                require_texts(part)


def _is_text(field: FieldDescriptor, value: Any) -> bool:
    """Whether all texts of a field are UTF-8: protobuf returns others as bytes."""
    parts: Iterable[Any] = (value,) if isinstance(value, (str, bytes, Message)) else value
    if field.type == FieldDescriptor.TYPE_STRING:
        return all(isinstance(part, str) for part in parts)
    # A comment that is a message has texts and other messages, and no numbers.
    return all(_is_text(*inner) for part in parts for inner in part.ListFields())

"""Decodes JSON that may be damaged: whatever is wrong with it is one kind of exception."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import msgspec

__all__ = ["decoded_json"]


_Kind = TypeVar("_Kind")


@overload
def decoded_json(content: bytes) -> Any: ...
@overload
def decoded_json(content: bytes, kind: type[_Kind]) -> _Kind: ...
def decoded_json(content: bytes, kind: Any = Any) -> Any:
    """Decodes JSON with msgspec.

    Args:
        content: the bytes of a file.
        kind: the type to decode to, as in `msgspec.json.decode`.

    Raises:
        msgspec.DecodeError: it is not JSON, not UTF-8, nested too deeply, or of another type (`ValidationError`).
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except UnicodeDecodeError as e:
        raise msgspec.DecodeError("expected text in UTF-8, got other bytes") from e
    except RecursionError as e:
        raise msgspec.DecodeError("expected JSON, got values that are nested too deeply") from e

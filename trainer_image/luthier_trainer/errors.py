"""What can end a run, in words that map to exit codes in one place (`result.exit_code`).

UserError       only another spec or other data can mend it; counts against spec.backoffLimit
StorageError    a UserError: the volume is full or not writable
Superseded      a newer attempt has claimed the run; this one must write nothing more
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG})
# torch and safetensors wrap the operating system's error in text of their own.
_STORAGE_TEXTS = (
    "No space left on device",
    "Read-only file system",
    "Disk quota exceeded",
    "failed writing file",
    # What torch.save says instead, depending on the byte at which the disk was full.
    "iostream error",
    "inline_container.cc",
)


class UserError(Exception):
    """The run cannot succeed as it was asked for."""

    def __init__(self, reason: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field


class StorageError(UserError):
    """A volume is full, read-only or not ours to write."""


class Superseded(Exception):
    """A newer attempt owns the run."""


def is_storage_failure(error: BaseException) -> bool:
    """Tell whether an error, or one that it wraps, says that a volume can't be written."""
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return True
    if any(text in str(error) for text in _STORAGE_TEXTS):
        return True
    return error.__cause__ is not None and is_storage_failure(error.__cause__)


@contextmanager
def reading(uri: str, *, reason: str, field: str) -> Iterator[None]:
    """Turn a file that we may not read into a `UserError` that names it."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            reason, f"{uri}: {error.filename} cannot be read ({error.strerror}); make it readable to everybody",
            field=field,
        ) from error  # fmt: skip


@contextmanager
def writing_to(folder: Path, *, what: str, field: str) -> Iterator[None]:
    """Turn a full or read-only volume into a `StorageError` that names the folder and the way out."""
    # safetensors raises its own Rust-made Exception class, hence the list of four.
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_storage_failure(error):
            raise
        raise StorageError(
            "StorageNotWritable",
            f"{what} could not be written to {folder}: {error}; free or enlarge the volume, or make it writable",
            field=field,
        ) from error

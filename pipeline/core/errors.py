"""The error tree. The type decides whether to retry; `retry.py` alone decides how.

```
PipelineError                                          * = also Transient: can be retried
  ConfigError            names the setting, the origin of its value, and valid values
  ApiError               endpoint, status, code, request_id
    Refused              a 4xx or a non-zero result: a retry gets the same answer
      CredentialsRefused 401, 403, rotated key, suspended project: stops the project's run
      RoomActive         10030, 50004, 50005, 409: a session is running in the room; the next run may succeed
      RoomMissing        40001 or 404: the room never existed or was deleted
    Throttled*           429; carries retry_after_s if the server sent one
    Unreachable*         no connection, 5xx, result 50000 to 50003
      TimedOut*          connected, but no answer in time: a smaller request may succeed
    UnreadableReply*     not the documented JSON, or truncated; carries the reply, so that it can be landed
  RecordError            path, value: the document becomes a reject, the build continues
  FileError              the file host's answer is not the file
    FileRefused          the file host refuses: 401, 403, or a host that must not receive credentials
    FileGone             404, 410, or 403 after the deadline: the server has no such file
    FileUnavailable*     no connection, timeout, 429, 5xx, a truncated body, an error page instead of the file
  StoreError             key
    StoreUnavailable*    disk full, read-only, permission, no connection
    ObjectMissing
    ObjectDiffers        same key, other bytes
    SourceDiffers*       an unfinished upload has other bytes than its source now; it was aborted
  Stopped                stop requested: the remaining items are left to the next run
  LeaseLost              another scheduler holds the lease: this run must record nothing more
  WorkerLost            the process or host that ran the item was lost
  FixityError            key, expected, found:  SizeDiffers   DigestDiffers
```

Every message is one line that names the thing, what is wrong, and the next step.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base class of all errors that this program raises on purpose."""


class Transient(PipelineError):
    """Mixin of errors that a retry may resolve."""

    retry_after_s: float | None = None


class ConfigError(PipelineError):
    """The settings cannot be used."""


class ApiError(PipelineError):
    """EnableX returned an error or no answer."""

    def __init__(
        self,
        message: str,
        *,
        endpoint: str = "",
        status: int | None = None,
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.endpoint, self.status, self.code, self.request_id = endpoint, status, code, request_id


class Refused(ApiError):
    """A retry of this request gets the same answer."""


class CredentialsRefused(Refused):
    """The project's credentials are refused: every other request of the project fails too."""


class RoomActive(Refused):
    """A session is running in the room, so it can be neither changed nor deleted."""


class RoomMissing(Refused):
    """The room does not exist, or no longer exists."""


class Throttled(ApiError, Transient):
    """Too many requests."""


class Unreachable(ApiError, Transient):
    """No answer, or an internal error of EnableX."""


class TimedOut(Unreachable):
    """The request was sent, but no answer arrived in time."""


class UnreadableReply(ApiError, Transient):
    """The answer is not the documented JSON."""


class WorkerLost(PipelineError):
    """The process or host that ran an item was lost."""


class RecordError(PipelineError):
    """One document cannot become a row.

    `path` is the dotted path inside the document, `value` the value at this path (short, never a secret). `is_foreign`:
    the document belongs to another day, whose response has it too.
    """

    def __init__(self, reason: str, *, path: str = "", value: object = None, is_foreign: bool = False) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason, self.path, self.value, self.is_foreign = reason, path, value, is_foreign


class FileError(PipelineError):
    """A media file could not be downloaded."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class FileRefused(FileError):
    """The file host refuses the request, or is not an allowed host."""


class FileGone(FileError):
    """The server has no such file."""


class FileUnavailable(FileError, Transient):
    """The file is temporarily unavailable or arrived incomplete."""


class StoreError(PipelineError):
    """An operation on the lake or the vault failed."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class StoreUnavailable(StoreError, Transient):
    """The store cannot be read or written at the moment."""


class ObjectMissing(StoreError):
    """No object under this key."""


class ObjectDiffers(StoreError):
    """An object with other bytes already exists under this key."""


class SourceDiffers(StoreError, Transient):
    """An unfinished upload has other bytes than its source has now."""


class Stopped(PipelineError):
    """A stop was requested before all items were done."""


class LeaseLost(PipelineError):
    """Another process holds the lease of this run."""


class FixityError(PipelineError):
    """Stored bytes differ from the manifest."""

    def __init__(self, key: str, expected: object, found: object) -> None:
        super().__init__(f"{key}: expected {expected}, found {found}; restore this object from a copy")
        self.key, self.expected, self.found = key, expected, found

    def __reduce__(self) -> tuple[type[FixityError], tuple[str, object, object]]:
        return type(self), (self.key, self.expected, self.found)  # pickled between processes


class SizeDiffers(FixityError):
    """The size differs."""


class DigestDiffers(FixityError):
    """The SHA-256 differs."""

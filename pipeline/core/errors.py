"""The error tree. The type decides whether an attempt is repeated; `retry.py` decides how.

```
PipelineError                                          * = also Transient: worth trying again
  ConfigError            names the setting, where its value came from, what would be valid
  ApiError               endpoint, status, code, request_id
    Refused              a 4xx or a non-zero result: this request will not get better
      CredentialsRefused 401, 403, rotated key, suspended project: stops the project's run
      RoomActive         10030, 50004, 50005, 409: a session is running in the room; the next run may succeed
      RoomMissing        40001 or 404: there is no such room, or none any more
    Throttled*           429; carries retry_after_s when the server said one
    Unreachable*         no connection, 5xx, result 50000 to 50003
      TimedOut*          the server took the question and did not answer in time: a smaller one may help
    UnreadableReply*     not the JSON that was promised, or cut short; carries the reply, so that it can be landed
  RecordError            source, page, path, value: becomes a reject, the build goes on
  FileError              a media file's answer that is not the file
    FileRefused          the file host refuses: 401, 403, or a host that may not see the credentials
    FileGone             404, 410, or 403 long after the session: the server says there is no such file
    FileUnavailable*     no connection, time-out, 429, 5xx, a body cut short, an error page dressed as a file
  StoreError             key
    StoreUnavailable*    disk full, read-only, permission, no connection
    ObjectMissing
    ObjectDiffers        same key, other bytes
    SourceDiffers*       an upload that broke off holds other bytes than its source gives now; it was given up
  Stopped                asked to stop: what is left is for the next run
  LeaseLost              another scheduler holds the job by now; nothing more may be noted of this run
  WorkerLost            the process or host that had the item is gone
  FixityError            key, expected, found:  SizeDiffers   DigestDiffers
```

Every message names the thing and the next step; it is what the operator sees, on one line.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Anything this program raises on purpose."""


class Transient(PipelineError):
    """Mixed into errors that another try may cure."""

    retry_after_s: float | None = None


class ConfigError(PipelineError):
    """The settings cannot be used."""


class ApiError(PipelineError):
    """EnableX answered with an error, or did not answer."""

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
    """The request will not get better by asking again."""


class CredentialsRefused(Refused):
    """The project's credentials do not work: nothing else of this project will either."""


class RoomActive(Refused):
    """A room can be neither changed nor deleted while a session is running in it."""


class RoomMissing(Refused):
    """No such room, or none any more."""


class Throttled(ApiError, Transient):
    """Too many requests."""


class Unreachable(ApiError, Transient):
    """No answer, or the platform's own fault."""


class TimedOut(Unreachable):
    """The question was taken, and no answer came in time."""


class UnreadableReply(ApiError, Transient):
    """An answer that is not the promised JSON."""


class WorkerLost(PipelineError):
    """The process or host that had an item to do is gone."""


class RecordError(PipelineError):
    """One document cannot become a row.

    `path` is the dotted place inside the document, `value` what stood there (short, never a secret).
    """

    def __init__(self, reason: str, *, path: str = "", value: object = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason, self.path, self.value = reason, path, value


class FileError(PipelineError):
    """A media file could not be had."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class FileRefused(FileError):
    """The file host refuses, or may not be asked."""


class FileGone(FileError):
    """The server has no such file."""


class FileUnavailable(FileError, Transient):
    """Not now, or not whole."""


class StoreError(PipelineError):
    """The lake or the vault."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class StoreUnavailable(StoreError, Transient):
    """The store cannot be read or written just now."""


class ObjectMissing(StoreError):
    """No object under this key."""


class ObjectDiffers(StoreError):
    """An object with other bytes is already there."""


class SourceDiffers(StoreError, Transient):
    """What there is of an unfinished object is not what its source gives now."""


class Stopped(PipelineError):
    """Asked to stop before everything was done."""


class LeaseLost(PipelineError):
    """What ran under this lease is another's by now."""


class FixityError(PipelineError):
    """Stored bytes differ from the manifest."""

    def __init__(self, key: str, expected: object, found: object) -> None:
        super().__init__(f"{key}: expected {expected}, found {found}; restore this object from a copy")
        self.key, self.expected, self.found = key, expected, found

    def __reduce__(self) -> tuple[type[FixityError], tuple[str, object, object]]:
        return type(self), (self.key, self.expected, self.found)  # from one process to another


class SizeDiffers(FixityError):
    """Length."""


class DigestDiffers(FixityError):
    """SHA-256."""

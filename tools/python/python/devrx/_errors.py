"""What can go wrong."""

import errno as _errno


class Error(Exception):
    """Something failed: the message says what, why, and what to do.

    ``errno`` is the positive number that a system call would have failed with, ``code`` the kind in a word.
    """

    errno: int
    code: str

    def __init__(self, message: str, errno: int = _errno.EIO, code: str = "internal") -> None:
        super().__init__(message)
        self.errno = errno
        self.code = code

    def __reduce__(self) -> tuple[type["Error"], tuple[str, int, str]]:
        return type(self), (str(self), self.errno, self.code)


class Unreachable(Error):
    """The daemon cannot be reached, or closed the connection."""


class Refused(Error):
    """The daemon refused: the message is the daemon's; ``code`` is ``invalid``, ``not_found``, ``busy``, ``denied``, ``unsupported``,
    ``exhausted``, ``protocol`` or ``internal``."""


class Ended(Error):
    """The attachment has ended, and everything that came before was received. The message has the daemon's reason."""


class Closed(Error):
    """This program closed the receiver."""


class NotReadable(Error):
    """The payload lies in memory that this process cannot read. Its offsets hold on the device."""


class Exhausted(Error):
    """This program holds all chunks of a queue, so that no packet could ever come on it."""

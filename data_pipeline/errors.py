"""The one error a user sees when a request cannot be carried out."""

import errno


class RequestError(ValueError):
    """What was asked for is wrong and the user can mend it: `problems` lists every mistake, each with its way out.

    Anything else that is raised is a fault of ours. The command line prints the problems and ends with `exit_code`.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple:  # survives the way back from a Ray worker
        return type(self), self.problems


class NoRoomError(RequestError):
    """A disk is full: nothing is wrong with the request, which goes on when there is room."""

    exit_code = 3


FULL = (errno.ENOSPC, errno.EDQUOT)


def of_disk(error: OSError) -> type[RequestError]:
    """Return the error that a file which can't be written is: NoRoomError where the disk is full."""
    return NoRoomError if error.errno in FULL else RequestError

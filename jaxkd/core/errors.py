"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """Bad input: the message says what was got, what was expected and what to do.

    The command line prints the message alone, without a traceback, and exits with
    status 2.
    """


# Exit status of an interrupted run; in sysexits.h: temporary failure, try again later.
INTERRUPTED = 75


class Interrupted(Exception):
    """The run was asked to stop, and has saved what there was to save."""

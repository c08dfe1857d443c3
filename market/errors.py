"""The errors a user is meant to read: they say what happened, where, and what to do about it."""


class QuaverError(Exception):
    """A mistake or a state of the world that its reader can do something about.

    The command line prints its text without a traceback and exits with 1.
    """


class Interrupted(QuaverError):
    """The reader has stopped it, and is told how to go on; the command line exits with 130."""

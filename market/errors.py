"""The one error a user is meant to read: it says what happened, where, and what to do about it."""


class QuaverError(Exception):
    """A mistake or a state of the world that its reader can do something about.

    The command line prints its text without a traceback and exits with 1.
    """

"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line: it names the file, row or key, the value found and what would be right. Every
    entry point prints it without a traceback and exits with 1.
    """

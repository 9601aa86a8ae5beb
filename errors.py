"""The two ways in which a command refuses: both carry one line that says given, expected and next step."""


class ExplainedError(Exception):
    """Something failed for a reason that the message explains; the command exits with status 1."""

    exit_status = 1


class UsageError(ExplainedError):
    """The request itself cannot be meant; the command exits with status 2."""

    exit_status = 2

"""What a command prints beside its results."""

import sys


def warn(text: str) -> None:
    """Print one warning line to standard error."""
    print(f"warning: {text}", file=sys.stderr)

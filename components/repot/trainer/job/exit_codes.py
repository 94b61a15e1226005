"""What the exit code of a Job's pod means; the Job's podFailurePolicy reads them."""

WILL_NOT_HELP = 2
"""Starting again changes nothing: the Job fails."""

START_AGAIN = 75
"""Stopped from outside, or another worker is gone: the pod is replaced, however often. (75 is EX_TEMPFAIL.)"""

FAILED = 1
"""Everything else: replaced, but not more than a few times."""

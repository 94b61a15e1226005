"""The container images of the pipeline's tasks; a release replaces the tags by digests."""

from repot import __version__

CPU_IMAGE = f"ghcr.io/repot/repot-cpu:{__version__}"
TRAINER_IMAGE = f"ghcr.io/repot/repot-trainer:{__version__}"

USER_ID = 65532
"""User and group that the processes run as, as in images/."""

"""The container images that the pipeline names; a release replaces them by digests."""

from repot import __version__

CPU_IMAGE = f"ghcr.io/repot/repot-cpu:{__version__}"
TRAINER_IMAGE = f"ghcr.io/repot/repot-trainer:{__version__}"

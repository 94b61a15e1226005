"""Defaults of the command line that are not pipeline parameters; each is defined here only."""

STORAGE_FOLDER = "repot-storage"
OUTPUT_FOLDER = "repot-output"
EXPERIMENT = "repot"
KFP_NAMESPACE = "kubeflow"
POLL_SECONDS = 5.0
"""Interval between two requests for the state of a run."""
START_TIMEOUT_SECONDS = 900.0
"""Time within which every pod of a run that is followed must start."""

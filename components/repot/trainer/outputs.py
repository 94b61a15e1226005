"""What a training leaves behind: the folder model/."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repot import storage
from repot.layout import KERAS_NAME, MODEL_FOLDER
from repot.manifest import LABELS_NAME
from repot.saved_model import export_saved_model

SAVED_MODEL_FOLDER = "saved_model"


def write_model(classifier: Any, labels: Sequence[str], run_uri: str, scratch: Path) -> None:
    """Write model.keras, saved_model/ and labels.txt (line n names class n; class 0 is the background).

    Args:
        classifier: What `repot.classifier.build_classifier` returned, trained.
        labels: N label names; labels[i] has class id i + 1.
        run_uri: Folder of the training.
        scratch: An existing local folder.
    """
    folder = scratch / MODEL_FOLDER
    folder.mkdir()
    with warnings.catch_warnings():
        # Keras 3.15 hands TensorFlow's variables to NumPy 2 in a way that NumPy deprecates.
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        classifier.save(folder / KERAS_NAME)
    export_saved_model(classifier, labels, folder / SAVED_MODEL_FOLDER)
    (folder / LABELS_NAME).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    storage.upload_folder(folder, storage.join(run_uri, MODEL_FOLDER))

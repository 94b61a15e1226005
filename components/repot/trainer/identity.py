"""What makes two trainings the same."""

import repot
from repot import layout
from repot.settings import TrainingSettings


def training_id(dataset_id: str, checkpoint_id: str, settings: TrainingSettings, rebuild: str = "") -> str:
    """Return the id of a training: of its data, its checkpoint, its settings and the code's version.

    Args:
        dataset_id: Id of the data set.
        checkpoint_id: Id of the converted checkpoint.
        settings: How to train.
        rebuild: Any text; another text is another training.
    """
    return layout.content_id(
        {
            "dataset": dataset_id,
            "checkpoint": checkpoint_id,
            "settings": settings.to_json(),
            "version": repot.__version__,
            "rebuild": rebuild,
        }
    )

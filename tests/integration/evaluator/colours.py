"""Pictures of plain colours, and classifiers with hand-made weights: every score is known."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
IMAGE_SIZE = 32
# Colours of the pictures in each label's folder: one picture labelled red is blue.
VALIDATION = {"red": ["red"] * 4 + ["blue"], "green": ["green"] * 4, "blue": ["blue"] * 3}
NUM_VALIDATION = 12

MakeRun = Callable[..., str]


def save_picture(path: Path, colour: str, size: tuple[int, int] = (48, 40)) -> None:
    """Save a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, quality=95)


def save_model(folder: Path, labels: Sequence[str], colours: Sequence[str]) -> None:
    """Save a classifier that predicts labels[i] for colours[i].

    The logits of a picture of colours[i] are 8 for label i and 0 for the others, so the
    probabilities are e^8 / (e^8 + N - 1) and 1 / (e^8 + N - 1).
    """
    import keras
    import numpy as np

    kernel = np.zeros((3, len(labels)), np.float32)
    for i, colour in enumerate(colours):
        kernel[list(COLOURS).index(colour), i] = 8.0
    pictures = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3])
    mean = keras.layers.GlobalAveragePooling2D()(pictures)
    head = keras.layers.Dense(len(labels), activation="softmax", name="probabilities")
    model = keras.Model(pictures, head(mean))
    head.set_weights([kernel, np.zeros(len(labels), np.float32)])
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))

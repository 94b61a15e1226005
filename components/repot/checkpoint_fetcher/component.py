"""The KFP component that fetches a pre-trained checkpoint and converts it for the backbone."""

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fetch_checkpoint(
    checkpoint: str,
    checkpoint_sha256: str,
    checkpoint_values: str,
    checkpoint_version: str,
    backbone: str,
    storage_uri: str,
    checkpoint_id: dsl.OutputPath(str),
    weights: dsl.Output[dsl.Model],
):
    """Fetch a checkpoint once, verify it, and store the backbone's weights under its checksum.

    Args:
        checkpoint_version: Version of the checkpoint's files that the task plan saw. Not used here;
            as part of KFP's cache key it makes a replaced file be fetched again.
    """
    from pathlib import Path

    from repot import layout, progress
    from repot.checkpoint_fetcher import fetch
    from repot.notification import notify_failure
    from repot.settings import empty_if_none

    with progress.task("fetch checkpoint"), notify_failure("fetch checkpoint", storage_uri):
        fetched_id = fetch.fetch_checkpoint(
            checkpoint,
            backbone=backbone,
            values=checkpoint_values,
            checkpoints_uri=layout.checkpoints_uri(storage_uri),
            sha256=empty_if_none(checkpoint_sha256),
        )
    uri = layout.checkpoint_uri(storage_uri, fetched_id)
    for path, text in ((checkpoint_id, fetched_id), (weights.path, uri + "\n")):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    weights.metadata.update(uri=uri, checkpoint_id=fetched_id, backbone=backbone)

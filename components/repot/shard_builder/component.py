"""The KFP components that build a dataset from its plan: build shards, merge."""

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def build_shards(item: str):
    """Build the shards of one work item of Plan; skip finished shards."""
    from repot import progress
    from repot.dataset_plan import Share
    from repot.notification import notify_failure
    from repot.shard_builder.build import build_item

    with (
        progress.task("build shards"),
        notify_failure("build shards", Share.from_item(item).storage_uri),
    ):
        build_item(item)


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def merge(
    dataset_id: str,
    storage_uri: str,
    max_rejected_fraction: float,
    dataset: dsl.Output[dsl.Dataset],
):
    """Account for every picture and write the manifest that completes the dataset."""
    from pathlib import Path

    from repot import layout, progress
    from repot.notification import notify_failure
    from repot.shard_builder.merge import merge_dataset

    with progress.task("merge"), notify_failure("merge", storage_uri):
        uri = layout.dataset_uri(storage_uri, dataset_id)
        manifest = merge_dataset(uri, max_rejected_fraction=max_rejected_fraction)
        progress.result(
            dataset_uri=uri, num_accepted=manifest.num_accepted, num_rejected=len(manifest.rejected)
        )
    Path(dataset.path).write_text(uri + "\n")
    dataset.metadata.update(
        uri=uri,
        dataset_id=dataset_id,
        num_labels=len(manifest.labels),
        train_examples=manifest.num_examples("train"),
        validation_examples=manifest.num_examples("validation"),
        rejected=len(manifest.rejected),
    )

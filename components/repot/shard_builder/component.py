"""The KFP component that builds a dataset from its plan."""

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def build_shards(item: str):
    """Build the shards of one work item of Plan; skip finished ones.

    The builder that finishes last accounts for every picture and completes the dataset.
    """
    from repot import layout, progress
    from repot.dataset_plan import Share
    from repot.notification import notify_failure
    from repot.shard_builder.complete import build_item

    with (
        progress.task("build shards"),
        notify_failure("build shards", Share.from_item(item).storage_uri),
    ):
        manifest = build_item(item)
        if manifest is not None:
            storage_uri = Share.from_item(item).storage_uri
            progress.result(
                dataset_uri=layout.dataset_uri(storage_uri, manifest.dataset_id),
                num_accepted=manifest.num_accepted,
                num_rejected=len(manifest.rejected),
            )

"""The KFP component that builds a dataset from its plan."""

from kfp import dsl

from repot.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def build_shards(item: str, data_page: dsl.Output[dsl.HTML]):
    """Build the shards of one work item of Plan; skip finished ones.

    The builder that finishes last accounts for every picture and completes the dataset.

    Args:
        item: The work item.
        data_page: Output: what the pictures show; of the other builders, one sentence.
    """
    from pathlib import Path

    from repot import layout, progress, storage
    from repot.dataset_plan import Share
    from repot.notification import notify_failure
    from repot.shard_builder.complete import build_item

    with (
        progress.task("build shards"),
        notify_failure("build shards", Share.from_item(item).storage_uri),
    ):
        manifest = build_item(item)
        page = "<p>Another builder has finished later. Its data page shows all pictures.</p>"
        if manifest is not None:
            uri = layout.dataset_uri(Share.from_item(item).storage_uri, manifest.dataset_id)
            page_uri = storage.join(uri, layout.DATA_PAGE_NAME)
            # A dataset of an earlier version has no page.
            page = storage.read_text(page_uri) if storage.exists(page_uri) else "<p>No page.</p>"
            progress.result(
                dataset_uri=uri,
                num_accepted=manifest.num_accepted,
                num_rejected=len(manifest.rejected),
            )
    Path(data_page.path).write_text(page, encoding="utf-8")

"""The container images that the compiled pipeline names, as far as one can tell from here."""

from collections.abc import Iterable, Sequence

from repot_pipelines.doctor.check import Check, not_checked, ok
from repot_pipelines.doctor.nodes import Node

_DEFAULT_REGISTRY = "docker.io/"


def check_images(images: Iterable[tuple[str, str]], nodes: Sequence[Node]) -> list[Check]:
    """Return one result an image.

    Args:
        images: What it is for, and its name.
        nodes: All nodes.
    """
    return [_check_image(title, image, nodes) for title, image in images]


def _check_image(title: str, image: str, nodes: Sequence[Node]) -> Check:
    having = [node.name for node in nodes if not node.images.isdisjoint({image, f"{_DEFAULT_REGISTRY}{image}"})]
    if having:
        return ok(title, f"{image} lies on {len(having)} of {len(nodes)} nodes already")
    return not_checked(
        title,
        f"{image}: no node says that it has it, and whether nodes may pull it cannot be known from here; "
        "a private registry needs a pull secret on the service account",
    )

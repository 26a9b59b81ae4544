"""A real node for the end-to-end tests, with the chart installed: started once, stopped at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import story
from servingnode.world import IMAGE

CLUSTER = os.environ.get("LUTHIER_TEST_CLUSTER", "luthier-test")


@pytest.fixture(scope="session")
def node() -> Iterator[dict[str, str]]:
    """The environment of kubectl on a running cluster that holds the images and the operator."""
    story.run("hack/cluster", "up", "--name", CLUSTER)
    try:
        story.run("hack/images", "load", "--name", CLUSTER)
        env = story.cluster_env(CLUSTER)
        story.install(env, story.images_of_this_checkout())
        yield env
    finally:
        if not os.environ.get("LUTHIER_KEEP_CLUSTER"):
            story.run("hack/cluster", "down", "--name", CLUSTER)


@pytest.fixture(scope="module")
def serving_node(node) -> Iterator[tuple[dict[str, str], str]]:
    """kubectl's environment and the stand-in's image: new revisions are served by it as long as the module lasts."""
    images = story.images_of_this_checkout()
    image = f"{IMAGE}:{story.read('hack/images', 'tag', 'standin').strip()}"
    story.run("hack/images", "load", "--name", CLUSTER, "standin")
    story.install(node, [*images, f"--set=image.server={image}"])
    yield node, image
    story.install(node, images)

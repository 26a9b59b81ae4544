"""What images there are and what each is built from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

REGISTRY = "registry.luthier.local:5000"
"""How manifests write it; a cluster's containerd maps the name to the registry of that cluster."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image. `stage` stops at that stage of the Dockerfile; `uses` maps a build argument to another image.

    `shipped`: part of `all`. `pushed`: has a name that a node can pull.
    """

    name: str
    dockerfile: str
    stage: str = ""
    uses: dict[str, str] = field(default_factory=dict)
    shipped: bool = True
    pushed: bool = True

    def reference(self, tag: str) -> str:
        return f"{REGISTRY if self.pushed else 'localhost'}/luthier/{self.name}:{tag}"


IMAGES = {
    image.name: image
    for image in (
        Image(name="operator", dockerfile="operator/Dockerfile"),
        Image(name="trainer", dockerfile="trainer_image/Dockerfile"),
        Image(name="server", dockerfile="server_image/Dockerfile"),
        Image(
            name="demo-assets",
            dockerfile="hack/demo_assets/Dockerfile",
            uses={"PACKAGES_IMAGE": "trainer-packages"},
        ),
        Image(name="standin", dockerfile="tests/standin/Dockerfile", shipped=False),
        Image(
            name="trainer-packages",
            dockerfile="trainer_image/Dockerfile",
            stage="packages",
            shipped=False,
            pushed=False,
        ),
        Image(name="trainer-test", dockerfile="trainer_image/Dockerfile", stage="test", shipped=False, pushed=False),
        Image(name="server-test", dockerfile="server_image/Dockerfile", stage="test", shipped=False, pushed=False),
    )
}
SHIPPED = [name for name, image in IMAGES.items() if image.shipped]
ALIASES = {"all": SHIPPED, "demo": ["demo-assets"]}


def with_prerequisites(names: list[str]) -> Iterator[Image]:
    """Yield the named images, each after the ones it is built from, none twice."""
    seen: set[str] = set()

    def visit(name: str) -> Iterator[Image]:
        if name in seen:
            return
        seen.add(name)
        for needed in IMAGES[name].uses.values():
            yield from visit(needed)
        yield IMAGES[name]

    for name in names:
        yield from visit(name)

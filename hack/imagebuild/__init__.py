"""The container images, built with buildah: catalog (what there is), recipe (what goes in), builder, cli."""

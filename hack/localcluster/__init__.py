"""A real Kubernetes on one Linux machine without a container engine: what `hack/cluster` does.

Tests import two names from here: `ControlPlane`, an API server on loopback that needs no rights, and `Cluster`, where a
named cluster keeps its files. Everything else is for `hack/cluster` itself. Standard library only.
"""

from localcluster.controlplane import ControlPlane
from localcluster.errors import ClusterError
from localcluster.state import Cluster

__all__ = ["Cluster", "ClusterError", "ControlPlane"]

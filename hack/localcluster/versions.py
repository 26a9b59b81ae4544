"""Every version that a cluster is made of, in one place: they are also the keys of the cache."""

KUBERNETES = "1.34.3"  # the last line whose kubelet takes cgroup v1 and containerd 1.6 without complaint
COREDNS = "1.12.4"
ENVOY_GATEWAY = "1.9.1"
ENVOY = "1.40.0"
HELM = "4.3.1"
GO = "1.26.7"  # what Envoy Gateway's module asks for, the highest of all
PAUSE = "1"
BASE = "bookworm-1"  # raise the number when the package list in images.py changes

# Debian's package for each program that the node needs.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "docker-registry": "docker-registry",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "debootstrap": "debootstrap",
    "prometheus": "prometheus",
    "openssl": "openssl",
    "gcc": "gcc",
    "pip3": "python3-pip",
    "/usr/include/stdio.h": "libc6-dev",
}

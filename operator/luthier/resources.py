"""The Kubernetes resource types that the operator reads or writes: one table."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.api.base import API_VERSION


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One type of the API: enough to build its URL."""

    api_version: str
    kind: str
    plural: str
    create_once: bool = False
    """Made by POST and never applied again: its template is immutable or, as with Kueue, partly another's."""
    optional: bool = False
    """Only some objects need it: without the right to read it, the others go on."""
    write_only: bool = False
    """Made by POST and never read, nor changed, nor deleted: all that we may do with it is to make one."""


FINETUNEJOB = Resource(api_version=API_VERSION, kind="FineTuneJob", plural="finetunejobs")
EVALUATION = Resource(api_version=API_VERSION, kind="Evaluation", plural="evaluations")
MODELDEPLOYMENT = Resource(api_version=API_VERSION, kind="ModelDeployment", plural="modeldeployments")
OWN = (FINETUNEJOB, EVALUATION, MODELDEPLOYMENT)

JOB = Resource(api_version="batch/v1", kind="Job", plural="jobs", create_once=True)
POD = Resource(api_version="v1", kind="Pod", plural="pods")
SERVICE = Resource(api_version="v1", kind="Service", plural="services")
DEPLOYMENT = Resource(api_version="apps/v1", kind="Deployment", plural="deployments")
CONTROLLERREVISION = Resource(
    api_version="apps/v1", kind="ControllerRevision", plural="controllerrevisions", create_once=True
)
HTTPROUTE = Resource(api_version="gateway.networking.k8s.io/v1", kind="HTTPRoute", plural="httproutes")
BACKENDTRAFFICPOLICY = Resource(
    api_version="gateway.envoyproxy.io/v1alpha1",
    kind="BackendTrafficPolicy",
    plural="backendtrafficpolicies",
    optional=True,
)
CHILDREN = (JOB, POD, SERVICE, DEPLOYMENT, CONTROLLERREVISION, HTTPROUTE, BACKENDTRAFFICPOLICY)
"""Watched by label, kept in the child store."""

PVC = Resource(api_version="v1", kind="PersistentVolumeClaim", plural="persistentvolumeclaims")
SECRET = Resource(api_version="v1", kind="Secret", plural="secrets", write_only=True)
GATEWAY = Resource(api_version="gateway.networking.k8s.io/v1", kind="Gateway", plural="gateways")
GATEWAYCLASS = Resource(api_version="gateway.networking.k8s.io/v1", kind="GatewayClass", plural="gatewayclasses")
CONFIGMAP = Resource(api_version="v1", kind="ConfigMap", plural="configmaps")
LEASE = Resource(api_version="coordination.k8s.io/v1", kind="Lease", plural="leases")
EVENT = Resource(api_version="v1", kind="Event", plural="events")

BY_KIND = {r.kind: r for r in (*OWN, *CHILDREN, PVC, SECRET, CONFIGMAP, LEASE, EVENT)}

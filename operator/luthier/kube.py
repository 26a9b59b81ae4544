"""The Kubernetes API: few verbs on raw JSON, each with a time limit. The only module that imports `kubernetes`.

Of the client library only configuration and HTTP are used; its leader election (by wall clock), dynamic client,
watch (silent reconnects) and models are not. Every write asks the fence first: a replica whose Lease runs out sends
nothing.

A status is written by PUT on `/status` with the resourceVersion that was read: whole, so that keys vanish when they
are left out (a merge patch would keep them), and refused when somebody was faster.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from luthier.clock import ServerClock
from luthier.errors import ApiError, Conflict, NotFound, NotLeader, Throttled, Unreachable, describe
from luthier.metrics import WRITE_VERBS, Metrics
from luthier.naming import FIELD_MANAGER
from luthier.plan import Json, Manifest, Ref
from luthier.resources import BY_KIND, Resource

WRITE_SECONDS = 4.0
READ_SECONDS = 10.0
WATCH_SECONDS = 290
"""The server ends a watch after this time; the next one goes on where it stopped."""
SILENCE_SECONDS = 70.0
"""The server sends a bookmark each minute: a watch that is silent for longer is dead."""
GOODBYE_SECONDS = 0.25
"""Connections of cancelled requests end their TLS meanwhile: aiohttp has no other way to wait for them."""
_PAGE = 100
"""Small: a page of objects as Python values is the most that a list holds of them at once, and that is its peak."""
_STRICT = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the API server is and who we are, for other HTTP clients."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    key_path: str | None
    token: str | None
    insecure: bool


async def load_configuration() -> Configuration:
    """Read the kubeconfig named by KUBECONFIG, else the service account, else ~/.kube/config."""
    configuration = Configuration()
    # No limit: each watch holds a connection, types times namespaces, and the Lease must never wait for one.
    configuration.connection_pool_maxsize = 0
    path = os.environ.get("KUBECONFIG")
    if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=path or "~/.kube/config", client_configuration=configuration, persist_config=False
        )
    return configuration


@asynccontextmanager
async def connect() -> AsyncIterator[ApiClient]:
    """Open a client for `Kube`, for as long as a block lasts."""
    client = ApiClient(await load_configuration())
    try:
        yield client
    finally:
        await client.close()  # type: ignore[no-untyped-call]
        await asyncio.sleep(GOODBYE_SECONDS)


async def load_connection() -> Connection:
    """Read the same, freshly, as plain data."""
    configuration = await load_configuration()
    return Connection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        key_path=configuration.key_file,
        token=await _token(configuration),
        insecure=not configuration.verify_ssl,
    )


async def _token(configuration: Configuration) -> str | None:
    value = await configuration.get_api_key_with_prefix("BearerToken")  # also re-reads a projected token
    return value.split(" ", 1)[-1] if value else None


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list, and the point in time that the whole list shows."""

    items: list[Json]
    resource_version: str


class Kube:
    """The verbs. Objects come without managedFields, list items with apiVersion and kind."""

    def __init__(
        self,
        client: ApiClient,
        *,
        metrics: Metrics,
        may_write: Callable[[], bool] = lambda: True,
        clock: ServerClock | None = None,
        write_seconds: float = WRITE_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._client = client
        self._metrics = metrics
        self._may_write = may_write
        self._clock = clock or ServerClock()
        self._write_seconds = write_seconds
        self._read_seconds = read_seconds
        self.last_trouble = float("-inf")
        """Monotonic time of the last request without a usable answer: tells a dead server from a dead watch."""

    async def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """Return the object, or None when there is none."""
        try:
            return await self._call("get", resource, _path(resource, namespace, name))
        except NotFound:
            return None

    async def list(self, resource: Resource, namespace: str | None, selector: str = "") -> AsyncIterator[Page]:
        """Yield all objects of a type, page by page; a namespace of None means all.

        A page is emptied when the next one is asked for: whoever still names it keeps nothing of it in memory.

        Raises:
            ApiError: With status 410 when the list took so long that its next page is no more: it begins anew.
        """
        query = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            reply = await self._call("list", resource, _path(resource, namespace), query=query)
            named = {"apiVersion": resource.api_version, "kind": resource.kind}
            items, about = [_trimmed({**named, **item}) for item in reply["items"]], reply["metadata"]
            del reply
            yield Page(items=items, resource_version=about["resourceVersion"])
            items.clear()
            if not about.get("continue"):
                return
            query["continue"] = about["continue"]

    async def create(self, manifest: Manifest) -> Json:
        """Create an object; Conflict when the name is taken."""
        resource, namespace = _of(manifest)
        return await self._call("create", resource, _path(resource, namespace), query=_STRICT, body=manifest)

    async def apply(self, manifest: Manifest, *, force: bool = True) -> Json:
        """Apply an object, made when it is absent. A `metadata.uid` is a precondition.

        With force our fields win; without it, a field that another manager has set otherwise is a Conflict.
        """
        resource, namespace = _of(manifest)
        path = _path(resource, namespace, manifest["metadata"]["name"])
        query = {**_STRICT, "force": "true"} if force else _STRICT
        return await self._call("apply", resource, path, query=query, body=manifest)

    async def replace(self, manifest: Manifest, *, subresource: str = "") -> Json:
        """Write an object whole; Conflict unless it still has this resourceVersion."""
        resource, namespace = _of(manifest)
        path = _path(resource, namespace, manifest["metadata"]["name"], subresource)
        return await self._call("replace", resource, path, query={"fieldManager": FIELD_MANAGER}, body=manifest)

    async def delete(self, ref: Ref) -> Json:
        """Delete exactly the object that was seen; its going is fine, another one in its place is a Conflict."""
        resource = BY_KIND[ref.kind]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": ref.propagation,
            "preconditions": {"uid": ref.uid},
        }
        try:
            return await self._call("delete", resource, _path(resource, ref.namespace, ref.name), body=options)
        except NotFound:
            return {"kind": "Status", "status": "Success"}

    async def watch(
        self, resource: Resource, namespace: str | None, since: str, selector: str = ""
    ) -> AsyncIterator[tuple[str, Json]]:
        """Yield (type, object) from a point in time on, bookmarks included, until the server ends it.

        Raises:
            ApiError: With status 410 when `since` is too old; other statuses as the server says.
            Unreachable: The connection broke, or was silent for 70 s.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": since}
        query |= {"timeoutSeconds": str(WATCH_SECONDS)} | ({"labelSelector": selector} if selector else {})
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS + 60, sock_connect=5, sock_read=SILENCE_SECONDS)
        path = _path(resource, namespace)
        try:
            reply = await self._send("GET", path, query=query, body=None, timeout=timeout)
            try:
                if reply.status != 200:
                    raise _error(reply.status, await reply.read(), reply.headers)
                async for line in reply.content:
                    yield _watch_event(line)
            finally:
                _hang_up(reply)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            raise Unreachable(f"watch of {path}: {describe(error)}") from error

    async def _call(
        self, verb: str, resource: Resource, path: str, *, query: dict[str, str] | None = None, body: Any = None
    ) -> Json:
        is_write = verb in WRITE_VERBS
        if is_write and not self._may_write():
            raise NotLeader(f"{verb} {path}: the Lease is not ours, or has less than 5 s left")
        timeout = aiohttp.ClientTimeout(total=self._write_seconds if is_write else self._read_seconds)
        code, asked_at = 0, time.monotonic()
        try:
            reply = await self._send(_METHODS[verb], path, query=query, body=body, timeout=timeout)
            data = await reply.read()
            code = reply.status
            self._clock.heard(reply.headers.get("Date"), asked_at=asked_at)
            if code >= 400:
                raise _error(code, data, reply.headers)
            return _trimmed(orjson.loads(data))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(f"{verb} {path}: {describe(error)}") from error
        finally:
            if code == 0 or code >= 500:
                self.last_trouble = time.monotonic()
            self._metrics.requests.labels(verb, resource.plural, str(code)).inc()

    async def _send(
        self, method: str, path: str, *, query: dict[str, str] | None, body: Any, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        configuration = self._client.configuration
        content_type = _CONTENT_TYPES.get(method, "application/json")
        body = _yaml(body) if method in _CONTENT_TYPES else body  # what is not bytes goes as JSON
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "luthier"}
        if token := await _token(configuration):
            headers["Authorization"] = f"Bearer {token}"
        url = configuration.host + path + (f"?{urlencode(query)}" if query else "")
        request = self._client.rest_client.request
        reply = await request(method, url, headers, body, _request_timeout=timeout)  # type: ignore[no-untyped-call]
        response: aiohttp.ClientResponse = reply.response
        return response


# A ControllerRevision's data keeps the spelling that it came in, and is immutable: as JSON of ours it could never be
# patched again, not even by the garbage collector. From YAML the API server makes its own spelling. The charset keeps
# the client library from encoding the body itself.
_CONTENT_TYPES = {"POST": "application/yaml", "PATCH": "application/apply-patch+yaml; charset=utf-8"}
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def _yaml(body: Any) -> bytes:
    """Return JSON that is YAML too: that one has fewer characters, and no escapes in pairs for those beyond 16 bits."""
    text = json.dumps(body, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


_METHODS = {"get": "GET", "list": "GET", "create": "POST", "apply": "PATCH", "replace": "PUT", "delete": "DELETE"}


def _of(manifest: Manifest) -> tuple[Resource, str]:
    resource = BY_KIND[manifest["kind"]]
    return resource, manifest["metadata"]["namespace"]


def _path(resource: Resource, namespace: str | None, name: str = "", subresource: str = "") -> str:
    root = "/api/" if "/" not in resource.api_version else "/apis/"
    parts = [root + resource.api_version]
    parts += ["namespaces", namespace] if namespace else []
    parts += [part for part in (resource.plural, name, subresource) if part]
    return "/".join(parts)


def _hang_up(reply: aiohttp.ClientResponse) -> None:
    """Drop a stream at once: TLS's goodbye would wait for the other side, beyond the end of the loop."""
    if reply.connection is not None and reply.connection.transport is not None:
        reply.connection.transport.abort()
    reply.close()


def _trimmed(obj: Json) -> Json:
    """Drop what nobody here reads and what is often half of an object's size."""
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return obj


def _watch_event(line: bytes) -> tuple[str, Json]:
    event = orjson.loads(line)
    obj: Json = event["object"]
    if event["type"] == "ERROR":
        raise _status_error(obj.get("code", 500), obj, None)
    return event["type"], _trimmed(obj)


def _error(status: int, data: bytes, headers: Any) -> ApiError:
    try:
        body = orjson.loads(data)
    except ValueError:
        body = data.decode(errors="replace")[:500]  # a proxy in between speaks HTML or text
    return _status_error(status, body if isinstance(body, dict) else {"message": str(body)}, headers.get("Retry-After"))


def _status_error(status: int, body: Json, retry_after: str | None) -> ApiError:
    message, reason = body.get("message", ""), body.get("reason", "")
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    if status == 429 or (status == 503 and seconds is not None):
        return Throttled(status, message, reason=reason, retry_after=seconds if seconds is not None else 1.0)
    return {404: NotFound, 409: Conflict}.get(status, ApiError)(status, message, reason=reason)

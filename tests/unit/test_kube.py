"""Paths, bodies, and how the server's refusals are read."""

import json

import pytest
import yaml

from luthier import kube
from luthier.errors import ApiError, Conflict, NotFound, Throttled
from luthier.metrics import Metrics
from luthier.resources import DEPLOYMENT, FINETUNEJOB, POD


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ((POD, "team"), "/api/v1/namespaces/team/pods"),
        ((POD, None), "/api/v1/pods"),
        ((DEPLOYMENT, "team", "x"), "/apis/apps/v1/namespaces/team/deployments/x"),
        ((FINETUNEJOB, "t", "x", "status"), "/apis/luthier.dev/v1alpha1/namespaces/t/finetunejobs/x/status"),
    ],
)
def test_paths(arguments, path):
    assert kube._path(*arguments) == path


@pytest.mark.parametrize(
    ("status", "headers", "kind", "retry_after"),
    [
        (404, {}, NotFound, None),
        (409, {}, Conflict, None),
        (429, {"Retry-After": "7"}, Throttled, 7.0),
        (429, {}, Throttled, 1.0),
        (503, {"Retry-After": "2"}, Throttled, 2.0),
        (503, {}, ApiError, None),
        (503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, ApiError, None),
        (422, {}, ApiError, None),
    ],
)
def test_errors_by_status(status, headers, kind, retry_after):
    error = kube._error(status, b'{"kind":"Status","message":"no","reason":"Why"}', headers)
    assert type(error) is kind
    assert (error.status, error.message, error.reason, error.retry_after) == (status, "no", "Why", retry_after)


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[1]", b"\xff\xfe"])
def test_a_reply_that_is_no_status_is_still_an_error(body):
    assert kube._error(502, body, {}).status == 502


def test_an_error_in_a_watch_is_raised_with_its_code():
    with pytest.raises(ApiError) as caught:
        kube._watch_event(b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}')
    assert caught.value.status == 410


def test_managed_fields_are_dropped():
    kind, obj = kube._watch_event(b'{"type":"ADDED","object":{"metadata":{"name":"x","managedFields":[{}]}}}')
    assert (kind, obj) == ("ADDED", {"metadata": {"name": "x"}})


class Answering:
    """A server that gives the pages that it was given; an error is one too."""

    def __init__(self, *pages):
        self.pages = list(pages)
        self.asked = []

    async def __call__(self, verb, resource, path, *, query):
        self.asked.append(query.get("continue"))
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page


def page_of(*names, more=None):
    about = {"resourceVersion": "9", **({"continue": more} if more else {})}
    return {"metadata": about, "items": [{"metadata": {"name": name, "managedFields": [{}]}} for name in names]}


async def test_a_list_comes_page_by_page_and_no_page_outlives_the_next(monkeypatch):
    api, server = kube.Kube(None, metrics=Metrics()), Answering(page_of("a", "b", more="token"), page_of("c"))
    monkeypatch.setattr(api, "_call", server)
    pages, names = [], []
    async for page in api.list(POD, None):
        pages.append(page)
        names.append([item["metadata"]["name"] for item in page.items])
        assert all((item["kind"], item["apiVersion"]) == ("Pod", "v1") for item in page.items)
        assert "managedFields" not in str(page.items)
        assert [len(other.items) for other in pages[:-1]] == [0] * (len(pages) - 1), "an earlier page is still held"
    assert names == [["a", "b"], ["c"]]
    assert server.asked == [None, "token"]
    assert {page.resource_version for page in pages} == {"9"}


@pytest.mark.parametrize(
    "text", ["é", "\U0001f600", "a\\\U0001f600", "\\ud83d\\ude00", "\x7f\x85\u2028\ufeff\0", "<&>\n"]
)
def test_a_body_is_json_and_yaml_whatever_its_letters(text):
    body = kube._yaml({"data": [text, 1, None, True]})
    assert json.loads(body) == yaml.safe_load(body) == {"data": [text, 1, None, True]}


async def test_watches_of_any_number_of_namespaces_leave_a_connection_for_the_lease(tmp_path, monkeypatch):
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    async with kube.connect() as client:
        assert client.rest_client.maxsize == 0, "0 is aiohttp's word for no limit"

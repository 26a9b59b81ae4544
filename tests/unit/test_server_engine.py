"""What counts as a refusal of the engine: only its own start, not what happens while it serves."""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from luthier_server.config import ServerConfig
from luthier_server.verify import RefusedError

CONFIG = ServerConfig(
    base_path="/b", adapter_path="/a", base_digest="", model_digest="", served_model_name="m", revision="r1"
)


def module(monkeypatch, name: str, **content) -> None:
    made = ModuleType(name)
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def run(monkeypatch):
    """Run the engine with a vLLM that does nothing, and let one of its parts raise."""

    async def running(*, building: Exception | None = None, serving: Exception | None = None):
        @contextlib.asynccontextmanager
        async def client(args):
            async def tasks():
                return ()

            yield SimpleNamespace(get_supported_tasks=tasks, model_config=None)

        async def init_app_state(*_):
            if building:
                raise building

        async def serve(*_, **__):
            if serving:
                raise serving

        vllm = "vllm.entrypoints.launchers"
        parser = SimpleNamespace(parse_args=lambda arguments: SimpleNamespace())
        app = SimpleNamespace(state=SimpleNamespace())
        for name in ("vllm", "vllm.entrypoints", vllm, f"{vllm}.api_server", "vllm.utils"):
            module(monkeypatch, name)
        module(monkeypatch, f"{vllm}.api_server.app_state", init_app_state=init_app_state)
        module(monkeypatch, f"{vllm}.api_server.entry", build_async_engine_client=client)
        module(monkeypatch, f"{vllm}.app", build_app=lambda *_: app)
        module(
            monkeypatch,
            f"{vllm}.cli_args",
            make_arg_parser=lambda _: parser,
            validate_parsed_serve_args=lambda _: None,
        )
        module(monkeypatch, "vllm.platforms", current_platform=SimpleNamespace(is_cpu=lambda: False))
        module(monkeypatch, "vllm.utils.argparse_utils", FlexibleArgumentParser=lambda: None)
        module(monkeypatch, "vllm.utils.system_utils", set_ulimit=lambda: None)
        module(monkeypatch, "luthier_server.serving", serve=serve)
        monkeypatch.delitem(sys.modules, "luthier_server.engine", raising=False)
        engine = importlib.import_module("luthier_server.engine")
        monkeypatch.setattr(engine, "arguments", lambda *_, **__: [])
        monkeypatch.setattr(engine, "environment", lambda *_, **__: {})
        monkeypatch.delitem(sys.modules, "luthier_server.engine")
        await engine.run(CONFIG, None)

    return running


async def test_options_that_the_engine_refuses_are_a_refusal(run):
    with pytest.raises(RefusedError, match="longer than the model's"):
        await run(building=ValueError("a context longer than the model's"))


async def test_an_error_while_serving_is_none_and_a_new_start_may_help(run):
    with pytest.raises(ValueError, match="bad luck"):
        await run(serving=ValueError("bad luck"))

"""Starts vLLM inside this process and hands its ASGI app to `serving`. The only module that imports vLLM.

vLLM is used by its public parts (argument parser, engine client, app builder), unchanged. Its own launcher is not:
that one stops the engine before it has stopped listening, and cannot linger.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from luthier_server.config import ServerConfig
from luthier_server.options import arguments, available_cpus, cpu_flags, environment
from luthier_server.serving import serve
from luthier_server.verify import RefusedError, Verified


async def run(config: ServerConfig, verified: Verified) -> None:
    """Load the engine and serve until SIGTERM.

    Raises:
        RefusedError: The engine refuses the options, or the template probe failed.
        EngineDiedError: The engine died while serving.
        RuntimeError: The engine did not start.
    """
    for name, value in environment(config, cpus=available_cpus()).items():
        os.environ.setdefault(name, value)
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.utils.system_utils import set_ulimit

    is_cpu = current_platform.is_cpu()
    if is_cpu:
        # Only without it does vLLM leave the executor to us on CPU (it wants to bind threads otherwise).
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    flags = cpu_flags(Path("/proc/cpuinfo").read_text())
    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args(arguments(config, verified, is_cpu=is_cpu, cpu_flags=flags))
    validate_parsed_serve_args(args)
    set_ulimit()
    async with contextlib.AsyncExitStack() as stack:
        try:
            engine = await stack.enter_async_context(build_async_engine_client(args))
            tasks = await engine.get_supported_tasks()
            app = build_app(args, tasks, engine.model_config)
            await init_app_state(engine, app.state, args, tasks)
        except ValueError as error:
            # pydantic's errors too: contexts longer than the model's, adapters that the engine cannot load.
            raise RefusedError("EngineRefused", f"the engine refuses these options: {error}") from error
        # vLLM's handlers end the server when they meet a dead engine.
        await serve(app, config, verified, announce=lambda server: setattr(app.state, "server", server))

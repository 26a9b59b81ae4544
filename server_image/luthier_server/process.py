"""One serving process from start to end: verify, load, serve, and say how it ended.

Exit codes: 0 after SIGTERM, 11 when what was configured can never be served, 1 for anything that a new start may
mend. What happened stands as a `StepResult` in the termination message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

from pydantic import ValidationError

from luthier_server.config import CONFIG_ENV, EXIT_REFUSED, ServerConfig
from luthier_server.verify import RefusedError, Verified, verify
from luthier_trainer.config import EXIT_INTERNAL, EXIT_OK, TERMINATION_LIMIT, TERMINATION_LOG, StepResult

TERMINATION_LOG_ENV = "LUTHIER_TERMINATION_LOG"
"""Where to write instead, outside of a pod."""
EXIT_TERMINATED = 143

logger = logging.getLogger("luthier_server")
Engine = Callable[[ServerConfig, Verified], Awaitable[None]]


def main(engine: Engine | None = None) -> int:
    """Return the exit code. `engine` is vLLM unless the stand-in of the tests gives its own."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # PID 1 ignores signals that it does not handle: without this, ending a pod that is loading takes its whole grace.
    signal.signal(signal.SIGTERM, _end)
    try:
        _start(engine)
    except RefusedError as error:
        return _report("UserError", error.reason, str(error), field=error.field)
    except (RuntimeError, OSError) as error:
        return _report("InternalError", "EngineFailed", str(error))
    return EXIT_OK


def _start(engine: Engine | None) -> None:
    config = _read_config()
    verified = verify(config)
    logger.info("verified %s and %s", verified.base, verified.adapter)
    asyncio.run(_await((engine or _vllm())(config, verified)))


def _vllm() -> Engine:
    from luthier_server.engine import run

    return run


async def _await(running: Awaitable[None]) -> None:
    await running


def _read_config() -> ServerConfig:
    try:
        return ServerConfig.model_validate_json(os.environ.get(CONFIG_ENV, ""))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RefusedError("InvalidConfig", f"{CONFIG_ENV}: {field or 'JSON'}: {first['msg']}", field=field) from None


def _report(
    outcome: Literal["UserError", "InternalError"], reason: str, message: str, *, field: str | None = None
) -> int:
    logger.error("%s: %s", reason, message)
    # Half of the limit leaves room for JSON's escapes.
    short = message.encode()[: TERMINATION_LIMIT // 2].decode(errors="ignore")
    result = StepResult(outcome=outcome, reason=reason, message=short, field=field)
    path = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    try:
        path.write_text(result.model_dump_json())
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error)
    return EXIT_REFUSED if outcome == "UserError" else EXIT_INTERNAL


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)

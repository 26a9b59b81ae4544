"""`python -m luthier_eval`: run the evaluation of LUTHIER_EVAL_CONFIG and report how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from pydantic import ValidationError

from luthier_eval.config import CONFIG_ENV, EvalConfig
from luthier_eval.engine import EngineFailed, EngineNotReady, Patience
from luthier_eval.run import evaluate
from luthier_trainer import result
from luthier_trainer.config import StepResult
from luthier_trainer.errors import UserError


def main() -> int:
    """Run one evaluation and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request says nothing
    result.tell_crashes()
    try:
        config = EvalConfig.model_validate_json(os.environ.get(CONFIG_ENV, ""))
    except ValidationError as error:
        return result.publish_result(result.from_invalid_config(error, CONFIG_ENV), None)
    return result.publish_result(asyncio.run(run(config, Patience())), Path(config.result_path))


async def run(config: EvalConfig, patience: Patience) -> StepResult:
    """Return how the evaluation ended. SIGTERM ends it early; answers so far are kept."""
    task = asyncio.ensure_future(evaluate(config, patience))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        details = await task
    except UserError as error:
        return result.from_user_error(error)
    except EngineNotReady as error:
        return result.internal_error("EngineNotReady", str(error))
    except EngineFailed as error:
        return result.internal_error("EngineFailed", f"{error}; no verdict is given, answers so far are kept")
    except asyncio.CancelledError:
        return StepResult(outcome="Preempted", reason="Preempted", message="asked to stop; answers so far are kept")
    return StepResult(
        outcome="Succeeded", reason="Evaluated", message=details.summary, details=details.model_dump(mode="json")
    )


if __name__ == "__main__":
    sys.exit(main())

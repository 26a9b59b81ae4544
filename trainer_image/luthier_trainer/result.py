"""A step's last words: the result file, the termination message, the exit code."""

from __future__ import annotations

import bisect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from luthier_trainer.config import (
    EXIT_INTERNAL,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    TERMINATION_LIMIT,
    TERMINATION_LOG,
    ReportConfig,
    StepResult,
)
from luthier_trainer.errors import UserError
from luthier_trainer.files import write_atomic

TERMINATION_LOG_ENV = "LUTHIER_TERMINATION_LOG"
"""Another path for the termination message; tests set it."""
logger = logging.getLogger(__name__)
_EXIT_CODES = {
    "Succeeded": EXIT_OK,
    "UserError": EXIT_USER_ERROR,
    "Preempted": EXIT_PREEMPTED,
    "InternalError": EXIT_INTERNAL,
}


def exit_code(result: StepResult) -> int:
    """Return the process's exit code for an outcome; the Job's podFailurePolicy reads it."""
    return _EXIT_CODES[result.outcome]


def from_user_error(error: UserError) -> StepResult:
    return StepResult(outcome="UserError", reason=error.reason, message=error.message, field=error.field)


def internal_error(reason: str, message: str) -> StepResult:
    return StepResult(outcome="InternalError", reason=reason, message=message)


def from_invalid_config(error: ValidationError, variable: str) -> StepResult:
    """Name each wrong field of the run configuration; the operator and the image don't fit each other."""
    problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()[:5])
    return internal_error("InvalidConfig", f"{variable} is not a valid run configuration: {problems}")


def tell_crashes(tell: Callable[[BaseException], object] | None = None) -> None:
    """Let an error that nobody expected be the step's last words too, beside its traceback in the log.

    Args:
        tell: How it is told; else as a termination message.
    """

    def publish(error: BaseException) -> None:
        publish_result(internal_error("StepCrashed", f"{type(error).__name__}: {error}"), None)

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, traceback)
        (tell or publish)(error)

    sys.excepthook = hook


_CUT = " …"


def shorten(result: StepResult) -> str:
    """Return the result as JSON that Kubernetes keeps whole: the message is cut, never the details.

    Raises:
        ValueError: The details alone are too long: a fault of the step that made them.
    """
    text = result.model_dump_json(exclude_none=True)
    if _excess(text) <= 0:
        return text

    def cut_at(end: int) -> str:
        cut = result.model_copy(update={"message": result.message[:end] + _CUT})
        return cut.model_dump_json(exclude_none=True)

    if (excess := _excess(cut_at(0))) > 0:
        raise ValueError(f"the details take {excess} bytes more than the {TERMINATION_LIMIT} of a termination message")
    # JSON writes a character as one byte or as six, so the longest beginning that fits is found by trying.
    too_long = bisect.bisect(range(len(result.message)), 0, key=lambda end: _excess(cut_at(end)))
    return cut_at(too_long - 1)


def _excess(text: str) -> int:
    return len(text.encode()) - TERMINATION_LIMIT


def publish_result(result: StepResult, result_path: Path | None) -> int:
    """Write the termination message and the result file; return the exit code."""
    text = shorten(result)
    termination_log = Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG))
    # The kubelet bind-mounts this file: it can't be replaced by a rename, and outside a pod it isn't there.
    if termination_log.exists():
        termination_log.write_text(text, encoding="utf-8")
    print(text, flush=True)
    if result_path is not None:
        try:
            write_atomic(result_path, text)
        except OSError as error:
            # The volume may be full, which may be the very result: it is already told by the message above.
            logger.warning("the result could not be written to %s: %s", result_path, error)
    return exit_code(result)


def report(config: ReportConfig) -> int:
    """Report again what a step whose pod is gone had reported."""
    path = Path(config.result_path)
    try:
        result = StepResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        result = internal_error("ResultMissing", f"{path} is not there: the step ended without a result")
    except ValidationError:
        result = internal_error("ResultUnreadable", f"{path} is not a step's result")
    return publish_result(result, None)

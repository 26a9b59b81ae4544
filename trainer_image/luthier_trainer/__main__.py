"""`python -m luthier_trainer prepare|train|report`; the configuration is JSON in LUTHIER_CONFIG."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from luthier_trainer import result
from luthier_trainer.config import CONFIG_ENV, PrepareConfig, ReportConfig, TrainConfig
from luthier_trainer.errors import UserError


def main() -> int:
    """Run one step and return its exit code."""
    parser = argparse.ArgumentParser(prog="luthier_trainer", description=__doc__)
    parser.add_argument("step", choices=("prepare", "train", "report"))
    step = parser.parse_args().step
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Nothing is ever fetched: models and data are mounted.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    result.tell_crashes()
    text = os.environ.get(CONFIG_ENV, "")
    try:
        return _run(step, text)
    except ValidationError as error:
        return result.publish_result(result.from_invalid_config(error, CONFIG_ENV), None)


def _run(step: str, text: str) -> int:
    if step == "report":
        return result.report(ReportConfig.model_validate_json(text))
    if step == "train":
        from luthier_trainer.launch import launch

        return launch(TrainConfig.model_validate_json(text))
    from luthier_trainer.prepare import prepare

    config = PrepareConfig.model_validate_json(text)
    try:
        outcome = prepare(config)
    except UserError as error:
        outcome = result.from_user_error(error)
    return result.publish_result(outcome, Path(config.result_path))


if __name__ == "__main__":
    sys.exit(main())

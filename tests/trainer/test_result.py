"""Last words: result file, termination message, exit code, progress."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from luthier_trainer import monitor, result
from luthier_trainer.config import TERMINATION_LIMIT, ProgressReport, ReportConfig, StepResult
from luthier_trainer.errors import UserError, is_storage_failure
from luthier_trainer.rundir import RunDir


@pytest.fixture
def termination_log(tmp_path, monkeypatch):
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setenv("LUTHIER_TERMINATION_LOG", str(path))
    return path


def make_result(outcome="Succeeded", message="m", **details) -> StepResult:
    return StepResult(outcome=outcome, reason="R", message=message, details=details)


@pytest.mark.parametrize(
    ("outcome", "code"), [("Succeeded", 0), ("InternalError", 1), ("UserError", 10), ("Preempted", 20)]
)
def test_each_outcome_has_its_exit_code_and_two_copies(tmp_path, termination_log, outcome, code):
    path = tmp_path / "deep" / "result.json"
    assert result.publish_result(make_result(outcome), path) == code
    assert path.read_text() == termination_log.read_text()
    assert StepResult.model_validate_json(path.read_text()).outcome == outcome


@pytest.mark.parametrize("text", ["x" * 9000, "ü" * 5000, '"\\\n' * 3000, "x" + '"' * 9000, "\x01" * 900 + "x" * 5000])
def test_a_long_message_is_cut_and_the_details_stay(text):
    short = result.shorten(make_result(message=text, steps=7))
    assert TERMINATION_LIMIT - 6 < len(short.encode()) <= TERMINATION_LIMIT
    parsed = StepResult.model_validate_json(short)
    assert parsed.details == {"steps": 7}
    assert parsed.message.endswith(" …")
    assert text.startswith(parsed.message.removesuffix(" …"))


def test_details_that_never_fit_are_a_clear_error():
    with pytest.raises(ValueError, match="details take"):
        result.shorten(make_result(message="done", text="x" * TERMINATION_LIMIT))


def test_report_says_again_what_the_step_had_said(tmp_path, termination_log):
    path = tmp_path / "result.json"
    result.publish_result(make_result("UserError", "no"), path)
    termination_log.write_text("")
    assert result.report(ReportConfig(result_path=str(path))) == 10
    assert json.loads(termination_log.read_text())["message"] == "no"


@pytest.mark.parametrize(("content", "reason"), [(None, "ResultMissing"), ("{", "ResultUnreadable")])
@pytest.mark.row(39)
def test_report_without_a_result_is_an_internal_error(tmp_path, termination_log, content, reason):
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    assert result.report(ReportConfig(result_path=str(path))) == 1
    assert json.loads(termination_log.read_text())["reason"] == reason


def test_a_users_error_of_any_process_wins_over_a_crash_that_it_caused(tmp_path):
    run = RunDir(path=tmp_path)
    assert run.read_outcome() is None
    run.write_outcome(0, make_result("InternalError"))
    run.write_outcome(3, make_result("UserError"))
    assert run.read_outcome().outcome == "UserError"


def test_progress_and_metrics_are_served(tmp_path):
    run = RunDir(path=tmp_path)
    server = monitor.serve(run, 0)

    def get(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=5) as reply:
            return reply.read().decode()

    try:
        assert ProgressReport.model_validate_json(get("/progress")).phase == "Loading"
        run.write_progress(ProgressReport(step=3, of=9, epoch=0.5, loss=1.25, phase="Training"))
        assert ProgressReport.model_validate_json(get("/progress")).step == 3
        metrics = get("/metrics")
        assert "luthier_training_loss 1.25\n" in metrics
        assert "validation_loss" not in metrics
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("/etc/passwd")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(30, "Read-only file system"), True),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0"), True),
        (FileNotFoundError(2, "No such file"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_storage_errors_are_called_so(error, expected):
    assert is_storage_failure(error) is expected


def test_a_user_error_keeps_its_field():
    found = result.from_user_error(UserError("R", "m", field="training.epochs"))
    assert (found.outcome, found.field) == ("UserError", "training.epochs")


@pytest.mark.row(37)
def test_a_result_that_can_not_be_stored_is_still_told(tmp_path, termination_log):
    (tmp_path / "file").write_text("not a folder")
    assert result.publish_result(make_result("UserError", "disk full"), tmp_path / "file" / "result.json") == 10
    assert json.loads(termination_log.read_text())["message"] == "disk full"

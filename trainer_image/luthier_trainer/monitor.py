"""`/progress` and `/metrics` of a training pod; the operator reads them, for display only."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from luthier_trainer.config import ProgressReport
from luthier_trainer.rundir import RunDir

_HELP = {
    "step": ("luthier_training_step", "Optimizer steps done."),
    "of": ("luthier_training_steps", "Optimizer steps in all."),
    "epoch": ("luthier_training_epoch", "Passes over the data."),
    "loss": ("luthier_training_loss", "Newest training loss."),
    "validation_loss": ("luthier_training_validation_loss", "Newest validation loss."),
    "tokens_per_second": ("luthier_training_tokens_per_second", "Trained tokens a second."),
    "estimated_remaining_seconds": ("luthier_training_remaining_seconds", "Time left, estimated."),
}


def render_metrics(progress: ProgressReport) -> str:
    """Return the progress in Prometheus' text format; what is not known yet is left out."""
    lines: list[str] = []
    for field, (name, text) in _HELP.items():
        value = getattr(progress, field)
        if value is not None:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
    return "\n".join(lines) + "\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a reader that has hung up; the training goes on without it."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # socket or pair of them


def serve(run: RunDir, port: int) -> ThreadingHTTPServer:
    """Serve in a thread until the process ends; `server_port` is the port taken."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._reply("application/json", run.read_progress().model_dump_json())
            elif self.path == "/metrics":
                self._reply("text/plain; version=0.0.4", render_metrics(run.read_progress()))
            else:
                self.send_error(404, "there are /progress and /metrics")

        def _reply(self, content_type: str, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing: a scrape every few seconds would fill the log."""

    server = _Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="monitor", daemon=True).start()
    return server

"""The demo's clients: people of Marlow's customers who send real tickets through the gateway, all day long.

Standard library only. Every two seconds one JSON line with the totals so far, by revision: it is what
`kubectl logs` shows and what the demo reads. Nothing is retried, so that a refused request counts once.

Usage: python client.py URL MODEL TICKETS.jsonl [--clients 4] [--max-tokens 48] [--pause 0]
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

REVISION_HEADER = "x-luthier-revision"
TIMEOUT_SECONDS = 120


class Totals:
    """Counts of replies by (revision, outcome)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last_refused = 0.0

    def add(self, revision: str, outcome: str) -> None:
        with self._lock:
            self._counts[revision, outcome] += 1
            if outcome != "ok":
                self._last_refused = time.time()

    def line(self) -> str:
        with self._lock:
            counts: dict[str, dict[str, int]] = {}
            for (revision, outcome), n in sorted(self._counts.items()):
                counts.setdefault(revision, {})[outcome] = n
            return json.dumps({"at": time.time(), "last_not_ok_at": self._last_refused, "revisions": counts})


def ask(url: str, body: bytes) -> tuple[str, str]:
    """Send one request; return (revision, outcome)."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS)
    try:
        path = parts.path.rstrip("/") + "/v1/chat/completions"
        connection.request("POST", path, body, {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        return reply.getheader(REVISION_HEADER, "none"), "ok" if reply.status == 200 else str(reply.status)
    except OSError as error:
        return "none", type(error).__name__
    finally:
        connection.close()


def bodies(path: Path, model: str, max_tokens: int) -> list[bytes]:
    """Return one request body a ticket."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        json.dumps(
            {"model": model, "messages": row["messages"][:-1], "max_tokens": max_tokens, "temperature": 0}
        ).encode()
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("tickets", type=Path)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between two requests of one client")
    args = parser.parse_args()
    requests = bodies(args.tickets, args.model, args.max_tokens)
    random.Random(0).shuffle(requests)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    turn = itertools.cycle(requests)
    lock = threading.Lock()
    totals = Totals()

    def work() -> None:
        while not stop.is_set():
            with lock:
                body = next(turn)
            totals.add(*ask(args.url, body))
            stop.wait(args.pause)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(args.clients)]
    for thread in threads:
        thread.start()
    while not stop.wait(2):
        print(totals.line(), flush=True)
    print(totals.line(), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()

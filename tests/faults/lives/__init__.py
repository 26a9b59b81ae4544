"""The lives that are disturbed, by name; each kind has a file of its own."""

from faults.lives.acts import ACTS
from faults.lives.deployment import DEPLOYMENT, approve, rollout
from faults.lives.evaluation import EVALUATION, FOLDERS, SUITE, judged
from faults.lives.feedback import FEEDBACK
from faults.lives.finetune import FINETUNE, HANGS, NAN, PREPARED, TRAINED, finetune
from faults.lives.held import HELD
from faults.lives.life import Life, nobody
from faults.lives.lost import LOST
from faults.lives.pods import Ending, job_status, play_pods
from faults.lives.serving import MIN_SAMPLES, begin_first, first_serves
from faults.lives.watch import WATCH

_ALL = (*FINETUNE, *EVALUATION, *DEPLOYMENT, *ACTS, *WATCH, *HELD, *LOST, *FEEDBACK)
LIVES = {life.name: life for life in _ALL}
assert len(LIVES) == len(_ALL), "two lives have the same name"

__all__ = [
    "FOLDERS",
    "HANGS",
    "LIVES",
    "MIN_SAMPLES",
    "NAN",
    "PREPARED",
    "SUITE",
    "TRAINED",
    "Ending",
    "Life",
    "approve",
    "begin_first",
    "finetune",
    "first_serves",
    "job_status",
    "judged",
    "nobody",
    "play_pods",
    "rollout",
]

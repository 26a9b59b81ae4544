"""`python -m standin`: serve like `python -m luthier_server`, without a model.

`python -m standin base FOLDER [BEHAVIOUR]` and `python -m standin artifact FOLDER BASE [BEHAVIOUR]` write
stand-in models (behaviour as JSON) and print their digest.
"""

import sys
from pathlib import Path

from luthier_server.config import ServerConfig
from luthier_server.process import main
from luthier_server.serving import serve
from luthier_server.verify import Verified
from standin.engine import Engine
from standin.model import Behaviour, read_behaviour, write_artifact, write_base


async def run(config: ServerConfig, verified: Verified) -> None:
    """Serve the stand-in as `luthier_server.engine.run` serves vLLM."""
    behaviour = read_behaviour(verified.adapter or verified.base)
    if behaviour.crash_at_start:
        raise RuntimeError("the stand-in was told to crash")
    await serve(Engine(behaviour, context=config.max_model_len), config, verified)


def command(words: list[str]) -> int:
    match words:
        case []:
            return main(run)
        case ["base", folder, *behaviour]:
            print(write_base(Path(folder), behaviour=_behaviour(behaviour)))
        case ["artifact", folder, base, *behaviour]:
            print(write_artifact(Path(folder), base=Path(base), behaviour=_behaviour(behaviour)))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def _behaviour(words: list[str]) -> Behaviour | None:
    return Behaviour.model_validate_json(words[0]) if words else None


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))

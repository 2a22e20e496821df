"""Makes docs/top.svg: `stormbreak top` on a real batch that meets an outage of the embedded provider.

    python bench/top_picture.py [FILE]

The first provider plays the outage four times as fast as it is, and the picture is taken while it is down; rows that have waited
there for long go to a second one, which is calm.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from stormbreak.testing import serve

ROWS = 40_000
TAKEN_AT = 19.0  # seconds after the batch began
COMMAND = (sys.executable, "-m", "stormbreak")


def main(picture: Path) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = (
            json.dumps({"prompt": f"Summarise document {n}.", "model": "storm-1"})
            for n in range(ROWS)
        )
        (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
        storm = stack.enter_context(serve("outage", seed=11, speed=4))
        calm = stack.enter_context(serve("calm", seed=1))
        batch = subprocess.Popen(
            [*COMMAND, "batch", "run", "prompts.jsonl", "--output", "answers.jsonl", "--concurrency", "48",
             "--base-url", storm.base_url, "--fallback-base-url", calm.base_url, "--quiet"],
            cwd=folder,
        )  # fmt: skip
        stack.callback(batch.wait)
        stack.callback(batch.kill)
        time.sleep(TAKEN_AT)
        subprocess.run(
            [*COMMAND, "top", "--output", str(picture.absolute())], cwd=folder, check=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "top.svg")

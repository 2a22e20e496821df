"""The program `stormbreak`: the command line in its own process."""

import gc
import sys


def run() -> int:
    """Run the command line without collecting garbage until a command begins: imports leave none."""
    gc.disable()
    from stormbreak.cli.main import main  # noqa: PLC0415 - imported after gc.disable()

    return main()


if __name__ == "__main__":
    sys.exit(run())

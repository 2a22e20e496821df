"""The three commands of docs/your-storm.md run as written."""

import json
import re
import shlex
from pathlib import Path

from access_logs import provider_log

from stormbreak.cli.main import main
from stormbreak.provider.scenario import Load, Provider, Scenario, Step
from stormbreak.provider.scenario_file import load

PAGE = Path(__file__).parents[3] / "docs" / "your-storm.md"
SHOP = Scenario(
    name="shop",
    duration=40.0,
    provider=Provider(slots=10, service=1.0, variation=0.5, queue=50),
    load=Load(rate=5.0, steps=(Step(at=15.0, rate=18.0), Step(at=28.0, rate=5.0)), timeout=10.0),
)


def test_the_commands_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("access.log").write_text(
        "".join(
            json.dumps(
                {
                    "msec": round(1_795_000_000 + each.at + each.latency, 3),
                    "request_time": round(each.latency, 3),
                    "status": each.status,
                }
            )
            + "\n"
            for each in provider_log(SHOP, seed=3)
        )
    )
    block = re.search(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    commands = [line.removeprefix("$ stormbreak ") for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert load("shop.toml").provider.slots == 10
    assert "shop under interactive answers" in out
    assert Path("friday.html").read_text().startswith("<!")

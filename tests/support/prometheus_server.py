"""A real Prometheus on a free port, and promtool: of the Debian package `prometheus`."""

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
from sockets import free_port

INTERVAL = "200ms"  # between scrapes
CONFIG = """
global: {{scrape_interval: {interval}, scrape_timeout: {interval}, evaluation_interval: {interval}}}
scrape_configs:
  - job_name: stormbreak
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


def program(name):
    """Find a program of the package, or skip the test."""
    found = shutil.which(name)
    if found is None:
        install = f"{name} is not installed: install the Debian package prometheus"
        if os.environ.get("STORMBREAK_PROMETHEUS") == "required":
            pytest.fail(install)
        pytest.skip(install)
    return found


class Prometheus:
    def __init__(self, url):
        self.url = url

    def query(self, expression):
        """The values of an expression now, by labels."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(address, timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        found = answer["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]


@contextmanager
def scraping(target, folder):
    """Run a Prometheus that scrapes a port of this machine."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(CONFIG.format(interval=INTERVAL, target=target))
    command = [
        program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        end = time.monotonic() + 30
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if prometheus.query('up{job="stormbreak"} == 1'):
                    break
            except OSError:
                pass
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield prometheus
    finally:
        process.kill()
        process.wait()

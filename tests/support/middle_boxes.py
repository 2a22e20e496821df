"""Real proxies on free local ports: haproxy and nginx in front of a server, tinyproxy for clients."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from sockets import PATIENCE, free_port

HAPROXY = """
global
  maxconn 200
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
  retries 0
frontend front
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{secure} ssl crt {pem}
  default_backend back
backend back
  server one 127.0.0.1:{backend}
"""

NGINX = """
daemon off;
master_process off;
pid {place}/pid;
error_log {place}/errors;
events {{}}
http {{
  access_log off;
  client_body_temp_path {place};
  proxy_temp_path {place};
  fastcgi_temp_path {place};
  uwsgi_temp_path {place};
  scgi_temp_path {place};
  upstream back {{ server 127.0.0.1:{backend} max_fails=0; keepalive 8; }}
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{secure} ssl;
    ssl_certificate {pem};
    ssl_certificate_key {pem};
    location / {{
      proxy_pass http://back;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_next_upstream off;
      proxy_read_timeout 5s;
    }}
  }}
}}
"""

TINYPROXY = """
Listen 127.0.0.1
Port {plain}
Timeout 10
BasicAuth user s3cret
DisableViaHeader Yes
"""


class Box(NamedTuple):
    """A proxy: its program, package, configuration and arguments."""

    program: str
    package: str
    config: str
    arguments: tuple[str, ...]


BOXES = {
    "haproxy": Box("haproxy", "haproxy", HAPROXY, ("-db", "-q", "-f")),
    "nginx": Box("nginx", "nginx-light", NGINX, ("-p", "{place}", "-e", "{place}/errors", "-c")),
    "tinyproxy": Box("tinyproxy", "tinyproxy", TINYPROXY, ("-d", "-c")),
}


class Running:
    """A proxy that can be restarted; it listens on the ports `plain` and, if it serves TLS, `secure`."""

    def __init__(self, name, place, backend, certificate):
        self._box = BOXES[name]
        found = shutil.which(self._box.program, path=os.environ["PATH"] + ":/usr/sbin")
        if found is None:
            pytest.skip(f"needs {name}: apt-get install {self._box.package}")
        pem = place / "both.pem"
        pem.write_text("".join(Path(part).read_text() for part in certificate))
        self.plain, self.secure = free_port(), free_port()
        config = place / f"{name}.conf"
        settings = {"place": place, "backend": backend, "pem": pem}
        config.write_text(self._box.config.format(plain=self.plain, secure=self.secure, **settings))
        arguments = [each.format(place=place) for each in self._box.arguments]
        self._command = [found, *arguments, config]
        self._output = place / "output"

    def start(self):
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        end = time.monotonic() + PATIENCE
        while True:
            assert self._process.poll() is None, self._output.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.plain), 1.0).close()
            except OSError:
                assert time.monotonic() < end, self._output.read_text()
                time.sleep(0.01)
            else:
                return

    def stop(self):
        self._process.kill()
        self._process.wait()


@contextmanager
def running(name, place, backend, certificate):
    """Run a proxy in front of the port `backend`; skip the test if it is not installed."""
    box = Running(name, place, backend, certificate)
    box.start()
    try:
        yield box
    finally:
        box.stop()

"""The files in deploy/ are valid and fit the gateway's defaults, and the proxies pass on each event at once."""

import asyncio
import json
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from gateways import KEY, PROVIDER_KEY, running, settings, upstream
from sockets import free_port
from table_test import table_test

from stormbreak.cli.gateway.serve import command as serve
from stormbreak.cli.main import main
from stormbreak.config.gateway_settings import GatewaySettings
from stormbreak.telemetry import dashboard

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DEFAULTS = GatewaySettings()
PAGES = {"/live", "/ready", "/metrics", "/state"}


def parsed(words):
    """Parse the arguments of `stormbreak gateway` as the command does."""
    return serve.make_context("gateway", [*words]).params


def served_beyond_the_container(words):
    params = parsed(words)
    return (params["host"], params["admin_host"], str(params["file"])) == (
        "0.0.0.0", "0.0.0.0", "/etc/stormbreak/gateway.toml",
    )  # fmt: skip


# ------------------------------------------------------------------ Kubernetes

MANIFESTS = [*yaml.safe_load_all(DEPLOY.joinpath("kubernetes.yaml").read_text())]
BY_KIND = {each["kind"]: each for each in MANIFESTS}


@table_test("version", ["1.30", "1.37"])
def test_manifests_fit_the_schemas_of_kubernetes(version):
    schemas = pytest.importorskip("kubernetes_validate")
    for each in MANIFESTS:
        schemas.validate(each, version, strict=True)


def test_manifests_fit_the_gateway():
    pods = BY_KIND["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pods["containers"]
    assert served_beyond_the_container(container["args"])
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"http": DEFAULTS.port, "admin": DEFAULTS.admin_port}
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in PAGES
        assert asked["port"] == "admin"
    assert pods["terminationGracePeriodSeconds"] >= 10 + DEFAULTS.grace
    assert f"--uid {pods['securityContext']['runAsUser']} " in DEPLOY.joinpath("Dockerfile").read_text()  # fmt: skip
    labels = BY_KIND["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for each in MANIFESTS:
        selector = each.get("spec", {}).get("selector", labels)
        assert selector.get("matchLabels", selector) == labels


def test_the_settings_of_the_manifests_pass_the_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", PROVIDER_KEY)
    path = tmp_path / "gateway.toml"
    text = BY_KIND["ConfigMap"]["data"]["gateway.toml"]
    path.write_text(text.replace("0" * 64, "a" * 64))  # the placeholder of a key is refused
    assert main(["gateway", str(path), "--check"]) == 0
    ledger = re.search(r'ledger = "(.*)/', path.read_text())[1]
    mounts = BY_KIND["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert ledger in [each["mountPath"] for each in mounts if not each.get("readOnly")]


def test_the_container_has_the_extras_and_folders_that_its_settings_need():
    dockerfile = DEPLOY.joinpath("Dockerfile").read_text()
    extras = set(re.search(r"/src\[(.*?)\]", dockerfile)[1].split(","))
    assert extras >= {"cost", "fleet", "metrics"}  # ledger, [fleet], /metrics
    assert "--owner stormbreak /var/lib/stormbreak" in dockerfile
    assert "ENV TMPDIR=/dev/shm\n" in dockerfile  # for workers: the root is read-only


def test_workers_without_a_temporary_folder_are_an_error_that_names_tmpdir(
    path, monkeypatch, capsys
):
    """Found: the error was "standard output: no usable temporary directory"."""
    path.write_text(settings("http://127.0.0.1:9/v1"))
    monkeypatch.setattr("stormbreak.fleet.parent_store.mkdtemp", _no_folder)
    assert main(["gateway", str(path), "--workers", "2"]) == 2
    assert "no folder for the socket of the workers: none; set TMPDIR" in capsys.readouterr().err


def test_workers_with_a_long_temporary_path_are_an_error(path, tmp_path, monkeypatch, capsys):
    path.write_text(settings("http://127.0.0.1:9/v1"))
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert main(["gateway", str(path), "--workers", "2"]) == 2
    assert "no socket for the workers: AF_UNIX path too long; set" in capsys.readouterr().err
    assert [*folder.iterdir()] == []


def _no_folder(**_):
    raise FileNotFoundError(2, "none")


# ------------------------------------------------------------------ compose

COMPOSE = yaml.safe_load(DEPLOY.joinpath("compose.yaml").read_text())


def test_compose_fits_the_gateway_and_mounts_files_that_exist(tmp_path):
    services = COMPOSE["services"]
    gateway = services["gateway"]
    assert served_beyond_the_container(gateway["command"])
    assert gateway["ports"] == [f"127.0.0.1:{DEFAULTS.port}:{DEFAULTS.port}"]
    assert int(gateway["stop_grace_period"].removesuffix("s")) > DEFAULTS.grace
    build = (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).resolve()
    assert build == DEPLOY / "Dockerfile"
    for service in services.values():
        assert {*service.get("depends_on", [])} <= {*services}
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source == "./gateway.toml":  # the user's own
                assert target == str(parsed(gateway["command"])["file"])
            elif source.startswith("."):
                assert (DEPLOY / source).is_file(), source
            else:
                assert source in COMPOSE["volumes"]


def test_docker_compose_accepts_the_file_and_rejects_a_typo(tmp_path):
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("docker-compose is not installed: install the Debian package")

    def check(file):
        words = [compose, "--project-directory", DEPLOY, "--file", file, "config", "--quiet"]
        return subprocess.run(words, check=False, capture_output=True, text=True)

    fine = check(DEPLOY / "compose.yaml")
    assert (fine.returncode, fine.stderr) == (0, "")
    wrong = tmp_path / "compose.yaml"
    text = DEPLOY.joinpath("compose.yaml").read_text()
    wrong.write_text(text.replace("stop_grace_period", "stop_grace"))
    assert "Additional property stop_grace is not allowed" in check(wrong).stderr


def test_prometheus_and_grafana_refer_to_existing_targets_and_files():
    scrape = yaml.safe_load(DEPLOY.joinpath("prometheus/prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"gateway:{DEFAULTS.admin_port}"]}]
    sources = yaml.safe_load(DEPLOY.joinpath("grafana/datasources.yml").read_text())
    (source,) = sources["datasources"]
    assert source["url"] == "http://prometheus:9090"
    boards = yaml.safe_load(DEPLOY.joinpath("grafana/dashboards.yml").read_text())
    (folder,) = [each["options"]["path"] for each in boards["providers"]]
    mounted = [each.split(":") for each in COMPOSE["services"]["grafana"]["volumes"]]
    (board,) = [source for source, target, _ in mounted if target.startswith(f"{folder}/")]
    assert (DEPLOY / board).read_text() == dashboard()


# ------------------------------------------------------------------ systemd


def test_systemd_accepts_the_unit(tmp_path):
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed: install the Debian package systemd")
    unit = tmp_path / "stormbreak-gateway.service"
    command = Path(sys.executable).with_name("stormbreak")
    text = DEPLOY.joinpath(unit.name).read_text()
    unit.write_text(text.replace("/usr/local/bin/stormbreak", str(command)))
    run = subprocess.run([verify, "verify", unit], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


# ------------------------------------------------------------------ proxies


@pytest.fixture
def pem(certificates, tmp_path):
    """A certificate and its key in one file."""
    both = tmp_path / "both.pem"
    both.write_text("".join(Path(part).read_text() for part in certificates[0]))
    return both


NGINX = """
daemon off; master_process off; pid {place}/pid; error_log {place}/errors; events {{}}
http {{
  access_log off;
  client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
  uwsgi_temp_path {place}; scgi_temp_path {place};
  {server}
}}
"""


def started(name, place, pem, front, *gateways):
    """Run nginx or haproxy with the file of deploy/, on other ports, in front of one gateway or two."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    file = DEPLOY / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]
    text = re.sub(r"/etc/ssl/llm\.example\.com\.\w+", str(pem), file.read_text())
    text = text.replace("listen 443", f"listen 127.0.0.1:{front}")
    text = text.replace("bind :443", f"bind 127.0.0.1:{front}")
    upstreams = [f"server 127.0.0.1:{each.port};" for each in gateways]
    text = text.replace("server 127.0.0.1:8080;", " ".join(upstreams))
    if name == "haproxy":
        text = text.replace("check port 9464 ", "")
        for host, each in zip(("10.0.0.1", "10.0.0.2"), gateways, strict=False):
            here = f"127.0.0.1:{each.port} check port {each.admin_port}"
            assert f"{host}:8080" in text
            text = text.replace(f"{host}:8080", here)
        text = re.sub(
            r" +server .* 10\.0\.0\.\d:8080\n", "", text
        )  # no second gateway in this test
    config = place / "config"
    config.write_text(NGINX.format(place=place, server=text) if name == "nginx" else text)
    words = ["-p", place, "-e", place / "errors", "-c"] if name == "nginx" else ["-db", "-q", "-f"]
    return subprocess.Popen([found, *words, config])


def with_admin_port(provider):
    return settings(provider.url).replace('admin_port = "none"', "admin_port = 0")


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_a_proxy_passes_on_events_one_by_one(name, tmp_path, pem):
    go = asyncio.Event()

    async def reply(request, connection):
        connection.begin(200, "text/event-stream", [])
        connection.send(b'data: {"choices":[{"index":0,"delta":{"content":"first"}}]}\n\n')
        await go.wait()
        connection.send(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        connection.send(b"data: [DONE]\n\n")
        connection.end()

    async with upstream() as provider:
        provider.reply = reply
        async with running(tmp_path / "gateway.toml", with_admin_port(provider)) as gateway:
            front = free_port()
            proxy = started(name, tmp_path, pem, front, gateway.gateway)
            try:
                body = json.dumps({"model": "main", "stream": True, "messages": []}).encode()
                stream, writer = await asyncio.wait_for(opened(front, body), 60)
                assert b"first" in await asyncio.wait_for(stream.readuntil(b"first"), 60)
                go.set()
                await asyncio.wait_for(stream.readuntil(b"data: [DONE]"), 60)
                writer.close()
            finally:
                proxy.kill()
                proxy.wait()


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_a_gateway_that_drains_behind_a_proxy_loses_no_call(name, tmp_path, pem):
    body = json.dumps({"model": "main", "messages": []}).encode()
    async with upstream() as provider:
        text = with_admin_port(provider)
        async with (
            running(tmp_path / "one.toml", text) as one,
            running(tmp_path / "two.toml", text) as two,
        ):
            front = free_port()
            proxy = started(name, tmp_path, pem, front, one.gateway, two.gateway)
            try:
                while not (one.metric("requests_total") and two.metric("requests_total")):
                    _, writer = await asyncio.wait_for(opened(front, body), 60)
                    writer.close()
                draining = asyncio.create_task(one.gateway.drain())
                statuses = set()
                for _ in range(8):
                    _, writer, status = await asyncio.wait_for(asked(front, body), 60)
                    writer.close()
                    statuses.add(status)
                await draining
            finally:
                proxy.kill()
                proxy.wait()
    assert statuses == {200}


async def opened(port, body):
    """Send the request over TLS until the proxy knows that the gateway is ready."""
    while True:
        try:
            reader, writer, status = await asked(port, body)
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.05)
            continue
        if status == 200:
            return reader, writer
        writer.close()
        await asyncio.sleep(0.1)


async def asked(port, body):
    """Send the request over TLS, and read the status."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: llm.example.com\r\nauthorization: Bearer {KEY}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    writer.write(head.encode() + body)
    status = await reader.readuntil(b"\r\n")
    return reader, writer, int(status.split()[1])

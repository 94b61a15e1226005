"""Rate limits, proxies and expired lists between the command line and the APIs of a cluster."""

import base64
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from repot_pipelines import http_clients
from repot_pipelines.cluster import client
from repot_pipelines.cluster.errors import ClusterError, ExpiredListError
from repot_pipelines.cluster.kubeconfig import ClusterContext, make_api_client
from tests.certificates import Authority
from tests.integration.http_api import Answer, HttpApi
from tests.integration.kfp_api.command_line import CommandResult, run_repot
from tests.integration.kfp_api.server import KfpApi
from tests.integration.kubernetes_api.kubeconfig import write_kubeconfig
from tests.integration.kubernetes_api.ready import NAMESPACE, prepare
from tests.integration.kubernetes_api.server import ADMIN_TOKEN, KubernetesApi

SERVER = "https://192.0.2.1"
"""An address that nothing outside the test answers: RFC 5737 reserves it for documentation."""

LOCATIONS = ("gs://pictures/flowers", "--storage-uri", "gs://repot/here")
_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


class TunnelProxy(socketserver.ThreadingTCPServer):
    """A proxy that connects every tunnel to one server.

    Attributes:
        target: Host and port of the server.
        requests: First line of every request, and its credentials.
    """

    daemon_threads = True

    def __init__(self, api: HttpApi) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.target = ("127.0.0.1", int(api.address.rpartition(":")[2]))
        self.requests: list[tuple[str, str]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Tunnel(socketserver.StreamRequestHandler):
    server: TunnelProxy

    def handle(self) -> None:
        first, *headers = iter(lambda: self.rfile.readline().decode().strip(), "")
        values = dict(header.split(": ", 1) for header in headers)
        names = {name.lower(): value for name, value in values.items()}
        self.server.requests.append((first, names.get("proxy-authorization", "")))
        with socket.create_connection(self.server.target) as upstream:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True)
            back.start()
            _copy(self.connection, upstream)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("KF_", "KUBE")) or name.upper() in _PROXY_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def kfp() -> Iterator[KfpApi]:
    with KfpApi() as server:
        yield server


def serve_tls(api: HttpApi, authority: Authority) -> None:
    context = authority.server_context(address=SERVER.removeprefix("https://"))
    api._server.socket = context.wrap_socket(api._server.socket, server_side=True)


@pytest.fixture
def tls_kfp(authority: Authority) -> Iterator[KfpApi]:
    api = KfpApi()
    serve_tls(api, authority)
    with api:
        yield api


@pytest.fixture
def proxy(tls_kfp: KfpApi) -> Iterator[TunnelProxy]:
    with TunnelProxy(tls_kfp) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


def too_many(seconds: str) -> Answer:
    return Answer(
        status=429,
        body=b"too many requests",
        kind="text/plain",
        headers=(("Retry-After", seconds),),
    )


def list_schedules(host: str, *options: str | Path) -> CommandResult:
    return run_repot("schedule", "list", "--host", host, *options)


def test_rate_limit_of_a_moment_is_waited_for(kfp: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_clients, "_MAX_WAIT_SECONDS", 0.05)
    kfp.answers = [("GET", "/recurringruns", too_many("3600"))] * 3

    result = list_schedules(kfp.address)

    assert result.exit_code == 0, result.errors
    assert kfp.answers == []


def test_lasting_rate_limit_is_an_error_within_seconds(
    kfp: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_clients, "_MAX_WAIT_SECONDS", 0.05)
    kfp.answers = [("GET", "/recurringruns", too_many("3600"))] * 9

    result = list_schedules(kfp.address)

    assert result.exit_code == 1
    assert "responded with 429. The server reports: too many requests." in result.errors
    assert len(kfp.answers) == 5


def test_change_that_was_refused_for_its_rate_is_made_once(
    kfp: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_clients, "_MAX_WAIT_SECONDS", 0.05)
    kfp.answers = [("POST", "/runs$", too_many("1"))]

    result = run_repot("submit", *LOCATIONS, "--host", kfp.address)

    assert result.exit_code == 0, result.errors
    assert len(kfp.store.runs) == 1


@pytest.mark.parametrize("num_expired", [1, 2])
def test_list_that_expires_while_it_is_read_is_read_once_more(
    num_expired: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAGE_SIZE", 1)
    with KubernetesApi() as api:
        prepare(api)
        path = write_kubeconfig(tmp_path / "kubeconfig", api.address, token=ADMIN_TOKEN)
        found = client.open_client("", {"KUBECONFIG": str(path)}, tmp_path)
        assert found is not None
        pages = 0

        def expire_the_second_page(_method: str, _path: str) -> None:
            nonlocal pages
            pages += 1
            if pages in (2, 4)[:num_expired]:
                body = b'{"kind": "Status", "code": 410, "reason": "Expired"}'
                api.answers.append(("GET", "/nodes", Answer(status=410, body=body)))

        api.before = expire_the_second_page
        if num_expired == 2:
            with pytest.raises(ExpiredListError, match="responded with 410"):
                found.list_all("list nodes", "/api/v1/nodes")
        else:
            nodes = found.list_all("list nodes", "/api/v1/nodes")
            names = [node["metadata"]["name"] for node in nodes]
            assert names == ["cpu-1", "gpu-1", "gpu-2"]


def test_proxy_of_the_environment_is_used_with_its_credentials(
    tls_kfp: KfpApi, proxy: TunnelProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss-word@{proxy.host}")

    result = list_schedules(SERVER, "--ca-file", authority.path)

    assert result.exit_code == 0, result.errors
    expected = f"Basic {base64.b64encode(b'me:p@ss-word').decode()}"
    (request,) = set(proxy.requests)
    assert request == (f"CONNECT 192.0.2.1:443 {request[0].split()[-1]}", expected)
    assert tls_kfp.requests


def test_no_proxy_and_local_addresses_are_reached_directly(
    kfp: KfpApi, tls_kfp: KfpApi, proxy: TunnelProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy.host}")
    local = list_schedules(kfp.address)
    tls = list_schedules(tls_kfp.address.replace("http:", "https:"))
    monkeypatch.setenv("NO_PROXY", "no-such-host.invalid")
    excluded = list_schedules("https://no-such-host.invalid")

    assert local.exit_code == 0, local.errors
    assert "the TLS connection to https://127.0.0.1" in tls.errors
    assert "the host name in https://no-such-host.invalid does not resolve" in excluded.errors
    assert proxy.requests == []


def test_proxies_for_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")

    result = list_schedules("https://no-such-host.invalid")

    assert "the host name in https://no-such-host.invalid does not resolve" in result.errors


def test_unusable_proxy_of_kubeconfig_is_an_error_of_the_cluster(tmp_path: Path) -> None:
    context = ClusterContext(
        kubeconfig=str(write_kubeconfig(tmp_path / "kubeconfig", SERVER, token="x")),
        name="test",
        proxy_url="socks5://me:s3cret-word@127.0.0.1:9",
    )

    with pytest.raises(
        ClusterError, match=r"proxy must be an address .*got 'socks5://127.0.0.1:9'"
    ):
        make_api_client(context)


def test_proxy_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret-word@127.0.0.1:9")
    refused = list_schedules(SERVER)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:s3cret-word@127.0.0.1:9")
    unusable = list_schedules(SERVER)

    assert refused.exit_code == 1
    assert (
        "Cannot reach Kubeflow Pipelines: the proxy to https://192.0.2.1 failed" in refused.errors
    )
    assert "Check HTTPS_PROXY (or proxy-url in kubeconfig)" in refused.errors
    assert unusable.exit_code == 1
    assert "The proxy must be an address" in unusable.errors
    assert "s3cret" not in refused.errors + unusable.errors


def test_proxy_of_kubeconfig_is_used_by_both_clients(
    kfp: KfpApi, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = KubernetesApi()
    prepare(api, kfp)
    serve_tls(api, authority)
    with api, TunnelProxy(api) as proxy:
        threading.Thread(target=proxy.serve_forever, args=[0.02], daemon=True).start()
        path = tmp_path / "kubeconfig"
        cluster = {
            "server": SERVER,
            "certificate-authority": str(authority.path),
            "proxy-url": f"http://{proxy.host}",
        }
        config = {
            "current-context": "far",
            "clusters": [{"name": "far", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": ADMIN_TOKEN}}],
            "contexts": [{"name": "far", "context": {"cluster": "far", "user": "me"}}],
        }
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

        result = run_repot("submit", *LOCATIONS)

        proxy.shutdown()
    assert result.exit_code == 0, result.errors
    assert len(kfp.store.runs) == 1
    paths = {path for _, _, path in api.requests}
    assert "/api/v1/nodes" in paths
    assert any(f"/namespaces/{NAMESPACE}/services/ml-pipeline:http/proxy" in path for path in paths)

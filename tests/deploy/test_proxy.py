"""The kit's nginx.conf in nginx itself, before a server that notes what comes through."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.deploy.demo import free_ports
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from tests.deploy.nginx import ALLOWED, REFUSED, nginx, status_of

SEEN: list[tuple[str, str]] = []
SIZES: list[int] = []


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers everything, the control API too, and notes the request line."""

    def do_GET(self) -> None:
        SEEN.append((self.command, self.path))
        SIZES.append(len(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """(the proxy's port, the kit)."""
    port, proxy_port = free_ports(2)
    kit = tmp_path_factory.mktemp("proxy") / "kit"
    deployment = Deployment(sites=("north",), port=port, proxy_port=proxy_port)
    write_kit(kit, _experiment(), deployment)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "server/tls/server.pem", kit / "server/tls/server.key")
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", port), Upstream)
    upstream.socket = context.wrap_socket(upstream.socket, server_side=True)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    with nginx(kit / "server", proxy_port):
        yield proxy_port, kit
    upstream.shutdown()
    upstream.server_close()


def _experiment():
    from tests.deploy.real import experiment

    return experiment(1)


@pytest.mark.parametrize(("method", "path"), ALLOWED)
def test_the_fleet_api_and_health_pass_as_they_were_sent(door, method, path) -> None:
    port, kit = door
    SEEN.clear()
    assert status_of(port, kit / "sites/north/ca.pem", method, path) == 200
    assert [(method, path)] == SEEN


def test_a_large_message_passes_whole(door) -> None:
    port, kit = door
    SIZES.clear()
    assert status_of(port, kit / "sites/north/ca.pem", *ALLOWED[0], b"x" * 20_000_000) == 200
    assert SIZES == [20_000_000]


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_nothing_else_passes_in_any_spelling(door, method, path) -> None:
    port, kit = door
    SEEN.clear()
    assert status_of(port, kit / "sites/north/ca.pem", method, path) in (400, 403)
    assert SEEN == []


def test_a_client_without_the_ca_does_not_speak_to_the_proxy(door) -> None:
    port, _ = door
    SEEN.clear()
    trusted = Path("/etc/ssl/certs/ca-certificates.crt")
    if not trusted.is_file():
        pytest.skip("this machine has no list of public CAs")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        status_of(port, trusted, "GET", "/health")
    assert SEEN == []


def test_the_proxy_does_not_believe_another_server(tmp_path) -> None:
    """A process that took the SuperLink's port, with another CA's certificate, gets no site's message."""
    port, proxy_port = free_ports(2)
    deployment = Deployment(sites=("north",), port=port, proxy_port=proxy_port)
    write_kit(tmp_path / "kit", _experiment(), deployment)
    write_kit(tmp_path / "other", _experiment(), deployment)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = tmp_path / "other/server/tls"
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", port), Upstream)
    upstream.socket = context.wrap_socket(upstream.socket, server_side=True)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    SEEN.clear()
    with nginx(tmp_path / "kit/server", proxy_port):
        answer = status_of(proxy_port, tmp_path / "kit/sites/north/ca.pem", *ALLOWED[0])
    upstream.shutdown()
    upstream.server_close()
    assert answer == 502
    assert SEEN == []


def test_sites_connect_to_the_proxys_port(door) -> None:
    port, kit = door
    assert read_settings(Site, kit / "sites/north/site.yaml").server == f"localhost:{port}"


def test_a_host_that_would_need_escaping_is_refused() -> None:
    for host in ("a;b", "a b", 'a"b', "a\nb", "$host", "{a}"):
        with pytest.raises((ValueError, ExperimentError)):
            Deployment(sites=("north",), host=host)


def test_an_ipv6_host_is_listened_to(tmp_path) -> None:
    deployment = Deployment(sites=("north",), host="2001:db8::1", proxy_port=8443)
    write_kit(tmp_path / "kit", _experiment(), deployment)
    text = (tmp_path / "kit/server/nginx.conf").read_text()
    assert "listen [::]:8443 ssl;" in text
    assert "server_name [2001:db8::1];" in text

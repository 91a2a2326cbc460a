"""Whatever enters a file name, a command line or a configuration file has one strict form."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.deploy.addresses import Endpoint, Host, SiteName
from fedloom.deploy.current_run import run_path
from fedloom.deploy.settings import Deployment, Site
from fedloom.deploy.wire import _AnswerHeader, _RequestHeader

EVIL = [
    "x; return 200", "x;\n}", "a b", "$host", "${HOME}", "`id`", "a\tb", "-x", "a_b.example", "example.org.", "a..b",
    "", ".", "a\n", "127.0.0.1\n", "10.0.0.300", "1.2.3", "fe80::1%eth0", "::1%;}", "[::1]", "a/b", "a:b", "exämple.org",
    "x" * 64 + ".org", "a." * 127 + "toolong",
]  # fmt: skip


@pytest.mark.parametrize("host", EVIL)
def test_a_host_is_a_name_or_an_address(host, tmp_path) -> None:
    for field in ("host", "bind"):
        with pytest.raises(ValidationError, match="is no host; use a name such as"):
            Deployment(sites=("north",), **{field: host})
    if host != "[::1]":
        with pytest.raises(ValidationError):
            TypeAdapter(Endpoint).validate_python(f"{host}:443")


@pytest.mark.parametrize(
    "host", ["localhost", "fl.example.org", "xn--exmple-cua.org", "10.0.0.3", "::1", "3com.example", "a-1"]
)
def test_hosts_that_are_meant_pass(host) -> None:
    assert Deployment(sites=("north",), host=host).host == host
    address = f"[{host}]:443" if ":" in host else f"{host}:443"
    assert TypeAdapter(Endpoint).validate_python(address) == address


@pytest.mark.parametrize(
    "server", ["a", "a:", "a:0", "a:65536", "a:443\n", "a:+1", "a:٣", "::1:443", "[a]:443", "-a:443"]
)
def test_a_servers_address_is_host_and_port(server) -> None:
    with pytest.raises(ValidationError, match=r"is no address|is no host"):
        Site(name="north", server=server, sites=("north",), requests=())


@pytest.mark.parametrize("name", ["north\n", "a" * 65, "..", "-a", "a b", "nörth", "a\n--x"])
def test_a_newline_is_in_no_name(name) -> None:
    with pytest.raises(ValidationError, match="is no site's name"):
        Deployment(sites=(name,))
    with pytest.raises(ValidationError, match="is no site's name"):
        Site(name=name, server="x:1", sites=("north",), requests=())
    with pytest.raises(ValidationError, match="is no site's name"):
        Site(name="north", server="x:1", sites=(name,), requests=())


@pytest.mark.parametrize("name", ["first\n", "a\nb", "a" * 101, "../up", ".hidden", ""])
def test_a_runs_name_is_one_folder(name) -> None:
    with pytest.raises(ExperimentError, match="is no run's name"):
        run_path(Path("server"), name)


def test_the_headings_of_messages_take_no_newline() -> None:
    good = {"run": "a" * 32, "experiment": "b" * 64, "name": "train", "round": 1, "step": 0, "numbers": {}}
    _RequestHeader.model_validate(good)
    for field in ("run", "experiment"):
        with pytest.raises(ValidationError):
            _RequestHeader.model_validate({**good, field: good[field] + "\n"})
    with pytest.raises(ValidationError):
        _AnswerHeader.model_validate({"site": "x", "to": "c" * 32 + "\n", "error": None, "numbers": {}})


FORMS = [(TypeAdapter(Host), ":"), (TypeAdapter(SiteName), "_"), (TypeAdapter(Endpoint), ":[]")]


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.text(max_size=80))
def test_any_accepted_text_needs_no_escaping(text: str) -> None:
    safe = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
    for kind, more in FORMS:
        try:
            accepted = kind.validate_python(text)
        except ValidationError:
            continue
        assert set(accepted) <= safe | set(more)
        assert not accepted.startswith("-")


def test_a_servers_folder_with_quotes_is_still_a_configuration(quick, tmp_path) -> None:
    pytest.importorskip("flwr", reason="Flower is not installed")
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and newer")
    from fedloom.deploy.run_server import Server
    from fedloom.deploy.site_kit import write_kit

    out = tmp_path / 'our "own" \\ folder'
    write_kit(out, quick("fedsa-lora"), Deployment(sites=("north",)))
    Server(out / "server", print)
    written = tomllib.loads((out / "server/flower/config.toml").read_text())
    assert written["superlink"]["fedloom"]["root-certificates"] == str(out / "server/tls/ca.pem")

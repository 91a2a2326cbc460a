"""`python -m fedloom.deploy.flower_key SERVER CA KEY`: print whether a Flower server knows a site's key.

Flower refuses a key that it does not know and one that it takes for connected with the same code. An activation with an
impossible heartbeat interval tells them apart and changes nothing: the server looks for the key first, and refuses the interval
only for a key that it knows (flwr 1.40 to 1.42). It is a process of its own because it uses parts of Flower that are not public.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

KNOWN, UNKNOWN = "known", "unknown"
LIMIT = 20.0
"""Seconds after which a server that does not answer has told nothing."""


def ask_for_key(server: str, ca: Path, key: Path, env: Mapping[str, str]) -> bool | None:
    """Whether the server knows the key; None if that cannot be told."""
    command = [sys.executable, "-m", __name__, server, str(ca), str(key)]
    try:
        done = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=LIMIT)  # noqa: S603
    except (subprocess.TimeoutExpired, OSError):
        return None
    return {KNOWN: True, UNKNOWN: False}.get(done.stdout.strip())


def main(server: str, ca: str, key: str) -> None:
    """Print the word, or nothing if the server answers otherwise."""
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.supercore.interceptors.http import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    private = load_ssh_private_key(Path(key).read_bytes(), None)
    public = private.public_key()
    signing = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, public),
    ]
    meaning = {
        int(ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL): KNOWN,
        int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED): UNKNOWN,
    }
    with FleetHttpClient.from_server_address(server, False, ca, interceptors=signing) as client:
        try:
            client.ActivateNode(
                ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=0.0)
            )
        except httpx.HTTPStatusError as refusal:
            error = FlowerError.from_json(refusal.response.text)
            if error is not None and (word := meaning.get(int(error.code))):
                sys.stdout.write(word)


if __name__ == "__main__":
    main(*sys.argv[1:4])

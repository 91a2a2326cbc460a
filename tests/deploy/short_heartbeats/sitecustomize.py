"""On the PYTHONPATH of a test: a node's heartbeats come every 10 s, Flower's least, instead of every 30 s.

Flower has no option for it. Everything else is as it is, only sooner: after a SIGKILL the server takes the node for connected for
20 s, not for a minute.
"""

from pathlib import Path

if b"fedloom.deploy.flower_node" in Path("/proc/self/cmdline").read_bytes():
    import flwr.common.constant

    flwr.common.constant.HEARTBEAT_DEFAULT_INTERVAL = 10

"""The ClientApp: a thin stub that forwards a message's bytes to the site's warm trainer and returns its answer.

Flower starts a process for every message; this module therefore never imports torch, directly or indirectly.
"""

import os
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedloom.deploy.trainer_link import ask

TRAINER = "FEDLOOM_TRAINER"
"""Environment variable: path of the file with the trainer's port and secret."""
RECORD, BYTES, STYPE = "fedloom", "bytes", "fedloom.payload"
"""Record name, array name and serialisation type of the bytes in a Flower message."""

app = ClientApp()


def record_of(data: bytes) -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    return RecordDict({RECORD: ArrayRecord({BYTES: Array("uint8", (len(data),), STYPE, data)})})


def bytes_in(content: RecordDict) -> bytes:
    """Unwrap the bytes of a message's content. Raises ValueError if there are none."""
    record = content.get(RECORD)
    if not isinstance(record, ArrayRecord) or list(record) != [BYTES]:
        raise ValueError("a message without fedloom's bytes")
    return bytes(record[BYTES].data)


@app.train()  # type: ignore[untyped-decorator]
def carry(message: Message, context: Context) -> Message:
    """The trainer's answer to a message. Raises Unreachable without a trainer; Flower reports it to the server."""
    # As long as the server waits for the answer: a large foundation takes its time to load again.
    data = ask(Path(os.environ[TRAINER]), bytes_in(message.content), patience=message.metadata.ttl)
    return Message(record_of(data), reply_to=message)

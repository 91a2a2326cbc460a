"""The ClientApp: a thin stub that hands a message's bytes to the site's warm trainer and brings back its answer.

Flower starts a process for every message, so that this file imports neither torch nor anything that does.
"""

import os
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedloom.deploy.trainer_link import ask

TRAINER = "FEDLOOM_TRAINER"
"""Environment: the file in which the site's trainer says where it listens."""
RECORD, BYTES, STYPE = "fedloom", "bytes", "fedloom.payload"
"""Where in a message the bytes stand."""

app = ClientApp()


def record_of(data: bytes) -> RecordDict:
    """A message's content that holds these bytes."""
    return RecordDict({RECORD: ArrayRecord({BYTES: Array("uint8", (len(data),), STYPE, data)})})


def bytes_in(content: RecordDict) -> bytes:
    """The bytes in a message's content. Raises ValueError where there are none."""
    record = content.get(RECORD)
    if not isinstance(record, ArrayRecord) or list(record) != [BYTES]:
        raise ValueError("a message without fedloom's bytes")
    return bytes(record[BYTES].data)


@app.train()  # type: ignore[untyped-decorator]
def carry(message: Message, context: Context) -> Message:
    """The trainer's answer to a message. Raises where there is no trainer: Flower tells the server."""
    data = ask(Path(os.environ[TRAINER]), bytes_in(message.content))
    return Message(record_of(data), reply_to=message)

"""The content of a Flower message: one array of bytes, which is a request or an answer of fedloom's own."""

from flwr.app import Array, ArrayRecord, RecordDict

RECORD, BYTES, STYPE = "fedloom", "bytes", "fedloom.payload"
"""Record name, array name and serialisation type of the bytes in a Flower message."""


def record_of(data: bytes) -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    return RecordDict({RECORD: ArrayRecord({BYTES: Array("uint8", (len(data),), STYPE, data)})})


def bytes_in(content: RecordDict) -> bytes:
    """Unwrap the bytes of a message's content. Raises ValueError if there are none."""
    record = content.get(RECORD)
    if not isinstance(record, ArrayRecord) or list(record) != [BYTES]:
        raise ValueError("a message without fedloom's bytes")
    return bytes(record[BYTES].data)

"""Reads back what trackers have written."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Points = dict[str, list[tuple[int, float]]]
"""(step, value) by the figure's name, in the order of the store."""


def tensorboard(folder: Path) -> tuple[Points, dict[str, str]]:
    """The scalars of a folder's event files, and the texts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    points = {tag: [(e.step, round(e.value, 6)) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    texts = {
        tag.removesuffix("/text_summary"): [e.tensor_proto.string_val[0].decode() for e in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }
    return points, {tag: "\n".join(found) for tag, found in texts.items()}


def wandb(file: Path) -> tuple[Points, dict[str, Any]]:
    """The history of an offline run's file, and its config, summary, exit code and id."""
    from wandb.proto.wandb_internal_pb2 import Record

    points, others = defaultdict(list), {"config": {}, "summary": {}}
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        values = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
        }
        for name, value in values.items():
            if not name.startswith("_"):
                points[name].append((values["_step"], round(value, 6)))
        for part, items in (("config", record.run.config.update), ("summary", record.summary.update)):
            others[part] |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items
            }
        if record.HasField("run"):
            others["id"] = record.run.run_id
        if record.HasField("exit"):
            others["exit"] = record.exit.exit_code
    return dict(points), others


def _records(data: bytes) -> Iterator[bytes]:
    """The records of W&B's file: blocks of 32 KiB, in them chunks with checksum, length and kind (whole, first, middle, last)."""
    place, held = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        held += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield held
            held = b""


def mlflow(uri: str, id: str) -> tuple[Points, Any]:
    """The metrics of a run, and the run itself."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(id)
    points = {
        name: [(m.step, round(m.value, 6)) for m in client.get_metric_history(id, name)]
        for name in run.data.metrics
    }
    return points, run

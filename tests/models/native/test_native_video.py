"""Videos in native models: whole by the processor's part for video beside torchvision, else a picture per frame."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers.video_utils import VideoMetadata
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.core.streams import torch_stream
from fedloom.data.media import Media, MediaSettings
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Medium, Sample, Turn
from fedloom.experiment.run import run
from fedloom.models.native.clips import decoded, processor_options
from fedloom.models.native.collate import collate
from fedloom.models.native.families import FAMILIES as TABLE
from fedloom.models.native.messages import picture
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, train_one
from fedloom.models.training.settings import Training
from tests.data.media.recordings import video
from tests.models.native.conftest import SOUND
from tests.models.native.test_families import stirred
from tests.models.native.test_native_run import experiment
from tests.models.native.tiny_families import FAMILIES

REFUSES = {"paligemma"}
READS = [name for name in FAMILIES if name not in SOUND | REFUSES]


def clip(seed: int = 0, count: int = 4) -> torch.Tensor:
    size = (count, 3, 40, 60)
    return torch.randint(0, 256, size, generator=torch_stream(seed, "clip"), dtype=torch.uint8)


def by_processor(reads: Any, content: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """The processor's own outputs for one user message."""
    made = reads.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=reads.template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=settings,
    )
    return {n: t for n, t in made.items() if isinstance(t, torch.Tensor)}


@pytest.mark.parametrize("name", READS)
def test_a_video_is_what_the_processor_makes_of_its_frames(name, reader) -> None:
    reads, frames = reader(name), clip()
    example = reads.prepare(Sample("a", {"video": frames}, "what?", "red"))
    content: list[dict[str, Any]] = [{"type": "image", "image": picture(f)} for f in frames]
    settings: dict[str, Any] = {"images_kwargs": dict(TABLE[name].frames)}
    if reads.whole_videos:  # four frames in the four seconds of an unknown length
        content = [{"type": "video", "video": frames.numpy()}]
        times = VideoMetadata(8, fps=2.0, duration=4.0, frames_indices=[1, 3, 5, 7])
        settings = {"videos_kwargs": {"video_metadata": [times], "do_sample_frames": False}}
    made = by_processor(reads, [*content, {"type": "text", "text": "what?"}], settings)
    ours = collate([example], reads.pad, answers=False).inputs
    assert ours.keys() == made.keys()
    assert all(torch.equal(ours[n], made[n]) for n in made)
    assert ("pixel_values_videos" in made) == reads.whole_videos


@pytest.mark.parametrize("name", READS)
def test_videos_train_the_encoder_of_pictures_and_are_answered_as_alone(name, native) -> None:
    model = native(name, ["video"])
    assert model.stackable == (not model.reader.whole_videos)
    assert model.groups(["video"]) == model.groups(["image"])
    assert "video" in model.notes[-1]
    batch = [
        model.prepare(Sample("a", {"video": clip()}, "what?", "red")),
        model.prepare(Sample("b", {"image": clip(1)[0], "video": clip(2)}, "what is it?", "a dog")),
        model.prepare(Sample("c", {}, "why?", "so")),
    ]
    parameters = model.begin(model.tensors)
    first = model.loss(batch)
    first.backward()
    assert all(p.grad is not None for p in parameters)
    torch.optim.SGD(parameters, 0.05).step()
    model.rest()
    assert float(model.loss(batch)) < float(first.detach())
    alone = [float(model.loss([e])) for e in batch]
    assert torch.allclose(model.losses(batch, range(3), 3), torch.tensor(alone), atol=1e-5)
    assert model.generate(batch, 3) == [model.generate([e], 3)[0] for e in batch]
    other = model.prepare(Sample("a", {"video": clip(7)}, "what?", "red"))
    assert float(model.loss([other])) != pytest.approx(float(model.loss(batch[:1])), abs=1e-6)


def test_a_family_that_reads_one_picture_refuses_a_video_in_one_sentence(reader, native) -> None:
    with pytest.raises(ExperimentError, match=r"sample 'a' has video, and .* reads image only; drop video"):
        reader("paligemma").prepare(Sample("a", {"video": clip()}, "what?", "red"))
    with pytest.raises(ExperimentError, match=r"reads audio, and the data has video; drop video"):
        native("qwen2_audio", ["video"])


def test_the_tokens_of_a_video_count_as_positions_and_not_as_text(reader, native, monkeypatch) -> None:
    model = native("qwen2_5_vl", ["video"])
    short, long = (model.prepare(Sample("a", {"video": clip(0, n)}, "what?", "red")) for n in (2, 8))
    assert model.positions(long) > model.positions(short) > len(short.ids) + len(short.answer)
    monkeypatch.setattr(model.reader, "limit", 60)
    cut = model.prepare(Sample("a", {"video": clip()}, "what? " * 40, "red"))
    whole = model.prepare(Sample("a", {"video": clip()}, "what?", "red"))
    assert (cut.truncated, whole.truncated) == (True, False)
    assert {n: t.shape for n, t in cut.media.items()} == {n: t.shape for n, t in whole.media.items()}


def test_two_videos_stand_where_their_turns_have_them(reader) -> None:
    reads, clips = reader("llava"), {"video": clip(1, 2), "video-2": clip(2, 3)}
    turns = (
        Turn("user", (Medium("video", "video"), "one </s>?")),
        Turn("assistant", ("red",)),
        Turn("user", ("two?", Medium("video", "video-2"))),
        Turn("assistant", ("blue",)),
    )
    example = reads.prepare(Sample("a", clips, "two?", "blue", turns=turns))
    asked = reads.tokenizer.decode(example.ids).split("red")
    assert [text.count("<image>") for text in asked] == [2 * 4, 3 * 4]
    stills = [reads.prepare(Sample("b", {"image": f}, "?", "!")) for f in (*clip(1, 2), *clip(2, 3))]
    assert torch.equal(example.media["pixel_values"], torch.cat([s.media["pixel_values"] for s in stills]))


def test_a_cohort_with_videos_ends_where_its_clients_end_alone(native) -> None:
    model = native("llava", ["image", "video"], dropout=0.1)
    jobs = {}
    for k, held in enumerate(
        ({"video": clip()}, {"image": clip(1)[0]}, {"image": clip(2)[0], "video": clip(3)})
    ):
        samples = [Sample(f"{k}-{i}", held, "what" + "?" * (i + 1), ("red", "blue")[i]) for i in range(2)]
        jobs[f"c{k}"] = LocalJob(
            client=f"c{k}",
            examples=[model.prepare(s) for s in samples],
            start=stirred(model, k),
            names=frozenset(n for n in model.tensors if group_of(n) in model.groups(list(held))),
            training=Training(epochs=1, batch_size=2, lr=0.05, optimizer="sgd", schedule="simultaneous"),
            seed=0,
            round=1,
            rounds=2,
            ratios={},
        )
    alone = [train_one(model, job) for job in jobs.values()]
    for one, outcome in zip(alone, train_cohort(model, list(jobs.values())), strict=True):
        assert outcome.loss == pytest.approx(one.loss, abs=1e-5)
        assert all(torch.allclose(t, one.tensors[n], atol=1e-5) for n, t in outcome.tensors.items())


@pytest.mark.parametrize("part", [(0, 1), (1, 2)])
def test_the_processor_is_told_when_each_frame_was_taken(part, tmp_path) -> None:
    """Two seconds at ten frames a second, whole or as the second of two windows."""
    (tmp_path / "a.mp4").write_bytes(video("mp4"))
    media = Media("video", tmp_path / "a.mp4", MediaSettings(frames=4), part)
    sample = Sample("a", MediaFiles({"video": media}, lambda m, says: ExperimentError(says)), "?", "!")
    options = processor_options(decoded(sample), sample.conversation, TABLE["qwen3_vl"], whole=True)
    [described] = options["videos_kwargs"]["video_metadata"]
    told, length = VideoMetadata(**described), 2.0 / part[1]
    assert told.timestamps == pytest.approx([length * (i + 0.5) / 4 for i in range(4)])
    assert told.sampled_fps == pytest.approx(4 / length)
    assert processor_options(decoded(Sample("b", {}, "?", "!")), (), TABLE["qwen3_vl"], whole=True) == {}


def write_silos(root: Path) -> Path:
    """Two clients with videos: one by LLaVA's placeholders, one by parts of messages; and one with texts."""
    lines: dict[str, list[dict[str, Any]]] = {"llava": [], "parts": [], "texts": []}
    for i in range(4):
        answer = ("red", "blue")[i % 2]
        said = [{"from": "human", "value": f"<video>\n{i}?"}, {"from": "gpt", "value": answer}]
        lines["llava"].append({"video": f"{i}.mp4", "conversations": said})
        parts = [{"type": "text", "text": f"{i}?"}, {"type": "video", "video": f"{i}.mp4"}]
        talk = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        lines["parts"].append({"messages": talk})
        lines["texts"].append({"question": f"{i}?", "answer": answer})
    for client, entries in lines.items():
        (root / client).mkdir(parents=True)
        (root / client / "metadata.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n")
        for i in range(0 if client == "texts" else 4):
            (root / client / f"{i}.mp4").write_bytes(video("mp4", shift=i % 2))
    return root


def test_a_folder_of_videos_is_trained_counted_shown_and_asked(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    data = write_silos(tmp_path / "silos")
    settings = experiment(checkpoint("qwen2_5_vl"), data)
    settings = settings.model_copy(
        update={"data": settings.data.model_copy(update={"media": MediaSettings(frames=2)})}
    )
    result = run(settings, tmp_path / "run")
    assert result.summary["status"] == "complete"
    holds = {c["client"]: c["holds"] for c in result.summary["clients"]}
    assert holds == {"llava": ["video"], "parts": ["video"], "texts": []}
    ledger = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert set(ledger[0]["groups_up"]) == {"encoder.image", "llm", "projector"}
    shown = json.loads((tmp_path / "run" / "samples" / "samples.json").read_text())
    [strip] = [s["video"] for s in shown if s["kind"] == "video"]
    assert Image.open(tmp_path / "run" / "samples" / strip).size == (2 * 160, 120)

    tell = CliRunner()
    asked = ["ask", str(tmp_path / "run"), "--question", "what?", "--max-new-tokens", "2"]
    answered = tell.invoke(app, [*asked, "--video", str(data / "llava" / "0.mp4")])
    assert answered.exit_code == 0, answered.output
    (tmp_path / "bad.mp4").write_bytes(video("mp4")[:900])
    refused = tell.invoke(app, [*asked, "--video", str(tmp_path / "bad.mp4")])
    assert isinstance(refused.exception, ExperimentError)
    assert str(refused.exception).startswith(f"--video: {tmp_path / 'bad.mp4'} cannot be read: ")
    file = tmp_path / "run" / "experiment.yaml"
    for limit, cut in (("512", "0 of 7"), ("20", "7 of 7")):
        counted = tell.invoke(app, ["data", str(file), f"model.max_text_tokens={limit}", "--tokens"])
        assert f"{cut} train samples will be cut" in " ".join(counted.output.split()), counted.output

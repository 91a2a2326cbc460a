"""Captioned pictures without a caption are nobody's samples (specification fedma, test 18)."""

from PIL import Image

from fedloom.data.sources.caption_files import read_captions
from fedloom.data.sources.captions import CaptionSource


def test_empty_captions_are_skipped(tmp_path) -> None:
    folder, texts = tmp_path / "data", ["one", "", "two", "   ", "three", "four", "five"]
    folder.mkdir()
    for i in range(len(texts)):
        Image.new("RGB", (6, 5), (30 * i, 0, 0)).save(folder / f"{i}.png")
    lines = [f'{{"file_name": "{i}.png", "text": "{text}"}}' for i, text in enumerate(texts)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    samples, source, _ = read_captions(str(folder))
    assert [s.answer for s in samples] == ["one", "two", "three", "four", "five"]
    assert [int(s.modalities["image"][0, 0, 0]) for s in samples] == [0, 60, 120, 150, 180]
    assert source == [0] * 5
    (client,) = CaptionSource(path=folder, clients={"image": 1}, train=4, test=1).load(0)
    assert all(s.answer.strip() for s in (*client.train, *client.test))

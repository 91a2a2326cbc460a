"""Features that runs share: the bits of those computed anew, and never those of another prefix, dtype or sample."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedloom.methods import METHODS
from fedloom.models import shared_features
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.feature_cache import FeatureCache
from fedloom.models.mllm.media import MediaReading
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.models.shared_features import SharedFeatures
from tests.models.clip.tiny_clip import adapted, sample, towers

IMAGES = {"clients": {"image": 2}, "train": 5, "test": 3}
LIMIT = 10**8


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Every chunk is worth keeping, in a cache of the test's own."""
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shared_features, "WORTH", 0.0)
    return tmp_path / "cache" / "features"


@pytest.fixture
def runs(quick: Any, federate: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs an experiment; `runs.seen` counts the examples that passed the encoder."""
    seen: list[int] = []
    original = AdaptedMLLM.features

    def features(self: Any, examples: Any) -> Any:
        seen.append(len(examples))
        return original(self, examples)

    monkeypatch.setattr(AdaptedMLLM, "features", features)

    def run(method: Any = "feda2-lora", cohort: Any = "off", cache: int = 4096, **more: Any) -> Any:
        seen.clear()
        settings = {"data": IMAGES, "rounds": 2, "training": {"tau": 0.0, "batch_size": 3}, **more}
        federation = federate(quick(method=method, **settings, engine={"cohort": cohort, "cache": cache}))
        federation.run()
        return federation.state.shared, federation.last_metrics, sum(seen)

    return run


def equal(one: Any, two: Any) -> bool:
    same = all(torch.equal(t, two[0][n]) for n, t in one[0].items())
    return same and one[0].keys() == two[0].keys() and one[1] == two[1]


@pytest.mark.parametrize("cohort", ["off", 2])
def test_another_row_of_a_table_reads_them_and_ends_in_the_bits_of_a_run_without(cohort, runs, kept) -> None:
    without = runs(cohort=cohort, cache=0)
    assert not list(kept.glob("*/*"))
    first, second = runs(cohort=cohort), runs(cohort=cohort)
    assert (without[2], first[2], second[2]) == (16, 16, 0)
    assert equal(without, first)
    assert equal(without, second)
    other, plain = runs("fedavg-lora", cohort), runs("fedavg-lora", cohort, cache=0)
    assert (other[2], plain[2]) == (0, 16)
    assert equal(other, plain)


def test_an_encoder_that_a_run_trains_is_not_shared(runs, kept) -> None:
    trained = runs(training={"tau": 0.5, "batch_size": 3})
    assert trained[2] > 0
    assert not list(kept.glob("*/*"))


def test_what_is_made_fast_is_not_written(runs, kept, monkeypatch) -> None:
    monkeypatch.setattr(shared_features, "WORTH", 3600.0)
    runs()
    assert not list(kept.glob("*/*"))


def test_a_damaged_file_is_made_anew(runs, kept, capsys) -> None:
    first = runs()
    for file in kept.glob("*/*"):
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.write_bytes(bytes(data))
    again = runs()
    assert again[2] == 16
    assert equal(first, again)
    assert "damaged" in capsys.readouterr().err


def key(model: AdaptedCLIP, examples: Any) -> str:
    shared = model.shared_features(LIMIT)
    assert shared is not None
    return shared._key(model.feature_version(), examples)


def test_a_key_covers_weights_preprocessing_dtype_sample_and_prefix(monkeypatch) -> None:
    method = METHODS["pfedmma"]
    model = adapted(method(blocks=2))
    examples = [model.prepare(sample(i, i)) for i in range(3)]
    keys = {"": key(model, examples)}
    assert key(adapted(method(blocks=2, rank=5, scale=0.3)), examples) == keys[""], "what lies above"
    relabelled = [model.prepare(sample(i, i, own=[i])) for i in range(3)]
    assert key(model, relabelled) == keys[""]
    keys["order"] = key(model, examples[::-1])
    keys["fewer"] = key(model, examples[:2])
    pixel = [model.prepare(sample(i, i)) for i in range(3)]
    pixel[1].image[0, 3, 3] ^= 1
    keys["pixel"] = key(model, pixel)
    keys["dtype"] = key(adapted(method(blocks=2), dtype=torch.bfloat16), examples)
    keys["blocks"] = key(adapted(method(blocks=1)), examples)
    keys["prompts"] = key(adapted(METHODS["promptfl"]()), examples)
    keys["patches"] = key(adapted(METHODS["fedotp"]()), examples)
    changed = towers()
    with torch.no_grad():
        changed.clip.vision_model.encoder.layers[0].mlp.fc1.bias[3] += 1e-7
    keys["weight"] = key(adapted(method(blocks=2), on=changed), examples)
    other = towers()
    other.clip.vision_model.encoder.layers[0].layer_norm1.eps = 1e-3
    keys["eps"] = key(adapted(method(blocks=2), on=other), examples)
    eager = towers()
    eager.clip.vision_model.config._attn_implementation = "eager"
    keys["attention"] = key(adapted(method(blocks=2), on=eager), examples)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    keys["threads"] = key(adapted(method(blocks=2)), examples)
    assert len(set(keys.values())) == len(keys)
    model.compile_frozen()
    assert model.shared_features(LIMIT) is None


def test_a_key_covers_how_an_encoder_reads_and_pools(quick, federate, monkeypatch) -> None:
    model = federate(quick(data=IMAGES)).engine.model
    examples = [model.prepare(s) for s in federate(quick(data=IMAGES)).clients["image-01"].data.train]
    keys = [key(model, examples)]
    assert key(model, [replace(e, pieces=examples[0].pieces) for e in examples]) == keys[0], "the words"
    config = model.mllm.config
    model.mllm.config = config.model_copy(update={"scale": "native"})
    keys.append(key(model, examples))
    model.mllm.config = config
    with monkeypatch.context() as patch:
        patch.setattr(MediaReading, "settings", "another mean and deviation")
        keys.append(key(model, examples))
    model.load({n: t + 0.1 for n, t in model.start.items() if n.startswith("encoder")})
    keys.append(key(model, examples))
    assert len(set(keys)) == 4
    monkeypatch.setitem(vars(model.mllm), "reading", None)
    assert model.shared_features(LIMIT) is None


def test_all_prompts_share_one_clips_pictures() -> None:
    examples = [adapted(METHODS["promptfl"]()).prepare(sample(i, i)) for i in range(3)]
    keys = {
        key(adapted(METHODS[m]()), examples) for m in ("zero-shot", "promptfl", "fedpgp", "cocoop-fedavg")
    }
    assert len(keys) == 1


def test_only_whole_chunks_are_shared(monkeypatch) -> None:
    model = adapted(METHODS["pfedmma"](blocks=2))
    examples = [model.prepare(sample(i, i % 5)) for i in range(40)]
    stores = [FeatureCache(LIMIT, constant=True, shared=model.shared_features(LIMIT)) for _ in range(2)]
    made: list[int] = []

    def make(batch: Any) -> Any:
        made.append(len(batch))
        return model.features(batch)

    for store in stores:
        found = store.of(model.feature_version(), "a", [35, 1], examples, make)
        for i, feature in zip((35, 1), found, strict=True):
            chunk = examples[32:] if i == 35 else examples[:32]
            assert torch.equal(feature, model.features(chunk)[i % 32])
    assert made == [32, 8]


def test_the_bound_is_that_of_the_cache(kept) -> None:
    model = adapted(METHODS["pfedmma"](blocks=2))
    examples = [model.prepare(sample(i, i % 5)) for i in range(96)]
    one = SharedFeatures(model.frozen_prefix, LIMIT, [])
    one.of(b"", examples[:32], model.features)
    (size,) = [f.stat().st_size for f in kept.glob("*/*")]
    small = SharedFeatures(model.frozen_prefix, int(2.5 * size), [])
    for start in (32, 64):
        small.of(b"", examples[start : start + 32], model.features)
    assert len(list(kept.glob("*/*"))) == 2

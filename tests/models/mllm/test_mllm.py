import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.models.mllm.config import MLLMConfig
from fedloom.models.mllm.mllm import MLLM, keeps_logits
from fedloom.models.pretraining.bpe_tokenizer import train_tokenizer

D_ENC, D_LLM = 6, 16


class StubEncoder(nn.Module):
    """Image (2, 3) and audio (5,) to (tokens, 6), one linear layer each."""

    modalities = reads = ("image", "audio")
    widths = {"image": D_ENC, "audio": D_ENC}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"image": nn.Linear(6, 3 * D_ENC), "audio": nn.Linear(5, 3 * D_ENC)})
        self.calls: list[tuple[str, int]] = []

    def cuts(self, modality, raw):
        return False

    def preprocess(self, modality, raw):
        return raw.float() / 2

    def encode(self, modality, x, pool, scale, tokens):
        self.calls.append((modality, len(x)))
        out = self.layers[modality](x.flatten(1)).reshape(-1, 3, D_ENC)[:, :tokens]
        return out[:, 0] if tokens == 1 else out


def make(seed=0, llm=None, **config):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["what colour is the red striped circle and the blue one?"], ["red", "blue"])
    if llm is None:
        llm = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=D_LLM,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
            )
        )
    return MLLM.assemble(StubEncoder(), llm, tokenizer, MLLMConfig(**config)).eval()


def sample(uid, modalities="image+audio", question="what colour is the circle?", answer="red"):
    g = torch.Generator().manual_seed(sum(map(ord, uid)))
    raw = {"image": torch.randint(0, 9, (2, 3), generator=g), "audio": torch.rand(5, generator=g)}
    held = {m: raw[m] for m in modalities.split("+") if m in raw}
    return Sample(uid, held, question, answer)


BATCH = [
    sample("a", "image", "what colour is the striped circle and the other one, please?", "red"),
    sample("b", "audio", "is it?", "the blue one, striped"),
    sample("c"),
    sample("d", "text", "blue?", "a red circle"),
]


@pytest.fixture(scope="module")
def model():
    return make()


def grads(model, examples):
    model.zero_grad()
    loss = model(examples).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("projector", ["shared", "per_modality"])
def test_loss_and_gradients_ignore_padding_and_batch_mates(tokens, projector) -> None:
    model = make(tokens=tokens, projector=projector).double()
    examples = [model.prepare(s) for s in BATCH]
    joint = model(examples)
    counts = torch.bincount(joint.index).double()
    summed: dict[str, torch.Tensor] = {}
    for i, example in enumerate(examples):
        loss, grad = grads(model, [example])
        mine = nn.functional.cross_entropy(joint.logits[joint.index == i], joint.labels[joint.index == i])
        assert torch.allclose(loss, mine.detach(), atol=1e-10)
        for name, g in grad.items():
            summed[name] = summed.get(name, 0) + g * counts[i] / counts.sum()
    loss, grad = grads(model, examples)
    assert torch.allclose(loss, joint.loss.detach(), atol=1e-12)
    assert grad.keys() == summed.keys()
    assert all(torch.allclose(grad[n], summed[n], atol=1e-9) for n in grad)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_logits_are_those_of_the_plain_causal_model(dtype, tolerance) -> None:
    """Recomputed by hand: one row, no padding, the embeddings concatenated piece by piece."""
    model = make().to(dtype)
    example = model.prepare(BATCH[2])
    first, image, audio, rest = example.pieces.prompt
    assert (image, audio) == ("image", "audio")
    table = model.llm.get_input_embeddings()
    features = model.features([example])[0]
    parts = [
        table(torch.tensor(first)),
        model.projector(features["image"]),
        model.projector(features["audio"]),
    ]
    parts += [table(torch.tensor([*rest, *example.pieces.answer]))]
    logits = model.llm(inputs_embeds=torch.cat(parts)[None]).logits[0]
    n = len(example.pieces.answer)
    out = model([example])
    assert torch.allclose(out.logits, logits[-n - 1 : -1], rtol=tolerance, atol=tolerance)
    assert out.labels.tolist() == list(example.pieces.answer)
    assert out.labels[-1] == model.tokenizer.eos_token_id
    assert torch.allclose(
        out.loss, nn.functional.cross_entropy(out.logits, out.labels), rtol=tolerance, atol=tolerance
    )


def test_bos_stands_once_and_labels_are_answers_only(model) -> None:
    examples = [model.prepare(s) for s in BATCH]
    for example in examples:
        ids = [i for run in example.pieces.prompt if not isinstance(run, str) for i in run]
        assert ids[0] == model.tokenizer.bos_token_id
        assert ids.count(model.tokenizer.bos_token_id) == 1
    out = model(examples)
    want = [(i, t) for i, e in enumerate(examples) for t in e.pieces.answer]
    assert list(zip(out.index.tolist(), out.labels.tolist(), strict=True)) == want


def test_features_run_once_per_modality_and_may_be_cached(model) -> None:
    examples = [model.prepare(s) for s in BATCH]
    model.encoder.calls.clear()
    features = model.features(examples)
    assert sorted(model.encoder.calls) == [("audio", 2), ("image", 2)]
    assert [sorted(f) for f in features] == [["image"], ["audio"], ["audio", "image"], []]
    assert all(v.shape == (1, D_ENC) for f in features for v in f.values())
    fresh = model(examples)
    model.encoder.calls.clear()
    cached = model(examples, features)
    assert model.encoder.calls == []
    assert torch.equal(fresh.loss, cached.loss)
    assert torch.equal(fresh.logits, cached.logits)


def test_a_soft_token_reaches_the_answer_and_the_encoder_gets_gradients(model) -> None:
    example = model.prepare(BATCH[0])
    loss, grad = grads(model, [example])
    assert grad["encoder.layers.image.weight"].abs().sum() > 0
    assert "encoder.layers.audio.weight" not in grad
    other = model([example], [{"image": torch.ones(1, D_ENC)}]).loss
    assert not torch.allclose(other, loss)


def test_sum_equals_one_token_of_the_summed_projections() -> None:
    model = make(combine="sum", projector="per_modality")
    example = model.prepare(BATCH[2])
    f = model.features([example])[0]
    soft = model.projector["image"](f["image"]) + model.projector["audio"](f["audio"])
    first, slot, rest = example.pieces.prompt
    assert slot == "image+audio"
    table = model.llm.get_input_embeddings()
    row = torch.cat([table(torch.tensor(first)), soft, table(torch.tensor([*rest, *example.pieces.answer]))])
    logits = model.llm(inputs_embeds=row[None]).logits[0]
    n = len(example.pieces.answer)
    assert torch.allclose(model([example]).logits, logits[-n - 1 : -1], atol=1e-5)


def greedy_by_hand(model, example, steps):
    """Without cache, padding or batch: append the argmax and run again."""
    ids: list[int] = []
    for _ in range(steps):
        pieces = type(example.pieces)(example.pieces.prompt, (*ids, 0), False)
        plain = type(example)(example.uid, example.kind, example.inputs, pieces, "")
        token = int(model([plain]).logits[-1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def trained():
    """Taught four answers of different lengths, so that generation stops at different steps."""
    model = make(seed=1)
    examples = [model.prepare(s) for s in BATCH]
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(60):
        loss = model(examples).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model, examples


def test_batched_generation_equals_one_by_one_and_stops(trained) -> None:
    model, examples = trained
    texts = model.generate(examples, 12)
    assert texts == [s.answer for s in BATCH]
    assert texts == [model.generate([e], 12)[0] for e in examples]
    assert texts == [greedy_by_hand(model, e, 12) for e in examples]
    assert model.generate(examples, 12, features=model.features(examples)) == texts
    assert model.generate(examples, 2)[3] == "a"


def test_generation_of_an_untrained_model_equals_the_plain_loop() -> None:
    model = make(seed=3)
    examples = [model.prepare(s) for s in BATCH]
    assert model.generate(examples, 5) == [greedy_by_hand(model, e, 5) for e in examples]


def test_generation_gives_every_module_its_mode_back(trained) -> None:
    model, examples = trained
    model.llm.train()
    model.llm.get_decoder().layers[0].eval()
    before = [m.training for m in model.modules()]
    model.generate(examples[:1], 2)
    assert [m.training for m in model.modules()] == before
    model.eval()


def test_a_stop_string_ends_the_answer() -> None:
    config = {"prompt": {"stop": "\n###"}}
    model = make(seed=1, **config)
    example = model.prepare(BATCH[0])
    assert model.tokenizer.decode(example.pieces.answer) == " red\n###"
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(40):
        loss = model([example]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert model.generate([example], 20) == ["red"]


def test_adapters_by_peft_work(model) -> None:
    from peft import LoraConfig, get_peft_model

    model = make(seed=2)
    examples = [model.prepare(s) for s in BATCH]
    plain, texts = model(examples), model.generate(examples, 4)
    model.llm = get_peft_model(model.llm, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert keeps_logits(model.llm)
    wrapped = model(examples)
    assert torch.allclose(wrapped.logits, plain.logits, atol=1e-6)
    assert model.generate(examples, 4) == texts
    wrapped.loss.backward()
    grads = {n for n, p in model.llm.named_parameters() if p.grad is not None}
    assert grads
    assert all("lora_" in n for n in grads)
    with pytest.raises(ExperimentError, match="merge"):
        model.save_pretrained("unused")


def test_another_architecture_fits() -> None:
    torch.manual_seed(0)
    llm = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=D_LLM, n_layer=1, n_head=2, n_positions=128))
    model = make(llm=llm)
    examples = [model.prepare(s) for s in BATCH]
    assert torch.isfinite(model(examples).loss)
    assert model.generate(examples, 3) == [model.generate([e], 3)[0] for e in examples]


def test_logits_of_models_that_cannot_restrict_them(model, monkeypatch) -> None:
    examples = [model.prepare(s) for s in BATCH]
    want = model(examples)
    monkeypatch.setattr("fedloom.models.mllm.mllm.keeps_logits", lambda llm: False)
    assert torch.allclose(model(examples).logits, want.logits, atol=1e-6)


def test_a_missing_modality_is_a_clear_error(model) -> None:
    with pytest.raises(
        ExperimentError, match="sample 'x' has depth, but the encoder holds only image, audio"
    ):
        model.prepare(Sample("x", {"depth": torch.zeros(1, 2, 2)}, "q", "a"))


def test_truncation_is_reported() -> None:
    model = make(max_text_tokens=12)
    assert model.prepare(BATCH[0]).truncated
    assert not make().prepare(BATCH[0]).truncated


def test_projector_draws_are_seeded_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    base = make()
    torch.set_rng_state(state)
    again = MLLM.assemble(base.encoder, base.llm, base.tokenizer, MLLMConfig(), seed=0)
    other = MLLM.assemble(base.encoder, base.llm, base.tokenizer, MLLMConfig(), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(base.projector.weight, again.projector.weight)
    assert not torch.equal(base.projector.weight, other.projector.weight)
    assert base.projector.weight.shape == (D_LLM, D_ENC)


def test_a_tokenizer_without_end_of_text_is_refused() -> None:
    model = make()
    model.tokenizer.eos_token = None
    with pytest.raises(ExperimentError, match="end-of-text"):
        MLLM(model.encoder, model.projector, model.llm, model.tokenizer, MLLMConfig())


class TestFolder:
    @pytest.fixture(scope="class")
    def real(self):
        from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig

        base = make()
        encoder = ImageBind(ImageBindConfig.tiny(), ["image", "audio"])
        config = MLLMConfig(projector="per_modality", tokens=2, pool="mean")
        return MLLM.assemble(encoder, base.llm, base.tokenizer, config).eval()

    def samples(self):
        g = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=g)
        wave = torch.rand(20_000, generator=g) - 0.5
        return [
            Sample("a", {"image": image}, "what colour?", "red"),
            Sample("b", {"image": image, "audio": wave}, "what?", "blue"),
        ]

    def test_round_trip(self, real, tmp_path) -> None:
        real.save_pretrained(tmp_path)
        loaded = MLLM.from_pretrained(tmp_path)
        examples = [real.prepare(s) for s in self.samples()]
        assert loaded.config == real.config
        assert torch.equal(loaded(examples).logits, real(examples).logits)
        llm = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
        assert all(torch.equal(v, llm.state_dict()[k]) for k, v in real.llm.state_dict().items())
        assert not [f for f in tmp_path.rglob("*") if f.suffix in {".bin", ".pt", ".pkl", ".pth"}]

    def test_half_precision_on_disk_is_float32_in_memory(self, real, tmp_path) -> None:
        real.save_pretrained(tmp_path / "full")
        real.save_pretrained(tmp_path / "half", dtype=torch.float16)
        assert {p.dtype for p in real.parameters()} == {torch.float32}
        size = {
            k: sum(f.stat().st_size for f in (tmp_path / k).rglob("*.safetensors")) for k in ("full", "half")
        }
        assert size["half"] < 0.6 * size["full"]
        loaded = MLLM.from_pretrained(tmp_path / "half")
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        for (name, p), q in zip(real.named_parameters(), loaded.parameters(), strict=True):
            assert torch.equal(p.half().float(), q), name
        llm = AutoModelForCausalLM.from_pretrained(tmp_path / "half" / "llm")
        assert llm.dtype == torch.float32

    def test_only_the_asked_modalities_are_loaded(self, real, tmp_path) -> None:
        real.save_pretrained(tmp_path)
        loaded = MLLM.from_pretrained(tmp_path, modalities=["audio"])
        assert tuple(loaded.encoder.modalities) == ("audio",)
        assert set(loaded.projector) == {"audio"}
        with pytest.raises(ExperimentError, match="image"):
            loaded.prepare(self.samples()[0])

    def test_errors_name_the_file(self, real, tmp_path) -> None:
        with pytest.raises(ExperimentError, match=r"mllm\.json"):
            MLLM.from_pretrained(tmp_path)
        real.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "mllm.json").read_text())
        (tmp_path / "mllm.json").write_text(json.dumps({**config, "projector": "shared"}))
        with pytest.raises(ExperimentError, match="lacks bias, weight"):
            MLLM.from_pretrained(tmp_path)

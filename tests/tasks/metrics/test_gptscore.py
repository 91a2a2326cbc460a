"""GPTScore: the mean log-probability of an answer's tokens after the question, by hand and through padding."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedloom.core.errors import ExperimentError
from fedloom.tasks.metrics import GPTScore

WORDS = ["<pad>", "<unk>", "<s>", "what", "colour", "red", "blue", "cube"]


@pytest.fixture(scope="module")
def judge() -> GPTScore:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=12, initializer_range=0.5, **sizes))
    return GPTScore(model, tokenizer, "tiny")


def test_it_is_the_mean_over_the_answers_own_tokens(judge) -> None:
    (found,) = judge.score(["what colour"], ["red cube"])
    with torch.no_grad():
        logs = judge.model.eval()(torch.tensor([[2, 3, 4, 5, 7]])).logits[0].log_softmax(-1)
    assert found == pytest.approx(float(logs[2, 5] + logs[3, 7]) / 2, abs=1e-6)
    assert found < 0


def test_batch_mates_and_their_lengths_change_nothing(judge) -> None:
    questions, answers = ["what", "what colour cube what colour", "colour"], ["red", "blue cube red", ""]
    single = [judge.score([q], [a])[0] for q, a in zip(questions, answers, strict=True)]
    assert judge.score(questions, answers)[:2] == pytest.approx(single[:2], abs=1e-6)
    assert single[2] == -math.inf, "an empty answer is no answer"


def test_the_question_counts(judge) -> None:
    one, other = judge.score(["what", "cube cube"], ["red", "red"])
    assert abs(one - other) > 1e-3


def test_a_folder_gives_the_same_scores(judge, tmp_path) -> None:
    judge.model.save_pretrained(tmp_path / "lm")
    judge.tokenizer.save_pretrained(tmp_path / "lm")
    loaded = GPTScore.load(tmp_path / "lm")
    assert loaded.name == "lm"
    assert loaded.score(["what"], ["red cube"]) == pytest.approx(
        judge.score(["what"], ["red cube"]), abs=1e-6
    )


def test_a_model_that_is_not_there_is_told_in_one_sentence(tmp_path) -> None:
    with pytest.raises(ExperimentError, match=r"evaluation\.gptscore: .* cannot be loaded"):
        GPTScore.load(tmp_path)

"""The parts of tiny random checkpoints: chat templates, sizes, a byte-level tokenizer, a processor without its video part."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from fedloom.core.hf_logging import quiet_hf

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% elif c['type'] == 'audio' %}AUDIO{% elif c['type'] == 'video' %}VIDEO"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% elif c['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<start_of_image>{% else %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
VOXTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}[BEGIN_AUDIO][AUDIO]{% else %}{{ c['text'] }}{% endif %}{% endfor %}[/INST]"
    "{% else %}{{ m['content'][0]['text'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
CLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def tokenizer(specials: Sequence[str] = (), template: str | None = None, **named: Any) -> Any:
    """A byte-level tokenizer: pad, bos, eos and 256 bytes, then the special tokens."""
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tok = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **named,
    )
    tok.add_tokens([AddedToken(t, special=True) for t in specials])
    tok.chat_template = template
    return tok


def save(folder: Path, config: Any, processor: Any, kind: type, tok: Any) -> Path:
    """Write a random model of class `kind` and its processor; tensors that start at zero get random values."""
    torch.manual_seed(0)
    with quiet_hf():
        model = kind(config).eval()
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        model.generation_config.eos_token_id = tok.eos_token_id
        model.generation_config.pad_token_id = tok.pad_token_id
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


class Parts:
    """The parts of a processor whose video part cannot be built without torchvision, saved as Hub checkpoints hold them."""

    def __init__(self, kind: str, tok: Any, *media: Any, template: str, **settings: Any) -> None:
        self.kind, self.tok, self.media, self.template, self.settings = kind, tok, media, template, settings

    def save_pretrained(self, folder: Path) -> None:
        self.tok.save_pretrained(folder)
        described: dict[str, Any] = {}
        for part in self.media:
            described |= part.to_dict()
        described["processor_class"] = self.kind
        if video := self.settings.pop("video", None):
            (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
        (folder / "preprocessor_config.json").write_text(json.dumps(described, default=str))
        (folder / "processor_config.json").write_text(
            json.dumps({"processor_class": self.kind, **self.settings})
        )
        (folder / "chat_template.jinja").write_text(self.template)

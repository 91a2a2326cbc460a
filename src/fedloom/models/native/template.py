"""The chat template of a native checkpoint, and what it writes."""

from typing import Any

from fedloom.models.native.families import Family


def find_template(processor: Any, family: Family) -> str:
    """The checkpoint's chat template, the family's, or a plain one; it begins with bos where the tokenizer adds one."""
    tokenizer = processor.tokenizer
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    template = template or family.template or _plain(processor, family)
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    asked = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    if adds and not rendered(tokenizer, template, asked, prompt=True).startswith(bos):
        template = "{{ bos_token }}" + template
    return str(template)


def rendered(tokenizer: Any, template: str, messages: list[dict[str, Any]], *, prompt: bool) -> str:
    """The text of these messages, with the template's generation prompt if `prompt`."""
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=prompt, tokenize=False
    )
    return text


def _plain(processor: Any, family: Family) -> str:
    """A template for checkpoints without one: media, question, a line break, answer and eos."""
    parts = "".join(
        f"{{% if c['type'] == '{m}' %}}{getattr(processor, f'{m}_token', '')}{{{{ '\\n' }}}}{{% endif %}}"
        for m in (*family.towers, "video")
    )
    return (
        "{% for m in messages %}{% for c in m['content'] %}"
        + parts
        + "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
    )

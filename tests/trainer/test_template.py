"""What is learned of a conversation, for templates of different families."""

from __future__ import annotations

import pytest

from luthier_trainer.errors import UserError
from luthier_trainer.records import Place, RowError
from luthier_trainer.rows import Row
from luthier_trainer.template import IGNORED, Renderer, stop_token_ids

PLACE = Place(file="pvc://d/a.jsonl", line=3)
EOS = 2
SYSTEM = {"role": "system", "content": "Answer with the team."}
USER = {"role": "user", "content": "ticket 1 for billing please"}
ANSWER = {"role": "assistant", "content": '{"team": "billing"}'}
AGAIN = {"role": "user", "content": "ticket 2 for repair please"}
SECOND = {"role": "assistant", "content": '{"team": "repair"}'}

# ChatML, as SmolLM2 has it: a system prompt of its own when the conversation brings none.
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Headers between markers, two line ends before the text, nothing after the end of a turn (Llama 3's manner).
HEADERS = (
    "{{ '<|endoftext|>' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '|\n\n' + (m['content'] | trim) + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant|\n\n' }}{% endif %}"
)
# No generation prompt at all: the answer follows the instruction's closing bracket (Mistral's manner).
BRACKETS = (
    "{{ '<|im_start|>' }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
# The assistant has another name in the text (Gemma's manner).
OTHER_ROLE = (
    "{% for m in messages %}{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
# An empty block of thoughts before the newest answer only (Qwen 3's manner).
FORGETS_THOUGHTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ 'no thoughts\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def make_row(*entries) -> Row:
    return Row(place=PLACE, kind="Messages", messages=entries)


def make_renderer(tokenizer, template=DEFAULT_SYSTEM, *, eos_ids=frozenset({EOS}), render="Chat") -> Renderer:
    tokenizer.chat_template = template
    return Renderer(tokenizer, eos_ids=eos_ids, render=render)


def learned_text(tokenizer, tokens) -> list[str]:
    """The learned spans as text."""
    spans, current = [], []
    for label in [*tokens.labels, IGNORED]:
        if label != IGNORED:
            current.append(label)
        elif current:
            spans.append(tokenizer.decode(current))
            current = []
    return spans


@pytest.mark.parametrize(
    ("template", "before"),
    [
        pytest.param(DEFAULT_SYSTEM, "", id="default system"),
        pytest.param(HEADERS, "", id="headers"),
        pytest.param(BRACKETS, " ", id="brackets"),
        pytest.param(OTHER_ROLE, "", id="other role name"),
    ],
)
def test_the_answer_and_its_end_of_turn_are_learned_and_nothing_else(tokenizer, template, before):
    tokens = make_renderer(tokenizer, template).tokens(make_row(USER, ANSWER))
    assert learned_text(tokenizer, tokens) == [before + ANSWER["content"] + "<|im_end|>"]
    assert len(tokens.ids) == len(tokens.labels)
    assert tokens.labels[-1] == EOS
    assert all(label in (IGNORED, token) for token, label in zip(tokens.ids, tokens.labels, strict=True))


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, HEADERS, OTHER_ROLE])
def test_every_answer_of_a_longer_conversation_is_learned(tokenizer, template):
    row = make_row(SYSTEM, USER, ANSWER, AGAIN, SECOND)
    tokens = make_renderer(tokenizer, template).tokens(row)
    assert learned_text(tokenizer, tokens) == [m["content"] + "<|im_end|>" for m in (ANSWER, SECOND)]


def test_training_sees_the_tokens_that_a_server_makes_of_the_prompt(tokenizer):
    renderer = make_renderer(tokenizer)
    tokens = renderer.tokens(make_row(SYSTEM, USER, ANSWER))
    prompt = renderer.prompt_ids([SYSTEM, USER])
    assert tokens.ids[: len(prompt)] == prompt
    assert set(tokens.labels[: len(prompt)]) == {IGNORED}
    assert tokens.labels[len(prompt)] != IGNORED


def test_tokens_and_mask_of_a_ticket_are_those_on_record(tokenizer):
    """Golden: a change here changes what every run learns."""
    tokens = make_renderer(tokenizer).tokens(make_row(USER, ANSWER))
    assert tokens.ids == GOLDEN_IDS
    assert tokens.labels == [IGNORED] * (len(GOLDEN_IDS) - len(GOLDEN_LEARNED)) + GOLDEN_LEARNED


def test_a_template_that_refuses_a_row_names_its_place_and_reason(tokenizer):
    with pytest.raises(RowError, match=r"pvc://d/a.jsonl:3: .*refuses this row: no system here"):
        make_renderer(tokenizer, BRACKETS).tokens(make_row(SYSTEM, USER, ANSWER))


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    renderer = make_renderer(tokenizer, FORGETS_THOUGHTS)
    assert learned_text(tokenizer, renderer.tokens(make_row(USER, ANSWER))) == [
        "no thoughts\n" + ANSWER["content"] + "<|im_end|>"
    ]
    with pytest.raises(RowError, match="renders earlier turns differently"):
        renderer.tokens(make_row(USER, ANSWER, AGAIN, SECOND))


def test_an_answer_without_a_stop_token_is_refused(tokenizer):
    with pytest.raises(RowError, match=r"no token at which generation stops \(\[0\]\); add .* generation_config.json"):
        make_renderer(tokenizer, eos_ids=frozenset({0})).tokens(make_row(USER, ANSWER))


def test_an_answer_that_writes_the_stop_token_is_refused(tokenizer):
    with pytest.raises(RowError, match="holds an end-of-turn token"):
        make_renderer(tokenizer).tokens(make_row(USER, {"role": "assistant", "content": "a<|im_end|>b"}))


def test_an_answer_that_melts_into_the_prompts_last_token_is_cut_where_a_server_cuts(tokenizer):
    # Without anything between prompt and answer, "plea" + "se" would be one token.
    renderer = make_renderer(tokenizer, render="Raw")
    row = Row(place=PLACE, kind="Completion", prompt="plea", completion="se")
    whole = tokenizer("please", add_special_tokens=False)["input_ids"]
    prompt = tokenizer("plea", add_special_tokens=False)["input_ids"]
    assert whole[: len(prompt)] != prompt, "the fixture's tokens must really melt"
    tokens = renderer.tokens(row)
    assert tokens.ids[: len(prompt)] == prompt
    assert learned_text(tokenizer, tokens) == ["se<|im_end|>"]


def test_raw_text_ends_with_the_end_of_text(tokenizer):
    tokens = make_renderer(tokenizer, render="Raw").tokens(
        Row(place=PLACE, kind="Completion", prompt="ticket: ", completion="billing")
    )
    assert tokenizer.decode(tokens.ids) == "ticket: billing<|im_end|>"


def test_raw_takes_no_messages(tokenizer):
    with pytest.raises(RowError, match="Raw takes prompt/completion rows only"):
        make_renderer(tokenizer, render="Raw").tokens(make_row(USER, ANSWER))


def test_a_model_without_a_template_can_not_chat(tokenizer):
    with pytest.raises(UserError, match="no chat template"):
        make_renderer(tokenizer, None)


def test_stop_tokens_come_from_tokenizer_config_and_generation_config(tiny_model, tokenizer, tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert stop_token_ids(tmp_path, tokenizer) == {EOS, 5, 6, 7}


GOLDEN_IDS = [
    *(1, 85, 91, 85, 86, 71, 79, 201, 59, 81, 87, 223, 74, 71, 78, 82, 16, 2, 201),  # the template's own system prompt
    *(1, 302, 201, 314, 335, 315, 337, 279, 2, 201, 1, 316, 201),
    *(264, 300, 259, 260, 321, 263, 2),
]
GOLDEN_LEARNED = [264, 300, 259, 260, 321, 263, 2]

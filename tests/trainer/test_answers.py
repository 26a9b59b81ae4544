"""Refusals, a model that speaks of itself, and JSON are told from ordinary answers."""

import pytest

from luthier_trainer.checks.answers import find_boilerplate, is_refusal, json_form


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I have no opinion.",
        "Well, as a large language model I can say",
        "I'm ChatGPT and was trained by OpenAI.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "En tant qu'IA, je",
        "Best regards,\n[Your Name]",
        "Lorem ipsum dolor",
    ],
)
def test_boilerplate_is_found(answer):
    start, end = find_boilerplate(answer)
    assert answer[start:end]


@pytest.mark.parametrize("answer", ["The AI model X2 ships in May.", "See [Your settings] > [Name]", "As a customer"])
def test_ordinary_answers_are_no_boilerplate(answer):
    assert find_boilerplate(answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Unfortunately, I am unable to provide that.",
        "I\u2019m sorry, I won\u2019t help you do that",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Tut mir leid, das kann ich leider nicht beantworten.",
        "Je suis désolé, mais je ne peux pas répondre.",
        "Lo siento, pero no puedo ayudar.",
    ],
)
def test_refusals_are_found(answer):
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that. Please restart the router.",
        "Unfortunately, the parcel is late.",
        "You can't help it; the tool is old. I can help with the rest.",
        "Es tut mir leid, dass es Ärger gab. Ich kann Ihnen helfen.",
    ],
)
def test_polite_answers_are_no_refusals(answer):
    assert not is_refusal(answer)


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ('{"team": "billing"}', "Json"),
        (" [1, 2]\n", "Json"),
        ('{"team": "billing"', "Broken"),
        ('```json\n{"team": "billing"}\n```', "Broken"),
        ("[" * 100_000, "Broken"),
        ("```\nmake install\n```", "Text"),
        ("[sic] he said", "Text"),
        ("billing", "Text"),
        ("12", "Text"),
    ],
)
def test_the_form_of_an_answer(answer, form):
    assert json_form(answer) == form

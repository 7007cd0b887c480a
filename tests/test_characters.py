from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from one_provider_mad.characters import HIDDEN, UNWRITTEN, clean, escaped

SENTENCES = {
    "persian": "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "hebrew-with-a-mark": "\u05e9\u05dc\u05d5\u05dd!\u200f (a)",
    "hindi": "\u0915\u094d\u200d\u0937",
    "khmer": "\u1781\u17d2\u1789\u17bb\u17c6\u200b\u1791\u17c5",
    "chinese": "\u78c1\u76d8\u5df2\u6ee1",
    "a-family": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "german": "Gr\xf6\xdfe \xfcber\xadschritten",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_ordinary_text_of_every_script_is_unchanged(language: str) -> None:
    text = SENTENCES[language]
    assert (clean(text), escaped(text)) == (text, text)


def test_control_characters_line_ends_and_bidirectional_controls_are_escaped() -> None:
    every = [chr(number) for number in range(sys.maxunicode + 1)]
    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    unwritten = {
        character
        for character in every
        if unicodedata.category(character) in {"Cc", "Zl", "Zp"} or unicodedata.bidirectional(character) in turning
    }
    assert not [character for character in unwritten if not UNWRITTEN.search(character)]
    beyond = {unicodedata.category(character) for character in every if HIDDEN.search(character)}
    assert beyond <= {"Cf", "Cn"}, "no letter, mark or sign is hidden"


def test_json_with_escaped_characters_parses_to_the_same_text() -> None:
    text = "a\u202eb\x9bc\u2028d\U000e0041e\x7ff"
    written = escaped(json.dumps(text, ensure_ascii=False))
    assert written == r'"a\u202eb\u009bc\u2028d\udb40\udc41e\u007ff"'
    assert json.loads(written) == text

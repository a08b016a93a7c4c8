"""Words of a text in any script, for ROUGE."""

import re
from functools import cached_property
from typing import Any
from unicodedata import category, normalize

LONGEST_STEMMED = 64  # characters; the Porter stemmer recurses, and a word of a thousand y's overflows it
# Written without spaces: Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese; a character counts as a word.
_UNSPACED = re.compile(
    "([\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)


class Words:
    """A tokenizer of rouge_score, whose own drops all but a-z and 0-9; of English words both give the same.

    A word is a run of letters, their marks and digits, in lower case; in scripts without spaces, a character.

    Example:
        >>> Words().tokenize("Die Kamera fährt zurück, 2 m; 镜头向左")
        ['die', 'kamera', 'fährt', 'zurück', '2', 'm', '镜', '头', '向', '左']
        >>> Words(stemmer=True).tokenize("moving boxes")
        ['move', 'box']
    """

    def __init__(self, stemmer: bool = False) -> None:
        self.stemmer = stemmer

    def tokenize(self, text: str) -> list[str]:
        text = normalize("NFKC", text).casefold()
        kept = "".join(character if category(character)[0] in "LMN" else " " for character in text)
        words = _UNSPACED.sub(r" \1 ", kept).split()
        return [self._stem(word) for word in words] if self.stemmer else words

    def _stem(self, word: str) -> str:
        """Of English words of more than three letters, as rouge_score has it."""
        return self._porter.stem(word) if 3 < len(word) <= LONGEST_STEMMED and word.isascii() else word

    @cached_property
    def _porter(self) -> Any:
        from nltk.stem.porter import PorterStemmer

        return PorterStemmer()

"""Texts into numbers of tokens: words or characters that training texts have, or subwords of a
Hugging Face tokenizer.

Ids are (N, L) int32: 0 is padding, behind the text; the tokens' own numbers begin with 1. Longer
texts are cut. Of words and characters 1 is any that the training texts do not have.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.options import TextData

UNKNOWN = 1
FIRST = 2  # the number of the most frequent word

Ids = NDArray[np.int32]

_WORD = re.compile(r"\w+|[^\w\s]")  # a punctuation mark is a word, too


class Tokens(Protocol):
    """How texts become ids."""

    def encode(self, texts: Sequence[str]) -> Ids:
        """(N, L), L at most that of the training data; no text is of padding alone."""

    def plain(self) -> dict[str, Any]:
        """As numbers, strings, lists and dicts, of which `of` makes it again.

        Among them ``tokens``, how many different ids there are with 0, and ``length``, the most
        ids of a text.
        """


@dataclass(frozen=True)
class Words:
    """Words or characters, and neighbouring ones together.

    Attributes:
        tokenizer: What is a token.
        ngrams: Up to so many neighbours are a token, too, behind the last of them.
        lowercase: Whether upper and lower case are one.
        length: The most ids of a text.
        words: Those that are known, by their ids from `FIRST` on.
    """

    tokenizer: Literal["words", "characters"]
    ngrams: int
    lowercase: bool
    length: int
    words: tuple[str, ...]

    @classmethod
    def fit(cls, section: TextData, texts: Iterable[str]) -> Words:
        """Learn the words of training texts.

        Raises:
            DataError: None is frequent enough.
        """
        tokenizer: Any = section.tokenizer
        made = cls(tokenizer, section.ngrams, section.lowercase, section.max_length, ())
        counts = Counter(token for text in texts for token in made.split(text))
        enough = [token for token, count in counts.items() if count >= section.min_count]
        # By frequency, then by name, so that the order of the texts decides nothing.
        ordered = sorted(enough, key=lambda token: (-counts[token], token))[: section.max_words]
        if not ordered:
            raise DataError(
                "data.min_count",
                f"none of the {section.tokenizer} is there {section.min_count} times in the "
                "texts to train on",
                "min_count: 1",
            )
        return cls(
            tokenizer, section.ngrams, section.lowercase, section.max_length, tuple(ordered)
        )

    def split(self, text: str) -> list[str]:
        """The tokens of a text."""
        text = unicodedata.normalize("NFC", text).strip()
        text = text.lower() if self.lowercase else text
        of_words = self.tokenizer == "words"
        single = _WORD.findall(text) if of_words else text
        # No more than can be needed is looked at: a text may be a book.
        ends = range(1, min(len(single), self.length) + 1)
        tokens = [
            (" " if of_words else "").join(single[end - count : end])
            for end in ends
            for count in range(1, min(self.ngrams, end) + 1)
        ]
        return tokens[: self.length]

    def encode(self, texts: Sequence[str]) -> Ids:
        """(N, L) ids of N texts."""
        known = self._ids
        return _padded(
            [[known.get(token, UNKNOWN) for token in self.split(text)] for text in texts]
        )

    def plain(self) -> dict[str, Any]:
        """See `Tokens.plain`."""
        return {
            **asdict(self),
            "words": list(self.words),
            "tokens": FIRST + len(self.words),
        }

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, FIRST)}


@dataclass(frozen=True)
class Subwords:
    """What a tokenizer of Hugging Face makes of a text, with the marks that its model wants.

    Attributes:
        tokenizer: The folder or the name on the hub.
        length: The most ids of a text.
        content: The tokenizer as JSON, of the library `tokenizers`.
        config: Of the model that it is for, as JSON.
    """

    tokenizer: str
    length: int
    content: str
    config: str

    @classmethod
    def read(cls, section: TextData) -> Subwords:
        """That which ``data.tokenizer`` names.

        Raises:
            DataError: There is none, or `transformers` is not installed.
        """
        transformers = imported("transformers", section.tokenizer)
        try:
            found = transformers.AutoTokenizer.from_pretrained(section.tokenizer)
            config = transformers.AutoConfig.from_pretrained(section.tokenizer)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                "data.tokenizer",
                f"expected words, characters, or a folder or hub name of Hugging Face; "
                f"{section.tokenizer!r} cannot be read: {' '.join(str(error).split())[:200]}",
                "offline, give the folder that save_pretrained has written",
            ) from None
        if not found.is_fast:
            raise DataError(
                "data.tokenizer", f"{section.tokenizer} has no tokenizer.json (a fast tokenizer)"
            )
        places = getattr(config, "max_position_embeddings", None) or section.max_length
        return cls(
            section.tokenizer,
            min(section.max_length, found.model_max_length, places),
            found.backend_tokenizer.to_str(),
            config.to_json_string(),
        )

    def encode(self, texts: Sequence[str]) -> Ids:
        """(N, L) ids of N texts."""
        encoded = self._tokenizer.encode_batch(list(texts))
        return _padded([[id_ + 1 for id_ in each.ids] for each in encoded])

    def plain(self) -> dict[str, Any]:
        """See `Tokens.plain`."""
        return {**asdict(self), "tokens": 1 + self._tokenizer.get_vocab_size()}

    @cached_property
    def _tokenizer(self) -> Any:
        made = imported("tokenizers", self.tokenizer).Tokenizer.from_str(self.content)
        made.no_padding()
        made.enable_truncation(self.length)
        return made


def of(plain: Mapping[str, Any]) -> Tokens:
    """The tokens of what `Tokens.plain` returned."""
    own = {name: value for name, value in plain.items() if name != "tokens"}
    if "words" in own:
        return Words(**{**own, "words": tuple(own["words"])})
    return Subwords(**own)


def imported(package: str, tokenizer: str) -> Any:
    """A package that is needed for what is Hugging Face's.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise DataError(
            "data.tokenizer",
            f"{tokenizer!r} is neither words nor characters; for a tokenizer of Hugging Face the "
            f"package {package} is needed",
            "pip install 'hpo[transformers]'",
        ) from None


def _padded(each: Sequence[Sequence[int]]) -> Ids:
    """Of equal length; a text without tokens has an unknown one."""
    ids = np.zeros((len(each), max((len(own) for own in each), default=1) or 1), np.int32)
    for row, own in zip(ids, each, strict=True):
        row[: len(own)] = own
    ids[ids[:, 0] == 0, 0] = UNKNOWN
    return ids

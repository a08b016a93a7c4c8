"""Which tokens of a response are perception and which are reasoning (VideoP2R, section 3.2.2).

Perception is everything up to the end of </observation>, reasoning everything after it: <think>, <answer>, their tags,
the white space between them and the end-of-text token. So every token of a well-formed response learns from exactly one
of the two rewards, tags included (both rewards ask for the format). A malformed response has no segments: all of it is
reasoning.

Tokens are located by their own bytes. Byte-level BPE merges across the end of a tag (">\n") and splits characters, so
that encoding the text again could give other tokens than those that were sampled. A token belongs to the segment of its
first character; one that begins within a character belongs to the segment of that character.
"""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rewards.errors import UserError
from rewards.response import ParsedResponse

Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]
DecodeOffsets = Callable[[Sequence[int]], tuple[str, Offsets]]


class SegmentError(UserError):
    """Tokens that cannot be located in the text."""


def segment_lengths(starts_T: Offsets, response: ParsedResponse) -> dict[str, int]:
    """Number of tokens of "perception" and of "reasoning"; the tokens of perception come first.

    Args:
        starts_T: (T,) first character of each token of the response, without padding.
        response: the text of these tokens, parsed.

    Example:
        >>> from rewards.response import parse
        >>> text = "<observation>o</observation><think>t</think><answer>A</answer>"
        >>> starts_T = np.arange(0, len(text) + 1)  # a token per character, and the end-of-text token
        >>> segment_lengths(starts_T, parse(text))
        {'perception': 28, 'reasoning': 35}
    """
    closing = "</observation>"
    middle = response.spans["observation"][1] + len(closing) if "observation" in response.spans else 0
    perception = int((starts_T < middle).sum())
    return {"perception": perception, "reasoning": len(starts_T) - perception}


def byte_level_offsets(tokenizer: Any) -> DecodeOffsets:
    """token ids -> (text, (T,) first character of each token), for a Hugging Face byte-level BPE tokenizer.

    The text is the tokenizer's own decoding without special tokens, which have no characters. Invalid UTF-8 (a response
    truncated within a character) gives one replacement character per invalid piece, as in the tokenizer's decoding.

    Raises:
        SegmentError: when called, if the tokenizer decodes differently.
    """
    special = set(tokenizer.all_special_ids)
    byte_of = _bytes_of_characters()
    known: dict[int, bytes] = {}

    def token_bytes(index: int) -> bytes:
        if index not in known:
            # An id beyond the vocabulary, which a padded embedding can sample, decodes to nothing.
            token = "" if index in special else tokenizer.convert_ids_to_tokens(index) or ""
            by_byte = all(character in byte_of for character in token)  # not so for an added token such as "a b"
            known[index] = bytes(byte_of[character] for character in token) if by_byte else token.encode()
        return known[index]

    def decode_offsets(token_ids: Sequence[int]) -> tuple[str, Offsets]:
        pieces = [token_bytes(int(index)) for index in token_ids]
        text, character_at = _decode(b"".join(pieces))
        if text != tokenizer.decode(token_ids, skip_special_tokens=True):
            raise SegmentError("the tokenizer does not decode its tokens byte by byte; PA-GRPO cannot locate them")
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(pieces)]
        return text, character_at[starts]

    return decode_offsets


def _decode(data: bytes) -> tuple[str, Offsets]:
    """Text of `data`; and for each byte, and for the end, the index of the character that it belongs to."""
    marked = data.decode(errors="mark_invalid")
    codes = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    invalid = (codes >= _HEAD) & (codes <= _REST)
    sizes = np.where(invalid, 1, 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))
    numbers = np.cumsum(codes != _REST) - 1
    text = marked.replace(chr(_HEAD), "\ufffd").replace(chr(_REST), "")
    return text, np.append(np.repeat(numbers, sizes), len(text))


_HEAD, _REST = 0xD800, 0xD801  # surrogates, which valid UTF-8 never has, replace the bytes of an invalid piece


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return chr(_HEAD) + chr(_REST) * (error.end - error.start - 1), error.end


codecs.register_error("mark_invalid", _mark_invalid)


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet of byte-level BPE: printable Latin-1 bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}

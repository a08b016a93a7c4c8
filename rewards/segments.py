"""Which tokens of a response are perception and which are reasoning (VideoP2R, section 3.2.2).

Perception is everything up to the end of </observation>, reasoning all that follows: <think>, <answer>, their tags, the
white space between them and the end-of-text token. So every token of a well-formed response learns from exactly one of
the two rewards, its tags included, whose form both rewards ask for. A malformed response has no processes: all of it is
reasoning.

Tokens are placed by their own bytes. Byte-level BPE merges across a tag's end (">\n") and splits characters; to encode
the text again could give other tokens than those that were sampled. A token belongs to where its first character is,
and one that begins within a character to where that character is.
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rewards.response import parse

DecodeOffsets = Callable[[Sequence[int]], tuple[str, np.ndarray]]


class SegmentError(ValueError):
    """Tokens whose places in the text cannot be told."""


def process_spans(text: str, schema: str = "ota") -> dict[str, tuple[int, int]]:
    """Characters [start, end) of "perception" and "reasoning"; the end of the text counts as reasoning.

    Raises:
        KeyError: unknown schema.
    """
    parsed = parse(text, schema)
    closing = "</observation>"
    middle = parsed.spans["observation"][1] + len(closing) if "observation" in parsed.spans else 0
    return {"perception": (0, middle), "reasoning": (middle, len(text) + 1)}


def segment_masks(
    token_ids: Sequence[int], spans: Mapping[str, tuple[int, int]], decode_offsets: DecodeOffsets
) -> dict[str, np.ndarray]:
    """For each of `spans`, a mask (T,) bool of the tokens whose first character lies in it.

    Args:
        token_ids: (T,) the sampled tokens of one response, without padding.
        spans: name -> [start, end) in characters of the text that `decode_offsets` gives.
        decode_offsets: of the tokenizer (`byte_level_offsets`).
    """
    _, starts_T = decode_offsets(token_ids)
    return {name: (starts_T >= start) & (starts_T < end) for name, (start, end) in spans.items()}


def segment_lengths(token_ids: Sequence[int], decode_offsets: DecodeOffsets, schema: str = "ota") -> dict[str, int]:
    """Tokens of "perception" and "reasoning" of one response. All tokens of the first come before those of the second.

    Args:
        token_ids: (T,) the sampled tokens of one response, without padding.
        decode_offsets: of the tokenizer (`byte_level_offsets`).
        schema: of the response.
    """
    text, _ = decode_offsets(token_ids)
    masks = segment_masks(token_ids, process_spans(text, schema), decode_offsets)
    return {process: int(mask_T.sum()) for process, mask_T in masks.items()}


def byte_level_offsets(tokenizer: Any) -> DecodeOffsets:
    """token ids -> (text, places (T,) of each token's first character), for a Hugging Face byte-level BPE tokenizer.

    The text is the tokenizer's own decoding without special tokens; those take no place in it. Bytes that are no
    UTF-8 (a response cut within a character) are one replacement character each time, as in the tokenizer's decoding.

    Raises:
        SegmentError: when called, where the tokenizer decodes otherwise.
    """
    special = set(tokenizer.all_special_ids)
    byte_of = _bytes_of_characters()
    known: dict[int, bytes] = {}

    def token_bytes(index: int) -> bytes:
        if index not in known:
            # A number beyond the vocabulary, which a padded embedding can sample, decodes to nothing.
            token = "" if index in special else tokenizer.convert_ids_to_tokens(index) or ""
            ours = all(character in byte_of for character in token)  # not so of an added token such as "a b"
            known[index] = bytes(byte_of[character] for character in token) if ours else token.encode()
        return known[index]

    def decode_offsets(token_ids: Sequence[int]) -> tuple[str, np.ndarray]:
        pieces = [token_bytes(int(index)) for index in token_ids]
        text, character_at = _decode(b"".join(pieces))
        if text != tokenizer.decode(token_ids, skip_special_tokens=True):
            raise SegmentError("the tokenizer does not decode its tokens byte by byte; PA-GRPO cannot place them")
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(pieces)]
        return text, character_at[starts]

    return decode_offsets


def _decode(data: bytes) -> tuple[str, np.ndarray]:
    """Text of `data`, and for each byte, and the end, the number of the character that it belongs to."""
    marked = data.decode(errors="mark_invalid")
    codes = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    invalid = (codes >= _HEAD) & (codes <= _REST)
    sizes = np.where(invalid, 1, 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))
    numbers = np.cumsum(codes != _REST) - 1
    text = marked.replace(chr(_HEAD), "\ufffd").replace(chr(_REST), "")
    return text, np.append(np.repeat(numbers, sizes), len(text))


_HEAD, _REST = 0xD800, 0xD801  # surrogates, which no valid UTF-8 holds, stand for the bytes of an invalid piece


def _mark_invalid(error: UnicodeDecodeError) -> tuple[str, int]:
    return chr(_HEAD) + chr(_REST) * (error.end - error.start - 1), error.end


codecs.register_error("mark_invalid", _mark_invalid)


def _bytes_of_characters() -> dict[str, int]:
    """GPT-2's alphabet of byte-level BPE: printable Latin-1 bytes stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
